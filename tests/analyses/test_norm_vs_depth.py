"""The study of norms against depth: its models against closed forms, and its claims on a made-up table."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.core import study
from analyses.core.claims import judge
from analyses.core.results import Result
from analyses.glasses import norm_vs_depth as subject
from analyses.glasses.depth.born import NONE, NORMS, POST, PRE, born, hearing, layers
from toy_models.seeding import generator

SMALL = {
    **{
        "depths": (1, 2, 4),
        "slope_from": 2,
        "d_model": 8,
        "d_vocab": 6,
        "n": 6,
        "texts": 2,
        "draws": 2,
        "seeds": (0, 3),
    },
    **{"train.steps": 12, "train.warmup": 4, "train.batch_size": 2, "train_depth": 1, "task.n_ctx": 8},
}


@pytest.fixture
def small(tmp_path) -> subject.Config:
    for i in range(12):
        (tmp_path / f"{i}.py").write_text(f"def add_{i}(left, right):\n    return left + {i} * right\n" * 2)
    return study.configure(subject.Config, {**SMALL, "task.path": str(tmp_path)})


# The models at birth ------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_attention_averages_and_weights_have_the_variance_of_the_theorem(norm):
    model, tokens = born(norm, 2, 64, 12, 64, seed=0), torch.arange(12)[None]
    pattern = model.run_with_cache(tokens)[1]["pattern", 1][0, 0]
    uniform = torch.ones(12, 12).tril() / torch.arange(1, 13)[:, None]
    torch.testing.assert_close(pattern, uniform)
    for block in model.blocks:
        for weight in (block.attn.W_V, block.attn.W_O, block.mlp.W_in, block.mlp.W_out):
            assert weight.var().item() * 64 == pytest.approx(1, abs=5 * math.sqrt(2 / 64**2))
    assert model.W_E.var().item() == pytest.approx(1, abs=5 * math.sqrt(2 / 64**2))


def test_the_gradient_is_that_of_each_last_positions_loss_alone():
    model = born(POST, 2, 8, 6, 9, seed=1)
    found = layers(model, 3, seed=5)
    squares = torch.zeros(2, dtype=torch.float64)
    words = (("tokens", (3, 6)), ("targets", (3,)))
    tokens, targets = (torch.randint(9, size, generator=generator(5, word)) for word, size in words)
    for text, target in zip(tokens, targets, strict=True):
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(text[None])[0, -1], target).backward()
        squares += torch.stack([block.mlp.W_out.grad.double().square().sum() for block in model.blocks]) / 3
    torch.testing.assert_close(found.gradient, squares, rtol=1e-5, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_the_stream_is_the_sum_of_its_start_and_its_branches_where_no_norm_stands_behind(norm):
    model = born(norm, 3, 16, 5, 7, seed=2)
    found = layers(model, 2, seed=2)
    if norm == POST:
        torch.testing.assert_close(found.stream, torch.ones(3, dtype=torch.float64))
        assert (found.sum > 1).all()
    else:
        torch.testing.assert_close(found.stream, found.sum)
    assert found.mlp.shape == found.attention.shape == found.end.shape == (3,)


def test_a_token_without_others_hears_itself_alone():
    found = hearing(born(PRE, 2, 8, 1, 5, seed=0), 0)
    assert found["own"] == found["first"] == found["own_law"] == 1


def test_the_bound_is_told_where_the_theorem_has_one():
    kept = hearing(born(NONE, 2, 8, 6, 5, seed=0), 0)
    assert kept["held"] == 1
    assert kept["final"] == 1
    assert "held" not in hearing(born(POST, 2, 8, 6, 5, seed=0), 0)


# A run --------------------------------------------------------------------------------------------


def test_a_run_has_every_birth_and_training_and_is_the_same_again(small, monkeypatch):
    monkeypatch.setattr(subject, "run_jobs", lambda function, jobs, label: [function(job) for job in jobs])
    one, again = subject.run(small), subject.run(small)
    pd.testing.assert_frame_equal(one.table, again.table, check_exact=True)
    assert list(one.table) == list(subject.COLUMNS)
    assert len(one.table) == 4 * 3 * 2 + 4 * 2
    trained = one.table[one.table.warmup.notna()]
    assert trained.groupby("norm").warmup.unique().map(sorted).to_dict() == {POST: [0, 4], PRE: [0, 4]}
    losses = one.arrays["pre LN, no warm-up: loss (seed, step)"]
    assert losses.shape == (2, 12)
    row = trained[(trained.norm == PRE) & (trained.warmup == 0) & (trained.seed == 3)]
    assert row.loss.item() == pytest.approx(losses[1, -10:].mean(), rel=1e-6)
    assert one.arrays["no norm: stream (seed, layer)"].shape == (2, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": (4, 2)}, r"depths=\(4, 2\)"),
        ({"depths": (1, 8)}, "at least two from slope_from=4"),
        ({"d_model": 1}, "d_model=1"),
        ({"draws": 0}, "draws=0"),
        ({"train.warmup": 0}, "train.warmup=0"),
        ({"train.steps": 9}, "train.steps=9"),
        ({"seeds": (1000,)}, r"seeds=\(1000,\)"),
    ],
)
def test_impossible_configs_are_refused_in_one_line(changes, message):
    with pytest.raises(Exception, match=message) as caught:
        study.configure(subject.Config, changes)
    assert "\n" not in str(caught.value)


# The claims ---------------------------------------------------------------------------------------


def made_up(norm=None, depth=32, warmup=None, **changed) -> Result:
    """Power laws for which every claim holds, with some columns of one arm changed in seed 2."""
    rows = []
    for name, seed, L in ((n, s, d) for n in NORMS for s in range(3) for d in (1, 4, 8, 32)):
        pre = name not in (POST, NONE)
        row = {"norm": name, "seed": seed, "depth": L, "warmup": np.nan, "loss": np.nan}
        row |= {"stream": 1.0 + L, "end": float(L), "growth_low": 1.0, "growth_high": 1.0, "sum": 1.5}
        row |= {"last_gradient": L**-0.5 if pre else 1.0, "first_gradient": 1.0, "own_law": 2.0**-L}
        row |= {
            "own": 1 / (1 + L / 16) if pre else 2.0**-L,
            "own_bound": 10.0**-L,
            "held": np.nan if name == POST else 1.0,
        }
        rows.append(row)
    for name, seed, warm in ((n, s, w) for n in (PRE, POST) for s in range(3) for w in (0, 50)):
        loss = 2.4 if name == PRE else 3.0 - 0.004 * warm
        rows.append({"norm": name, "seed": seed, "depth": 12, "warmup": warm, "loss": loss})
    table = pd.DataFrame(rows)
    at = (table.norm == norm) & (table.seed == 2)
    at &= table.depth.eq(depth) & table.warmup.isna() if warmup is None else table.warmup.eq(warmup)
    for column, value in changed.items():
        table.loc[at, column] = value
    run = {"study": "norm_vs_depth", "config_hash": "0" * 12, "profile": "full", "config": {"slope_from": 4}}
    return Result(table, run=run)


def failing(result: Result) -> set[int]:
    return {at for at, claim in enumerate(subject.CLAIMS) if not judge("norm_vs_depth", claim, result).holds}


def test_all_claims_hold_on_a_table_where_they_should():
    assert failing(made_up()) == set()


@pytest.mark.parametrize(
    ("numbers", "change"),
    [
        ({0}, {"norm": PRE, "growth_low": 0.49}),
        ({1}, {"norm": PRE, "growth_high": 1.51}),
        ({2}, {"norm": POST, "sum": 1.7}),
        ({3, 4}, {"norm": PRE, "last_gradient": 5.0}),
        ({4}, {"norm": PRE, "end": 300.0}),
        ({5}, {"norm": "pre RMS", "last_gradient": 5.0}),
        ({6}, {"norm": POST, "last_gradient": 3.0}),
        ({7}, {"norm": PRE, "first_gradient": 4.0}),
        ({8}, {"norm": NONE, "own": 0.9}),
        ({9}, {"norm": PRE, "own": 0.1}),
        ({10}, {"norm": POST, "own": 1e-3}),
        ({11}, {"norm": NONE, "held": 0.99}),
        ({12}, {"norm": PRE, "own_bound": 0.01}),
        ({13}, {"norm": POST, "warmup": 50, "loss": 4.0}),
        ({14}, {"norm": PRE, "warmup": 50, "loss": 2.9}),
        ({15}, {"norm": PRE, "warmup": 0, "loss": 4.0}),
    ],
    ids=str,
)
def test_one_seed_that_is_far_off_fails_that_claim(numbers, change):
    assert numbers <= failing(made_up(**change)) <= numbers | {14}


def test_slopes_are_those_of_the_power_law():
    assert subject.slopes(made_up(), PRE, "last_gradient") == pytest.approx(np.full(3, -0.5))
