"""Entropy against distinguishability: the bound as a law, rows against the pattern, claims, refusals."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyses.core import study
from analyses.core.claims import judge
from analyses.core.results import Result
from analyses.glasses import entropy_vs_distinguishability as subject
from toy_models import Transformer
from toy_models.errors import ConfigError

SMALL = {
    **{"shape.d_model": 16, "shape.n_heads": 2, "shape.d_vocab": 40, "length": 12, "temperatures": (0.25, 1.0)},
    **{"induction.d_model": 16, "induction.n_heads": 2, "train.steps": 3, "train.batch_size": 2, "train.warmup": 1},
    **{"texts": 2, "seeds": (0,)},
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RESULTS", str(tmp_path))
    monkeypatch.setattr(subject, "run_jobs", lambda function, jobs, label: [function(job) for job in jobs])


def small(**changes) -> subject.Config:
    return study.configure(subject.Config, {**SMALL, **changes})


# The bound -----------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 9), st.floats(0.01, 30))
def test_no_two_mixes_are_further_apart_than_the_bound(seed, n, spread):
    random = torch.Generator().manual_seed(seed)
    p, q = (torch.softmax(spread * torch.randn(2, 3, n, generator=random).double(), -1) for _ in "pq")
    v, w = (torch.randn(2, 3, n, 4, generator=random).double() for _ in "vw")
    found = subject.bound(p, q, v, w)
    apart = (subject.mix(p, v) - subject.mix(q, w)).norm(dim=-1)
    assert (apart <= found["bound"] + 1e-12 * found["largest"]).all()


def test_the_bound_is_met_by_opposite_values_and_by_moved_values():
    v = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])[None, None]
    p, q = (torch.tensor([[row]]) for row in ([0.75, 0.25], [0.25, 0.75]))
    assert subject.bound(p, q, v, v)["bound"] == (subject.mix(p, v) - subject.mix(q, v)).norm(dim=-1) == 1
    moved = v + torch.tensor([0.0, 3.0])
    found = subject.bound(p, p, v, moved)
    assert (found["moved"], found["drift"], found["bound"]) == (0, 3, 3)


# Rows ----------------------------------------------------------------------------------------------


def test_rows_are_those_of_the_pattern_written_out():
    config = small()
    table = subject.run(config).table
    assert list(table) == list(subject.COLUMNS)
    assert table.notna().all(axis=None)
    heads = 2 * 2 * 2 * 2  # layers, heads, texts, pairs
    assert table.groupby(["model", "temperature"]).size().tolist() == [heads] * 4 * 2
    _, model, first = next(subject._subjects(config, 0))
    scores, values = {}, {}
    second = subject._second(first, subject.REPEATED, 40)
    for name, tokens in (("first", first), ("second", second)):
        with torch.no_grad():
            cache = model.run_with_cache(tokens)[1]
        scores[name], values[name] = cache["attn_scores", 0][:, :, -1] / 0.25, cache["v", 0]
    p, q = (scores[name].softmax(-1) for name in ("first", "second"))
    z, y = (torch.einsum("bhk,bkhd->bhd", *pair) for pair in ((p, values["first"]), (q, values["second"])))
    rows = table[(table.model == subject.RANDOM) & (table.pair == "repeated") & (table.layer == 0)]
    rows = rows[rows.temperature == 0.25].sort_values(["text", "head"])
    expected = {
        "entropy": torch.special.entr(p).sum(-1),
        "distance": (z - y).norm(dim=-1),
        "new": q[..., -1],
        "moved": 2 * q[..., -1],
        "largest": values["second"].norm(dim=-1).amax(1),
    }
    for name, wanted in expected.items():
        assert rows[name].to_numpy() == pytest.approx(wanted.flatten().numpy(), rel=1e-9, abs=1e-14), name


def test_a_run_is_the_same_again_and_keeps_its_own_identities():
    one, again = subject.run(small()), subject.run(small())
    pd.testing.assert_frame_equal(one.table, again.table, check_exact=True)
    assert all(judge("x", claim, with_run(one.table)).holds for claim in subject.CLAIMS[:2])
    assert one.table.drift[one.table.layer == 1].max() > 0


def test_shuffled_norms_keep_directions_and_the_set_of_norms():
    v = torch.randn(1, 2, 7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = subject._shuffled_norms(v, 0)
    torch.testing.assert_close(torch.cosine_similarity(found, v, dim=-1), torch.ones(1, 2, 7).double())
    torch.testing.assert_close(found.norm(dim=-1).sort().values, v.norm(dim=-1).sort().values)
    assert not torch.equal(found.norm(dim=-1), v.norm(dim=-1))
    longer = torch.cat([v, v[:, :, -1:]], 2)
    assert subject._shuffled_norms(longer, 0).shape == longer.shape


def test_the_model_is_the_same_at_another_temperature_but_for_its_scores():
    model = Transformer(small().shape, seed=0)
    cooled = subject._at_temperature(model, 0.5)
    assert cooled.cfg == replace(model.cfg, attn_scale=model.cfg.attn_scale / 2)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in cooled.state_dict().items())


# Claims --------------------------------------------------------------------------------------------


def with_run(table: pd.DataFrame) -> Result:
    return Result(table, run={"study": "entropy_vs_distinguishability", "config_hash": "0" * 12, "profile": "full"})


def made_up() -> pd.DataFrame:
    """Distances that rise with entropy, or fall where the model has RoPE; the moved weight goes with them."""
    rows = []
    for model, pair, seed, layer, at in product(subject.MODELS, ("repeated", "middle"), (0, 1), (0, 1), range(8)):
        distance = float(8 - at if model == subject.ROTARY else at + 1)
        row = {"model": model, "pair": pair, "seed": seed, "layer": layer, "entropy": float(at), "shuffled": distance}
        row |= {"distance": distance, "moved": distance, "new": distance / 2, "drift": 0.0, "bound": 2 * distance}
        rows.append(row | {"largest": 2.0})
    return pd.DataFrame(rows)


def failing(table: pd.DataFrame) -> set[int]:
    verdicts = [judge("x", claim, with_run(table)) for claim in subject.CLAIMS]
    return {at for at, verdict in enumerate(verdicts) if not verdict.holds}


def test_all_claims_hold_where_they_should():
    assert failing(made_up()) == set()


@pytest.mark.parametrize(
    ("claims", "model", "layer", "column", "value"),
    [
        ({0}, subject.BORN, 1, "bound", 1e-3),
        ({1}, subject.RANDOM, 0, "new", 0.1),
        ({2}, subject.RANDOM, 0, "entropy", "turned"),
        ({3}, subject.ROTARY, 0, "entropy", "turned"),
        ({4}, subject.TRAINED, 1, "entropy", "turned"),
        ({5}, subject.ROTARY, 0, "moved", "turned"),
        ({6}, subject.ROTARY, 0, "shuffled", "turned"),
    ],
)
def test_another_table_fails_its_claim(claims, model, layer, column, value):
    table = made_up()
    here = (table.model == model) & (table.layer == layer) & (table.pair == "repeated")
    table.loc[here, column] = -table.loc[here, column] if value == "turned" else value
    found = failing(table)
    assert claims <= found
    # The entropy of a random model is in the claim about shuffled norms too, but not by a change of both.
    assert found <= claims | ({1} if column == "moved" else set())


def test_rank_correlation_is_that_of_the_heads_of_one_layer():
    table = made_up()
    table.loc[table.layer == 1, "distance"] = -table.loc[table.layer == 1, "distance"]
    assert subject.ranks(with_run(table), subject.RANDOM, "entropy").tolist() == pytest.approx([1, 1])
    assert subject.ranks(with_run(table), subject.RANDOM, "entropy", layer=1).tolist() == pytest.approx([-1, -1])
    assert np.isfinite(subject.ranks(with_run(table), subject.RANDOM, "entropy", layer=None)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 257}, r"length=257 must lie in \[3, n_ctx - 1 = 256\]"),
        ({"temperatures": (0.0, 1.0)}, r"temperatures=\(0.0, 1.0\) positive"),
        ({"texts": 0}, "texts=0 must be 1 or more"),
        ({"induction.n_ctx": 20}, "the task has n_ctx=33 and d_vocab=65: the induction model has 20"),
    ],
)
def test_impossible_configs_are_refused_in_one_line(changes, message):
    with pytest.raises(Exception, match=message) as caught:
        small(**changes)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__ or caught.value, ConfigError)
