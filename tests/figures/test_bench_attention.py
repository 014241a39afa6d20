"""The benchmark's figure can be read and says what its table holds, whatever was left out of the run."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest

from analyses.attention.cost import rates
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


def result(without: tuple[str, ...] = (), longest: int = 16384) -> Result:
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
    run = {"study": "bench_attention", "config_hash": "0" * 12, "profile": "full", "device": "cpu", "gpu": None}
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


# On a GPU ------------------------------------------------------------------------------------------

# variant -> ratio to SDPA, MB at 1024 tokens, and the power of n that its memory grows with: made up, of no machine.
ON_A_GPU = {
    bench_attention.SDPA: (1.0, 2.0, 1),
    bench_attention.FLASH: (1.2, 2.1, 1),
    bench_attention.CUDNN: (0.9, 2.2, 1),
    bench_attention.MATH: (9.0, 50.0, 2),
    bench_attention.FUSED: (1.3, 2.3, 1),
    bench_attention.STATISTICS: (1.35, 2.6, 1),
    bench_attention.EAGER: (11.0, 60.0, 2),
    bench_attention.EAGER_STATISTICS: (20.0, 100.0, 2),
}
PRODUCT = 200.0  # TFLOP/s


def on_a_gpu(without: tuple[str, ...] = (), shortest: int = 1024, longest: int = 2**20) -> Result:
    """Made-up times: SDPA runs at half of the product's rate at every length."""
    lengths = [2**power for power in range(10, 21) if shortest <= 2**power <= longest]
    rows = []
    for (variant, (ratio, first, power)), n in product(ON_A_GPU.items(), lengths):
        if power == 1 or n <= 4096:
            sdpa_s = 2 * n**2 * 8 * 128 / (PRODUCT / 2 * 1e12)
            row = {"workload": "causal", "variant": variant, "n": n, "peak_mb": first * (n / 1024) ** power}
            rows += [
                row | {"seed": s, "ratio": r * ratio, "wall_s": sdpa_s * ratio} for s, r in enumerate((0.9, 1, 1.2))
            ]
    table = pd.DataFrame(rows)
    table = table[~table.variant.isin(without)]
    run = {"study": "bench_attention", "config_hash": "0" * 12, "profile": "full", "device": "cuda", "gpu": "a GPU"}
    run |= {
        "dtype": "bfloat16",
        "platform": "Linux x86_64, 2 cores",
        "versions": {"torch": "2.11.0"},
        "triton": "3.6.0",
    }
    run |= {"config": {"backend": "triton", "n_heads": 8, "d_head": 128, "window": 256}, "matmul": "bfloat16"}
    run |= {"left_out": {f"causal, {name}, {n}": "torch has no such kernel." for name in without for n in lengths}}
    pairs = np.outer(np.ones(len(lengths)), [1.04, 1.05, 1.08])
    arrays = {rates.MATMUL: np.array([190.0, 200.0, 220.0]), rates.LENGTHS: np.array(lengths)}
    return Result(table.sample(frac=1, random_state=0), arrays | {rates.OVER_OUTPUT_ONLY: pairs}, run=run)


SHORT = (bench_attention.EAGER, bench_attention.EAGER_STATISTICS, bench_attention.MATH)


@pytest.mark.parametrize("lengths", [(1024, 2**20), (1024, 16384), (2**19, 2**20), (2**20, 2**20)])
@pytest.mark.parametrize("without", [(), (bench_attention.CUDNN, bench_attention.FLASH)])
def test_the_figure_of_a_gpu_can_be_read(without, lengths, legible):
    legible(figure_for("bench_attention", {"bench_attention": on_a_gpu(without, *lengths)}))


def test_operations_per_second_stand_beside_the_matrix_product_of_the_same_run():
    figure = figure_for("bench_attention", {"bench_attention": on_a_gpu()})
    figure.draw_without_rendering()  # the axis on the right follows the left one
    axes = figure.axes
    lines = {line.get_label(): line for line in axes[2].lines}
    np.testing.assert_allclose(lines["SDPA"].get_ydata(), PRODUCT / 2)
    np.testing.assert_allclose(lines["triton + statistics"].get_ydata(), PRODUCT / 2 / 1.35)
    (guide,) = [line for line in axes[2].lines if np.allclose(line.get_ydata(), PRODUCT)]
    assert tuple(guide.get_xdata()) == axes[2].get_xlim()
    assert axes[2].get_xlim() == axes[0].get_xlim()
    (share,) = axes[2].child_axes
    assert share.get_ylim()[1] == pytest.approx(110)


def test_the_statistics_stand_over_the_same_kernel_and_over_the_fastest_of_torchs():
    axes = figure_for("bench_attention", {"bench_attention": on_a_gpu()}).axes
    lines = {line.get_label(): line for line in axes[3].lines}
    np.testing.assert_allclose(lines["over the same kernel without"].get_ydata(), 1.05)
    np.testing.assert_allclose(lines["over torch's fastest"].get_ydata(), 1.35 / 0.9)


def test_it_can_be_read_where_the_statistics_cost_nothing(legible):
    measured = on_a_gpu((bench_attention.CUDNN, bench_attention.FLASH))
    free = np.ones_like(measured.arrays[rates.OVER_OUTPUT_ONLY])
    table = measured.table.assign(ratio=1.0, wall_s=1e-3)
    made = replace(measured, table=table, arrays={**measured.arrays, rates.OVER_OUTPUT_ONLY: free})
    legible(figure_for("bench_attention", {"bench_attention": made}))


def test_the_caption_of_a_gpu_names_the_machine_and_reads_the_cost_where_it_is_asked_for():
    told = bench_attention.caption({"bench_attention": on_a_gpu()})
    assert "8 heads of 128, bfloat16, a GPU, torch 2.11.0, triton 3.6.0; 3 repetitions" in told
    assert "cores" not in told
    assert "TransformerLens" not in told
    assert "ran at 200 TFLOP/s" in told
    for n in (16384, 2**20):
        assert f"At {n} tokens, in TFLOP/s and as a share of that: triton + statistics 74 (37%); triton, output" in told
        assert f"1.05 (1.04 to 1.08) and 1.50 (1.50 to 1.50) (SDPA cuDNN) at {n} tokens" in told
    assert told.endswith("at 1048576 tokens.")


def test_the_caption_of_a_short_run_on_a_gpu_is_read_at_its_longest_and_says_what_is_missing():
    told = bench_attention.caption({"bench_attention": on_a_gpu((bench_attention.CUDNN, *SHORT), longest=4096)})
    assert "1.05 (1.04 to 1.08) and 1.35 (1.35 to 1.35) (SDPA) at 4096 tokens. Left out: causal, SDPA cuDNN" in told
    assert "causal, SDPA cuDNN at 1024, 2048, 4096 (torch has no such kernel); causal, eager at 1024, 2048, 40" in told
    assert "pattern" not in told
    assert "at 1048576 tokens" in bench_attention.caption({"bench_attention": on_a_gpu(shortest=2**20)})


def test_the_names_are_those_of_the_rates():
    names = (bench_attention.SDPA, bench_attention.FLASH, bench_attention.CUDNN, bench_attention.MATH)
    assert (names, bench_attention.STATISTICS) == (rates.TORCH_KERNELS, rates.STATISTICS)
