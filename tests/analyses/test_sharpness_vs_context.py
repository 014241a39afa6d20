"""The study of sharpness against context: its numbers against the pattern's own, and its claims on made-up tables."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.attention import sharpness_vs_context as subject
from analyses.attention.subjects import kernels
from analyses.attention.subjects.trained import Trained, trained_run
from analyses.core import study
from analyses.core.claims import judge
from analyses.core.results import Result
from toy_models.attention import attend
from toy_models.constructed import uniform_head
from toy_models.errors import ConfigError

SMALL = {
    **{"train.steps": 3, "train.batch_size": 2, "task.n_ctx": 16, "model.d_model": 16, "model.n_heads": 2},
    **{"lengths": (16, 24, 40), "texts": 2, "last_rows": 8, "exact_length": 20, "seeds": (0,)},
}
HEADS = 4  # two layers of two


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Twelve short sources to read, and a results' folder of the test's own."""
    monkeypatch.setenv("WORKBENCH_RESULTS", str(tmp_path / "results"))
    (tmp_path / "text").mkdir()
    for i in range(12):
        (tmp_path / "text" / f"{i}.py").write_text(f"def add_{i}(left, right):\n    return left + {i} * right\n" * 2)
    return tmp_path / "text"


def small(folder: Path, **changes) -> subject.Config:
    return study.configure(subject.Config, {**SMALL, "task.path": str(folder), **changes})


# What is measured ----------------------------------------------------------------------------------


@pytest.mark.parametrize("position", ["rope", "none"])
def test_a_length_has_the_numbers_of_a_text_that_ends_there(folder, position):
    """Against the pattern and the scores of the text cut short, in float64, by definition."""
    config = small(folder, **{"model.position": position})
    model = Trained(config).untrained(0).double()
    texts = torch.randint(257, (2, 40), generator=torch.Generator().manual_seed(0))
    by_text = [subject._statistics(model, text[None]) for text in texts]
    for length, layer in product(config.lengths, range(2)):
        found = subject._at_length([one[layer] for one in by_text], length, config.last_rows)
        with torch.no_grad():
            cache = model.run_with_cache(texts[:, :length])[1]
        p, s = cache["pattern", layer], cache["attn_scores", layer]
        keys = torch.arange(1, length + 1)
        entropy, squares = torch.special.entr(p).sum(-1), p.square().sum(-1)
        spread = s.amax(-1) - s.masked_fill(torch.isneginf(s), torch.inf).amin(-1)
        own = torch.arange(length)
        expected = {
            "keys": keys.double().expand_as(entropy),
            "entropy": entropy,
            "relative_entropy": entropy / keys.log(),
            "peak": p.amax(-1),
            "n_eff": 1 / squares,
            "sink_mass": p[..., 0],
            "self_mass": p[..., own, own],
            "previous_mass": torch.cat([0 * p[..., 0, :1], p[..., own[1:], own[:-1]]], dim=-1),
            "spread": spread,
            "peak_bound": (spread.exp() / keys).clamp(max=1),
        }
        for name, rows in expected.items():
            torch.testing.assert_close(found.pop(name), rows[..., -8:].mean((0, 2)), rtol=1e-9, atol=1e-11)
        excess = (p.amax(-1) * keys / spread.exp()).log().amax((0, 2))
        torch.testing.assert_close(found.pop("peak_excess"), excess, rtol=0, atol=1e-10)
        deficit = (keys.log() - spread - entropy).amax((0, 2))
        torch.testing.assert_close(found.pop("entropy_deficit"), deficit, rtol=0, atol=1e-10)
        assert not found


def test_uniform_attention_has_its_closed_forms():
    (found,) = subject._statistics(uniform_head(n_ctx=32), torch.randint(16, (1, 32)))
    values = subject._at_length([found], 32, 4)
    keys = torch.arange(29.0, 33.0, dtype=torch.float64)
    closed = {"entropy": keys.log(), "peak": 1 / keys, "n_eff": keys, "spread": 0 * keys, "peak_bound": 1 / keys}
    for name, rows in closed.items():
        assert values[name].item() == pytest.approx(rows.mean().item(), rel=1e-6, abs=1e-6)
    assert values["relative_entropy"].item() == pytest.approx(1, abs=1e-6)


