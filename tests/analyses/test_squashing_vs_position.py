"""The study of sensitivity by position: constructed models, arms, checkpoints, and its claims on a made-up table."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import analyses.glasses.squashing.arms as arms
from analyses.core import study
from analyses.core.claims import judge
from analyses.core.results import Result
from analyses.glasses import squashing_vs_position as subject
from analyses.glasses.squashing.constructed import VOCABULARY, averaging, known
from analyses.glasses.squashing.subjects import Checkpoint, Trained, premise_missed
from probes.squashing import constants, path_bound, squashing
from toy_models.config import TransformerConfig
from toy_models.errors import ConfigError

SMALL = {
    **{"train.steps": 3, "train.batch_size": 2, "task.n_ctx": 16, "model.d_model": 8, "model.n_heads": 2},
    **{"model.n_layers": 2, "texts": 2, "lengths": (24, 30), "depth": 2, "window": 4, "sink": 3, "exact_tokens": 6},
    **{"seeds": (0, 3)},
}


@pytest.fixture
def text(tmp_path, monkeypatch) -> Path:
    """Twelve short sources, which the tiny tokenizers know too, and a results' folder of the test's own."""
    monkeypatch.setenv("WORKBENCH_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(subject, "run_jobs", one_by_one)
    (tmp_path / "text").mkdir()
    for i in range(12):
        (tmp_path / "text" / f"{i}.py").write_text(" ".join(f"w{2 + (i + k * (k + i)) % 21}" for k in range(60)))
    return tmp_path / "text"


def one_by_one(function, jobs, label):
    return [function(job) for job in jobs]


def small(text: Path, **changes) -> subject.Config:
    return study.configure(subject.Config, {**SMALL, "task.path": str(text), **changes})


def of_checkpoint(text: Path, directory: Path, **changes) -> subject.Config:
    kept = {name: value for name, value in SMALL.items() if not name.startswith("model.")}
    return study.configure(subject.Config, {**kept, "task.path": str(text), "model": str(directory), **changes})


# Known answers ------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(2, 20),
    depth=st.integers(1, 4),
    gain=st.floats(0.1, 2.0),
    options=st.one_of(
        st.just({}),
        st.builds(lambda w: {"window": w}, st.integers(1, 8)),
        st.builds(lambda k: {"sink": k}, st.integers(2, 9)),
    ),
)
def test_averaging_models_have_the_sensitivity_that_is_known_and_attain_the_bound(n, depth, gain, options):
    model, tokens = averaging(n, depth, gain, **options), torch.arange(n)[None] % VOCABULARY
    law = known(n, depth, gain, **options)
    assert (squashing(model, tokens, frozen=True).spectral[0] - law).abs().max() <= 1e-12 * law.max()
    assert (path_bound(*constants(model, tokens))[0] - law).abs().max() <= 1e-12 * law.max()
    assert law.sum().item() == pytest.approx((1 + gain) ** depth)


def test_a_sink_weighs_as_many_tokens_as_it_is_told():
    pattern = averaging(5, 1, 1.0, sink=4).run_with_cache(torch.zeros(1, 5, dtype=torch.long))[1]["pattern", 0][0, 0]
    assert pattern[-1].tolist() == pytest.approx([4 / 8] + [1 / 8] * 4)


def test_a_steep_score_changes_no_weight_but_what_a_token_does_through_the_softmax():
    tokens = torch.arange(9)[None] % VOCABULARY
    plain, steep = averaging(9, 2, 1.0), averaging(9, 2, 1.0, slope=100.0)
    fixed = [squashing(model, tokens, frozen=True).spectral for model in (plain, steep)]
    assert torch.equal(*fixed)
    assert (squashing(steep, tokens).spectral > 2 * fixed[0]).any()
    torch.testing.assert_close(squashing(plain, tokens).spectral, fixed[0])


def test_the_long_texts_law_is_off_by_what_a_wrong_depth_makes():
    found = known(512, 3, 1.0) / 8
    assert arms._limit_error(found, 3, 0.5) < 0.01
    assert arms._limit_error(found, 4, 0.5) > 0.1


def test_the_probe_equals_the_loop_and_a_wrong_loop_would_show(text, monkeypatch):
    row = arms.exact_arm(small(text), 0)[0][0]
    assert row["loop_error"] < 1e-13
    right = arms.jacobian
    monkeypatch.setattr(arms, "jacobian", lambda *args: right(*args, frozen=True))
    assert arms.exact_arm(small(text), 0)[0][0]["loop_error"] > 1e-6


# A run --------------------------------------------------------------------------------------------


def test_a_run_measures_every_arm_and_is_the_same_again(text):
    one, again = subject.run(small(text)), subject.run(small(text))
    pd.testing.assert_frame_equal(one.table, again.table, check_exact=True)
    assert list(one.table) == list(subject.COLUMNS)
    assert one.table.groupby("arm").size().to_dict() == {
        **{"uniform": 2, "uniform, 16 tokens": 4, "window": 1, "sink": 1, "steep scores": 1, "exactness": 1},
        **{"random values": 2, "untrained": 4, "trained": 4},
    }
    curve = one.arrays["trained: weights fixed (run, text, position)"]
    assert curve.shape == (2, 2, 16)
    rows = one.table[one.table.arm == "trained"].set_index(["seed", "text"])
    assert rows.loc[(3, 1), "last"] == pytest.approx(curve[1, 1, -1] / curve[1, 1].sum(), rel=1e-5)
    through = one.arrays["trained: through the softmax (run, text, position)"]
    bound = one.arrays["trained: bound (run, text, position)"]
    assert rows.loc[(0, 0), "furthest_above"] == pytest.approx((through / bound)[0, 0].max(), rel=1e-5)
    assert one.measured_with["bound"] == "theorem 5.1"


def test_the_gains_of_the_law_are_the_branch_over_the_stream(text):
    config = small(text, **{"model.normalization_type": None})
    model = Trained(config).model(arms.UNTRAINED, 0)
    whole = [(block.attn.W_V @ block.attn.W_O).sum(0).detach() for block in model.blocks]
    expected = [torch.linalg.matrix_norm(one).item() / 8**0.5 for one in whole]
    assert arms._gains(model, Trained(config).texts(0)) == pytest.approx(expected, rel=1e-5)


def test_gpt2_is_measured_beside_the_bound_and_an_untrained_twin(text, gpt2_directory):
    found = subject.run(of_checkpoint(text, gpt2_directory))
    rows = found.table[found.table.arm.isin(["trained", "untrained"])]
    assert len(rows) == 2 * 2 * 2
    assert (rows.held == 1).all()
    assert rows.furthest.between(0, 1, inclusive="neither").all()
    assert found.measured_with["bound"] == "theorem 5.1"
    subjects = Checkpoint(of_checkpoint(text, gpt2_directory))
    assert not torch.equal(subjects.model("trained", 0).W_E, subjects.model("untrained", 0).W_E)


def test_llama_has_sensitivities_and_no_bound_and_says_why(text, llama_directory):
    found = subject.run(of_checkpoint(text, llama_directory))
    rows = found.table[found.table.arm.isin(["trained", "untrained"])]
    assert rows.held.isna().all()
    assert rows.softmax_path.notna().all()
    assert found.measured_with["bound"] == "none: gated_mlp=True"
    held = next(claim for claim in subject.CLAIMS if "at or below the bound" in claim.sentence)
    assert set(held.measure(found)) == {1.0}  # of the arms that have one


def test_a_text_beyond_the_context_is_refused_in_one_line(text, gpt2_directory):
    with pytest.raises(ConfigError, match=r"task\.n_ctx=4096 goes beyond the context") as caught:
        Checkpoint(of_checkpoint(text, gpt2_directory, **{"task.n_ctx": 4096}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "missed"),
    [
        ({}, None),
        ({"gated_mlp": True}, "gated_mlp=True"),
        ({"parallel_attn_mlp": True}, "parallel_attn_mlp=True"),
        ({"norm_position": "post"}, "norm_position=post"),
        ({"gated_attention": True}, "gated_attention=True"),
    ],
)
def test_the_premise_that_a_model_misses_is_named(options, missed):
    size = {"n_layers": 1, "n_heads": 1, "d_model": 4, "d_vocab": 5, "n_ctx": 6}
    assert premise_missed(TransformerConfig(**size, **options)) == missed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": 0}, "texts=0"),
        ({"lengths": ()}, r"lengths=\(\)"),
        ({"window": 1}, "window=1"),
        ({"lengths": (64,)}, "sink=64"),
        ({"files": "abc"}, "files=abc is not the sum"),
    ],
)
def test_impossible_configs_are_refused_in_one_line(changes, message):
    with pytest.raises(Exception, match=message) as caught:
        study.configure(subject.Config, changes)
    assert "\n" not in str(caught.value)


# The claims ---------------------------------------------------------------------------------------

ROWS = {
    "uniform": {"n": 2048, "law_error": 1e-15, "limit_error": 1e-3},
    "window": {"law_error": 1e-15, "beyond": 0.0},
    "random values": {"random_ratio": 1.0, "identity_ratio": 0.27, "held": 1.0},
    "steep scores": {"above": 1.0, "held": 1.0},
    "untrained": {"late": 0.1, "first": 0.03, "held": 1.0},
    "trained": {"late": 0.3, "first": 0.01, "held": 1.0, "above": 0.0, "furthest_above": 0.03, "softmax_path": 1.4},
    "exactness": {"loop_error": 1e-15},
}


def made_up(arm=None, depth=None, **changed) -> Result:
    rows = [{"arm": name, "seed": s, "n": 512, "depth": 4} | row for name, row in ROWS.items() for s in (10, 11)]
    deep = [{"depth": d, "first": share, "law_error": 1e-15} for d, share in subject.PRINTED.items()]
    rows += [{"arm": "uniform, 16 tokens", "seed": 10, "n": 16} | row for row in deep]
    table = pd.DataFrame(rows).reindex(columns=list(subject.COLUMNS))
    at = table.arm.eq(arm) & (table.depth.eq(depth) if depth else table.seed.eq(table[table.arm.eq(arm)].seed.max()))
    for column, value in changed.items():
        assert at.any()
        table.loc[at, column] = value
    return Result(table, run={"study": "squashing_vs_position", "config_hash": "0" * 12, "profile": "full"})


def failing(result: Result) -> list[int]:
    claims = enumerate(subject.CLAIMS)
    return [at for at, claim in claims if not judge("squashing_vs_position", claim, result).holds]


def test_all_claims_hold_on_a_table_where_they_should():
    assert failing(made_up()) == []


@pytest.mark.parametrize(
    ("numbers", "change"),
    [
        ([0], {"arm": "window", "law_error": 1e-9}),
        ([1], {"arm": "window", "beyond": 1e-16}),
        ([2], {"arm": "uniform", "limit_error": 6e-3}),
        ([3, 4], {"arm": "uniform, 16 tokens", "depth": 64, "first": 0.99}),
        ([4], {"arm": "uniform, 16 tokens", "depth": 8, "first": 0.57}),
        ([5], {"arm": "random values", "random_ratio": 1.07}),
        ([6], {"arm": "random values", "identity_ratio": 0.6}),
        ([7], {"arm": "untrained", "held": 0.999}),
        ([8], {"arm": "steep scores", "above": 0.9}),
        ([9], {"arm": "trained", "above": 0.01}),
        ([10], {"arm": "trained", "furthest_above": 0.2}),
        ([11], {"arm": "trained", "softmax_path": 1.1}),
        ([12], {"arm": "trained", "late": 0.12}),
        ([13], {"arm": "trained", "first": 0.03}),
        ([14], {"arm": "exactness", "loop_error": 1e-11}),
    ],
    ids=str,
)
def test_one_seed_that_misses_its_bound_fails_that_claim(numbers, change):
    assert failing(made_up(**change)) == numbers


def test_a_column_is_read_where_an_arm_has_it():
    assert subject._of("softmax_path")(made_up()) == [1.4, 1.4]
    assert np.isnan(made_up().table.softmax_path).any()
