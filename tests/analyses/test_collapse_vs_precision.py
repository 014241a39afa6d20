"""Collapse against precision: predictions, read-outs of every arm, claims, refusals and the command line."""

import math
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from analyses.core import study
from analyses.core.claims import judge
from analyses.core.cli import main
from analyses.core.results import Result
from analyses.glasses import collapse_vs_precision as subject
from analyses.glasses.pairs import models, one_head, precision_claims, texts
from probes import precision
from toy_models.errors import ConfigError

SMALL = {
    **{"shape.n_layers": 1, "shape.d_model": 16, "shape.n_heads": 2, "shape.n_ctx": 65},
    **{"longest": 32, "longest_summed": 16, "formats": ("bfloat16", "int8"), "seeds": (0,)},
}


@pytest.fixture(autouse=True)
def serial(monkeypatch):
    monkeypatch.setattr(subject, "run_jobs", lambda function, jobs, label: [function(job) for job in jobs])


def small(**changes) -> subject.Config:
    return study.configure(subject.Config, {**SMALL, **changes})


def settings_of(**changes) -> list[str]:
    values = {key: ",".join(value) if isinstance(value, tuple) else value for key, value in {**SMALL, **changes}.items()
              if key != "seeds"}  # fmt: skip
    return ["run", "collapse_vs_precision", "--seeds", "1", *(f"--set={key}={value}" for key, value in values.items())]


# Lengths -------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(3, 90), st.integers(3, 90), st.integers(3, 90))
def test_every_criterion_finds_its_own_threshold_and_asks_once(half, whole, answer):
    asked = []

    def readout(n):
        asked.append(n)
        return (1.0 if n >= whole else 0.5 if n >= half else 0.2), 1 / n, n >= answer

    found = {row["criterion"]: row for row in subject._lengths(readout, 3, 60, subject.CRITERIA)}
    wanted = {"half": min(half, whole), "all": whole, "answer": answer}
    for criterion, n in wanted.items():
        critical = found[criterion]["critical"]
        assert math.isnan(critical) if n > 60 else critical == n
        share = found[criterion]["held_share"]
        assert math.isnan(share) if n > 60 else share == 1 / n
    assert len(asked) == len(set(asked))


def test_roundoff_is_half_the_spacing_above_one():
    wanted = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float8_e4m3fn": 2.0**-4, "float8_e5m2": 2.0**-3}
    assert {name: precision_claims.roundoff(name) for name in wanted} == wanted
    assert math.isnan(precision_claims.roundoff("int8"))


@pytest.mark.parametrize(("text", "format"), [("ones", "bfloat16"), ("ones", "float32"), ("digits", "bfloat16")])
def test_the_prediction_for_one_head_is_right_within_a_factor_of_two_on_average(text, format):
    u, ratios = precision_claims.roundoff(format), []
    for seed in range(6):
        made = one_head.head(seed, 4096)
        n = round(subject.predicted(made, text, u))
        x, y = (made.last_v + z for z in one_head.closed_form(made, text, n if text == "ones" else min(n, 4096)))
        step = 2 * u * 2.0 ** x.abs().log2().floor()
        ratios.append(((x - y).abs() / step).median().item())  # half of a step where it is right
    assert 0.5 < 2 * float(np.exp(np.mean(np.log(ratios)))) < 2


# Read-outs -----------------------------------------------------------------------------------------


def test_a_readout_compares_what_the_unembedding_reads_under_its_arm():
    config = small()
    model = models.random_model(config.shape, models.NONE, 0)
    words = texts.own_words(32, 10, 32, 0)
    pair = [text := texts.text("ones", 20, words), texts.repeated(text)]
    with torch.no_grad(), precision.rounded_weights(model, "bfloat16"):
        x, y = (model.ln_final(model(tokens, stop_at_layer=1)[:, -1:])[0, 0] for tokens in pair)
        best = [model(tokens)[0, -1].argmax().item() for tokens in pair]
    arm = partial(precision.rounded_weights, model)
    found = subject._readout(model, arm, "bfloat16", words, "ones", 20)
    equal = (x.bfloat16() == y.bfloat16()).double().mean().item()
    assert found == (pytest.approx(equal), (x == y).double().mean().item(), best[0] == best[1])
    assert found[0] > found[1]  # float32 still tells what bfloat16 does not


def test_models_are_read_over_neighbouring_lengths(monkeypatch):
    shares = {20: (1.0, 0.5, True), 21: (0.0, 0.1, True), 22: (0.5, 0.0, False)}
    monkeypatch.setattr(subject, "_readout", lambda n: shares[n])
    assert subject._mean_readout(3, 20) == (pytest.approx(0.5), pytest.approx(0.2), False)
    assert subject._mean_readout(2, 20) == (pytest.approx(0.5), pytest.approx(0.3), True)


def test_rows_cover_arms_formats_and_criteria_and_the_model_is_left_on_its_own_backend():
    config = small()
    table = subject.run(config).table
    assert list(table) == list(subject.COLUMNS)
    counts = table.groupby(["subject", "arm", "format"]).size().to_dict()
    models_rows = {
        ("random model", arm, format): 6 for arm, format in product(("weights", "activations"), SMALL["formats"])
    }
    one = {("one head", "stored", format): 4 for format in SMALL["formats"]}
    assert counts == {**models_rows, **one, ("random model", "accumulation", "bfloat16"): 6}
    assert table.predicted.notna().sum() == 2  # half of the coordinates, bfloat16, both texts
    pd.testing.assert_frame_equal(table, subject.run(config).table, check_exact=True)
    model = models.random_model(config.shape, models.NONE, 0)
    list(subject._model_rows(config, model, subject.RANDOM, texts.own_words(32, 10, 32, 0), 0))
    assert model.cfg.attention == "auto"


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_checkpoint_is_measured_as_well(kind, request):
    directory = request.getfixturevalue(f"{kind}_directory")
    config = small(model=str(directory), prompt=4, longest=20, longest_summed=8, formats=("bfloat16",))
    table = subject.run(config).table
    assert table.groupby("subject").size()["checkpoint"] == 3 * 2 * 3
    assert config.files is not None