def test_the_conditions_are_what_their_names_say(folder):
    config = small(folder)
    subjects = Trained(config)
    born, learned = subjects.untrained(0), subjects.trained(0)
    assert born.cfg.n_ctx == learned.cfg.n_ctx == 40
    for name, weight in trained_run(config, 0).model.state_dict().items():
        assert torch.equal(learned.state_dict()[name], weight)
    assert not torch.equal(born.blocks[0].attn.W_Q, learned.blocks[0].attn.W_Q)
    again = type(born)(born.cfg, seed=0)
    assert torch.equal(born.blocks[0].attn.W_Q, again.blocks[0].attn.W_Q)
    assert subject._statistics(subjects.uniform(0), torch.arange(40)[None])[0]["spread"].max() < 1e-6


def test_the_identities_hold_on_a_trained_models_own_queries_and_keys(folder):
    config = small(folder)
    model = Trained(config).trained(0)
    for error in subject._identities(model, torch.arange(20)[None]).values():
        assert error.shape == (2, 2)
        assert 0 < error.max() < 1e-12  # 0 would mean that one side was made from the other


def test_a_run_gives_a_row_per_head_and_length_and_the_same_again(folder, monkeypatch):
    monkeypatch.setattr(subject, "run_jobs", lambda function, jobs, label: [function(job) for job in jobs])
    one, again = subject.run(small(folder)), subject.run(small(folder))
    assert list(one.table) == list(subject.COLUMNS)
    counts = one.table.groupby("condition").size().to_dict()
    assert counts == {subject.TRAINED: 3 * HEADS, subject.UNTRAINED: 3 * HEADS, subject.UNIFORM: 3}
    assert one.table.notna().all(axis=None)
    pd.testing.assert_frame_equal(one.table, again.table, check_exact=True)
    assert {name: array.shape for name, array in one.arrays.items()} == {
        "entropy identity (seed, layer, head)": (1, 2, 2),
        "Renyi identity (seed, layer, head)": (1, 2, 2),
    }
    assert one.measured_with["text"]["digest"] == small(folder).task.text_digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.position": "alibi"}, "position=Alibi.*rope or none"),
        ({"model.window": 8}, "window=8"),
        ({"model.smeared_keys": True}, "smeared_keys=True"),
        ({"model.attn_scores_soft_cap": 5.0}, "attn_scores_soft_cap=5.0"),
        ({"model.normaliser": "log_n"}, "normaliser=LogN.*softmax"),
        ({"model.position": "none", "model.use_qk_norm": True}, "use_qk_norm=True"),
        ({"model.causal": False}, "causal=False"),
        ({"lengths": (24, 16)}, r"lengths=\(24, 16\)"),
        ({"lengths": (16,)}, r"lengths=\(16,\)"),
        ({"last_rows": 17}, "last_rows=17"),
        ({"exact_length": 41}, r"exact_length=41 lie in \[1, 40\]"),
        ({"texts": 0}, "texts=0"),
    ],
)
def test_impossible_configs_are_refused_in_one_line(folder, changes, message):
    with pytest.raises(Exception, match=message) as caught:
        small(folder, **changes)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__ or caught.value, ConfigError)


# On a GPU ------------------------------------------------------------------------------------------


def test_tritons_kernels_give_the_same_numbers_in_both_passes(folder, monkeypatch):
    model, text = Trained(small(folder)).untrained(0), torch.arange(40)[None]
    if reason := kernels.refused(model.cfg):
        pytest.skip(f"triton {reason}")
    expected = subject._statistics(model, text)
    turned = []
    monkeypatch.setattr(subject, "attend", lambda *of, **how: turned.append(attend(*of, **how)) or turned[-1])
    model.set_attention("triton")
    for layer, other in zip(subject._statistics(model, text), expected, strict=True):
        for name, rows in layer.items():
            torch.testing.assert_close(rows, other[name], rtol=1e-4, atol=1e-5)
    assert model.backends == ("triton", "triton")
    assert [one.backend for one in turned] == ["triton", "triton"]


