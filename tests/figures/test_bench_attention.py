"""The benchmark's figure can be read and says what its table holds, whatever was left out of the run."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.attention import bench_attention
from figures.draw import figure_for

# variant -> ratio to SDPA, MB at 1024 tokens, and the power of n that its memory grows with.
SHAPES = {
    bench_attention.SDPA: (1.0, 2.5, 1),
    bench_attention.TWICE: (2.04, 5.0, 1),
    bench_attention.FUSED: (1.4, 6.0, 1),
    bench_attention.STATISTICS: (1.45, 6.5, 1),
    bench_attention.LENS: (8.0, 100.0, 2),
    bench_attention.EAGER: (9.0, 101.0, 2),
    bench_attention.EAGER_STATISTICS: (17.0, 170.0, 2),
}


def result(without: tuple[str, ...] = (), longest: int = 16384, device: str = "cpu") -> Result:
    rows = []

    def add(workload, variant, n, ratio, peak):
        rows.extend(
            {"workload": workload, "variant": variant, "n": n, "seed": seed, "ratio": ratio * by, "peak_mb": peak}
            for seed, by in enumerate((0.9, 1.0, 1.2))
        )

    for variant, (ratio, first, power) in SHAPES.items():
        for n in 2 ** np.arange(10, 15):
            if n <= (longest if power == 1 else 4096):
                add("causal", variant, int(n), ratio, first * (n / 1024) ** power)
    for n in (4096, 8192):
        add("window", bench_attention.SDPA, n, 1.0, 80.0 * (n / 4096) ** 2)
        add("window", bench_attention.STATISTICS, n, 0.1, 25.0)
    for variant, peak in ((bench_attention.SDPA, 100), (bench_attention.STATISTICS, 120), (bench_attention.LENS, 1700)):
        add("model", variant, 4096, 1.0, peak)
    table = pd.DataFrame(rows)
    table = table[~table.variant.isin(without) & ~table.workload.isin(without)]
    run = {"study": "bench_attention", "config_hash": "0" * 12, "profile": "full", "device": device, "gpu": "a GPU"}
    run |= {"dtype": "float32", "platform": "Linux x86_64, 2 cores", "versions": {"torch": "2.13.0"}}
    run |= {"config": {"backend": "tiled", "n_heads": 8, "d_head": 64, "window": 256}}
    return Result(table.sample(frac=1, random_state=0), run=run)


@pytest.mark.parametrize("longest", [2048, 16384])
@pytest.mark.parametrize("without", [(), (bench_attention.LENS,), ("window", "model")])
def test_every_text_can_be_read_whatever_was_left_out(without, longest, legible):
    legible(figure_for("bench_attention", {"bench_attention": result(without, longest)}))


def test_the_lines_are_medians_and_every_repetition_is_a_point():
    measured = result()
    time = figure_for("bench_attention", {"bench_attention": measured}).axes[0]
    lines = {line.get_label(): line for line in time.lines}
    np.testing.assert_allclose(lines["tiled + statistics"].get_ydata(), 1.45)
    np.testing.assert_allclose(lines["tiled + statistics, window 256"].get_ydata(), 0.1)
    points = sum(len(line.get_xdata()) for line in time.lines if line.get_marker() == ".")
    assert points == (measured.table.workload != "model").sum()


def test_the_guides_have_slopes_one_and_two_and_enclose_what_was_measured():
    measured = result()
    memory = figure_for("bench_attention", {"bench_attention": measured}).axes[1]
    ends = [np.array(line.get_xydata()) for line in memory.lines if len(line.get_xdata()) == 2]
    slopes = [np.diff(np.log(line[:, 1]))[0] / np.diff(np.log(line[:, 0]))[0] for line in ends]
    assert sorted(np.round(slopes, 6)) == [0.0, 1.0, 2.0, 2.0]  # the window's two lines have two points each as well
    causal = measured.table[measured.table.workload == "causal"]
    low, high = (min(ends, key=lambda line: line[0, 1]), max(ends, key=lambda line: line[1, 1]))
    assert (causal.peak_mb > np.interp(causal.n, *low.T)).all()
    assert causal.peak_mb.max() < high[1, 1]


def test_the_caption_is_computed_from_the_table_and_its_run():
    told = bench_attention.caption({"bench_attention": result()})
    assert "8 heads of 64, float32, one thread of Linux x86_64, 2 cores, torch 2.13.0; 3 repetitions" in told
    assert "tiled takes 1.45 (1.30 to 1.74) at 16384 tokens" in told
    assert "the same statistics take 17.00 (15.30 to 20.40) at 4096 tokens" in told
    assert "TransformerLens's attention without them 8.00" in told
    assert "104 MB at 16384 tokens with every statistic" in told
    assert "the statistics take 0.10 (0.09 to 0.12) at 8192 tokens and 25 MB at 8192 tokens; SDPA 320 MB" in told
    assert told.endswith(
        "120 MB at 4096 tokens with every statistic, 100 MB at 4096 tokens on SDPA, "
        "1700 MB at 4096 tokens in TransformerLens."
    )


def test_the_caption_of_a_run_on_a_gpu_without_transformer_lens_names_neither_it_nor_a_processor():
    told = bench_attention.caption({"bench_attention": result((bench_attention.LENS,), device="cuda")})
    assert "a GPU, torch" in told
    assert "TransformerLens" not in told
    assert "cores" not in told