# Claims --------------------------------------------------------------------------------------------


def made_up() -> pd.DataFrame:
    """Lengths that follow the predictions."""
    rows = []
    for seed, format, text in product((0, 1), ("bfloat16", "float16", "float32"), ("ones", "digits")):
        u = precision_claims.roundoff(format)
        length = 3 * u**-0.5 if text == "ones" else 2 / u
        place = {"seed": seed, "format": format, "text": text, "roundoff": u, "longest": 10**9, "held_share": np.nan}
        head = {"subject": "one head", "arm": "stored", "criterion": "half", "critical": length, "predicted": length}
        rows.append(place | head)
        for arm, criterion in product(("weights", "activations"), ("half", "all", "answer")):
            late = length * (2 if arm == "activations" else 1)
            row = {"subject": "random model", "arm": arm, "criterion": criterion, "predicted": np.nan}
            critical = {"half": late, "all": 4 * late, "answer": 13}[criterion]
            rows.append(place | row | {"critical": critical, "held_share": 0.02 if criterion == "half" else np.nan})
    return pd.DataFrame(rows)


def failing(table: pd.DataFrame) -> set[int]:
    result = Result(table, run={"study": "collapse_vs_precision", "config_hash": "0" * 12, "profile": "full"})
    verdicts = [judge("collapse_vs_precision", claim, result) for claim in subject.CLAIMS]
    return {at for at, verdict in enumerate(verdicts) if not verdict.holds}


def test_all_claims_hold_where_they_should():
    assert failing(made_up()) == set()


@pytest.mark.parametrize(
    ("claims", "where", "column", "factor"),
    [
        ({0}, {"subject": "one head", "text": "ones", "format": "float32"}, "critical", 3.0),
        ({1}, {"subject": "one head", "text": "digits", "format": "float16"}, "critical", 1.8),
        ({2}, {"subject": "one head", "text": "ones"}, "predicted", 2.5),
        ({3}, {"subject": "one head", "text": "digits"}, "predicted", 0.3),
        ({4}, {"subject": "one head", "text": "ones", "format": "bfloat16"}, "critical", 2.2),
        ({5, 8}, {"subject": "random model", "text": "digits", "criterion": "half"}, "critical", 0.01),
        ({6}, {"criterion": "half", "arm": "weights"}, "held_share", 10.0),
        ({7}, {"arm": "activations", "text": "ones"}, "critical", 0.6),
        ({8}, {"criterion": "answer"}, "critical", 100.0),
    ],
)
def test_another_table_fails_its_claim(claims, where, column, factor):
    table = made_up()
    here = np.logical_and.reduce([table[name] == value for name, value in where.items()])
    table.loc[here, column] *= factor
    assert claims <= failing(table) <= claims | ({0} if 4 in claims else set())


def test_a_length_that_was_not_reached_counts_as_the_longest():
    table = made_up()
    late = (table.arm == "activations") & (table.criterion == "half")
    table.loc[late, ["critical", "longest"]] = [np.nan, 1024]
    found = precision_claims.lengths(Result(table), "random model", "activations", "ones", "half")
    assert (found == 1024).all(axis=None)


# Refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"formats": ("float12",)}, "unknown number format 'float12': choose among float32, bfloat16"),
        ({"longest": 65}, "longest=65 goes beyond n_ctx=65: the longest of 3 second texts has 68 tokens"),
        ({"longest_summed": 33}, "the second not above the first"),
        ({"longest_summed": 12}, r"must be prompt \+ 3 = 13 or more"),
        ({"every": 0}, "every=0"),
        ({"neighbours": 0}, "neighbours=0 be 1 or more"),
        ({"files": "0" * 12}, "files=000000000000 is not the sum of None"),
    ],
)
def test_impossible_configs_are_refused_in_one_line(changes, message):
    with pytest.raises(Exception, match=message) as caught:
        small(**changes)
    assert "\n" not in str(caught.value)


def test_a_checkpoints_table_of_positions_bounds_the_lengths(gpt2_directory):
    with pytest.raises(ConfigError, match="texts of 35 tokens go beyond the n_ctx=32 positions"):
        subject.run(small(model=str(gpt2_directory)))


def test_a_format_that_the_machine_lacks_is_one_line_on_the_command_line(monkeypatch, tmp_path):
    """torch has a name for four-bit numbers, and no cast to them."""
    monkeypatch.setitem(precision.FLOATS, "float4_e2m1fn", torch.float4_e2m1fn_x2)
    monkeypatch.setattr(precision, "FORMATS", (*precision.FORMATS, "float4_e2m1fn"))
    monkeypatch.setattr(subject, "roundoff", lambda format: 2.0**-2)
    asked = settings_of(formats="float4_e2m1fn")
    found = CliRunner().invoke(main, [*asked, "--results", str(tmp_path)])
    assert found.exit_code == 2
    (line,) = [line for line in found.output.splitlines() if line.startswith("workbench:")]
    assert "this machine cannot round to float4_e2m1fn on cpu" in line


def test_a_length_beyond_n_ctx_is_one_line_on_the_command_line(tmp_path):
    found = CliRunner().invoke(main, [*settings_of(longest=65), "--results", str(tmp_path)])
    assert found.exit_code == 2
    (line,) = [line for line in found.output.splitlines() if line.startswith("workbench:")]
    assert "longest=65 goes beyond n_ctx=65" in line