@pytest.mark.parametrize(
    ("device", "named", "refused", "taken"),
    [
        ("cuda", "auto", None, "triton"),
        ("cpu", "auto", None, "auto"),  # the interpreter serves there, and is for tests
        ("cuda", "tiled", None, "tiled"),
        ("cuda", "auto", "has no heads as wide", "auto"),
    ],
)
def test_they_are_taken_on_a_gpu_that_they_serve_where_no_backend_was_named(monkeypatch, device, named, refused, taken):
    monkeypatch.setattr(kernels, "refused", lambda cfg: refused)
    model = uniform_head(n_ctx=8)
    model.set_attention(named)
    model.cfg = replace(model.cfg, device=device)
    assert kernels.with_kernels(model).cfg.attention == taken


def test_every_condition_of_a_run_is_measured_by_them(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(subject, "with_kernels", lambda model: seen.append(model) or model)
    subject._measure_seed((Trained(small(folder)), 0))
    assert len({id(model) for model in seen}) == len(subject.CONDITIONS)


# The claims ----------------------------------------------------------------------------------------

GROWTH = {subject.TRAINED: (0.6, -0.2, 0.1), subject.UNTRAINED: (1.0, -1.0, 0.0), subject.UNIFORM: (1.0, -1.0, 0.0)}


def made_up(where=None, value=None, array=None) -> Result:
    """Power laws of the context for which every claim holds, changed in seed 2 where the test says."""
    rows = []
    for condition, seed, layer, head, length in product(GROWTH, range(3), range(2), range(2), (256, 1024, 16384)):
        n_eff, peak, spread = (length**power for power in GROWTH[condition])
        row = {"condition": condition, "seed": seed, "layer": layer, "head": head, "length": length, "keys": length}
        row |= {"entropy": np.log(length), "relative_entropy": 1.0, "n_eff": n_eff, "peak": peak}
        row |= {"spread": 20 * spread, "peak_bound": 1 / length, "peak_excess": 0.0, "entropy_deficit": 0.0}
        rows.append(row)
    table = pd.DataFrame(rows)
    if where is not None:
        condition, length, column = where
        table.loc[(table.condition == condition) & (table.length == length) & (table.seed == 2), column] = value
    arrays = {f"{name} identity (seed, layer, head)": np.full((3, 2, 2), 1e-14) for name in ("entropy", "Renyi")}
    if array is not None:
        arrays[f"{array} identity (seed, layer, head)"][2, 1, 0] = 2e-12
    run = {"study": "sharpness_vs_context", "config_hash": "0" * 12, "profile": "full"}
    return Result(table, arrays, run=run)


def failing(result: Result) -> list[int]:
    verdicts = [judge("sharpness_vs_context", claim, result) for claim in subject.CLAIMS]
    return [at for at, verdict in enumerate(verdicts) if not verdict.holds]


def test_all_claims_hold_on_a_table_where_they_should():
    assert failing(made_up()) == []


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (0, {"where": (subject.UNTRAINED, 1024, "peak_excess"), "value": 2e-4}),
        (1, {"where": (subject.TRAINED, 1024, "entropy_deficit"), "value": 2e-4}),
        (2, {"array": "entropy"}),
        (3, {"array": "Renyi"}),
        (4, {"where": (subject.UNIFORM, 1024, "relative_entropy"), "value": 0.9999}),
        (5, {"where": (subject.UNIFORM, 1024, "n_eff"), "value": 1023}),
        (6, {"where": (subject.UNIFORM, 1024, "peak"), "value": 1 / 1023}),
        (7, {"where": (subject.UNTRAINED, 16384, "n_eff"), "value": 256 * 64**0.8}),
        (8, {"where": (subject.TRAINED, 16384, "n_eff"), "value": 256**0.6 * 64**0.95}),
        (9, {"where": (subject.TRAINED, 16384, "peak"), "value": 256**-0.2}),
        (10, {"where": (subject.TRAINED, 256, "spread"), "value": 20 * 16384**0.1}),
        (11, {"where": (subject.TRAINED, 16384, "spread"), "value": 13.0}),
    ],
)
def test_one_seed_that_misses_its_bound_fails_that_claim(number, change):
    assert number in failing(made_up(**change))
    assert set(failing(made_up(**change))) <= {number, 10}  # the spread at the end is also what its growth is read off


def test_exponents_are_those_of_the_power_law():
    found = subject.exponents(made_up(), subject.TRAINED, "n_eff")
    assert found.index.names == ["seed", "layer", "head"]
    assert found.to_numpy() == pytest.approx(np.full(12, 0.6))
