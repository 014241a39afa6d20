"""The study of equalities: its claims hold, and a part that is off makes the right ones fail."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from analyses.core.claims import judge
from analyses.core.config import configure
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.currying import curry_exact as subject
from analyses.currying.exact import contexts, groups, methods, models
from probes.currying import registers, sink, solving
from probes.currying.oracle import Oracle
from probes.currying.reading import rows_in_common

RUN = {"study": "curry_exact", "config_hash": "0" * 12, "profile": "custom"}
SEED = 7


@cache
def measured() -> Result:
    return replace(subject.run(subject.Config(seeds=(SEED,))), run=RUN)


def failing(part, seed: int = SEED) -> set[tuple[str, str]]:
    """What is off in one part of the study, read anew: beyond its tolerance, or the same where it must differ."""
    found = part.read(seed)
    listed = {(one.instrument, one.quantity): one for one in subject.KNOWN}
    off = set()
    for name, pair in found.items():
        if name in subject.DIFFERENT:
            off |= {name} if not subject._row(seed, *name, *pair)["error"] >= subject.FAR else set()
        else:
            off |= {name} if not listed[name].row(seed, *pair)["error"] <= listed[name].tolerance else set()
    return off


def test_every_claim_holds_and_the_table_has_every_line():
    verdicts = [judge("curry_exact", claim, measured()) for claim in subject.CLAIMS]
    assert [verdict.sentence for verdict in verdicts if not verdict.holds] == []
    assert len(verdicts) == len(subject.KNOWN) + len(subject.DIFFERENT) >= 40
    assert {verdict.kind for verdict in verdicts} == {"identity", "calibration"}
    assert list(measured().table.columns) == list(subject.COLUMNS)
    assert (measured().table.must == "differ").sum() == len(subject.DIFFERENT) >= 6


def test_the_same_seed_gives_the_same_table_and_another_other_models():
    assert groups.read(SEED).keys() == groups.read(0).keys()
    one, again, other = (groups.read(seed)[groups.GROUPS, groups.COUNTS][0] for seed in (SEED, SEED, 0))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_no_weight_of_a_random_model_is_left_at_its_usual_value():
    for kind in models.KINDS:
        weights = dict(models.random(0, kind).named_parameters())
        assert all(weight.std() > 0.05 for weight in weights.values() if weight.numel() > 1), kind


def test_constant_queries_are_constant_and_scores_are_not():
    model = models.constant(0)
    queries = models.asked(model, 0)
    _, cache = model.run_with_cache(queries)
    for layer in range(2):
        q, scores = (cache[f"blocks.{layer}.attn.{name}"] for name in ("hook_q", "hook_attn_scores"))
        assert (q - q[:1, :1]).abs().max() < 1e-14
        assert scores[scores.isfinite()].std() > 0.1


def test_another_device_is_refused():
    with pytest.raises(WorkbenchError, match="device='cuda': float64 and its rounding are what is measured"):
        configure(subject.Config, {"device": "cuda"})


# Parts that are off -------------------------------------------------------------------------------


def test_a_key_that_is_a_billionth_off_fails_where_the_sink_is_exact(monkeypatch):
    honest = sink._key_change
    monkeypatch.setattr(sink, "_key_change", lambda *given: (1 + 1e-9) * honest(*given))
    found = failing(methods)
    assert {(methods.SINK, name) for name in ("logits", "entities", "BOS's score")} <= found
    assert {instrument for instrument, _ in found} == {methods.SINK}


def test_a_direction_that_bos_reads_too_much_of_fails(monkeypatch):
    honest = solving.reading_direction

    def off(*given):
        return (1 + 1e-9) * honest(*given)

    monkeypatch.setattr(solving, "reading_direction", off)
    monkeypatch.setattr(sink, "reading_direction", off)
    found = failing(methods)
    assert {(methods.ANY, "u . b"), (methods.SINK, "BOS's value"), (methods.SINK, "logits")} <= found


def test_an_oracle_that_forgets_a_token_fails_against_the_whole_text(monkeypatch):
    honest = Oracle._prefix

    def forgetful(self):
        self.text = torch.cat([self.text[:, :-1], self.text[:, :1]], dim=1)
        return honest(self)

    monkeypatch.setattr(Oracle, "_prefix", forgetful)
    found = failing(contexts)
    assert {(contexts.PREFIX, "cached, logits"), (contexts.PREFIX, "cached, entities")} <= found
    assert (contexts.GATES, "output = n + g (c - n)") not in found


def test_queries_that_do_not_differ_are_seen(monkeypatch):
    monkeypatch.setattr(methods, "differing", models.constant)
    assert failing(methods) == {(methods.SINK, methods.QUERIES_DIFFER)}


def test_slots_with_values_a_millionth_off_fail_and_grouped_keys_do_not(monkeypatch):
    honest = registers._values
    monkeypatch.setattr(registers, "_values", lambda *given: (1 + 1e-6) * honest(*given))
    assert failing(groups) == {(groups.SLOTS, "a slot per type: logits"), (groups.SLOTS, "a slot per type: entities")}


def test_no_query_that_is_held_out_is_fitted_on():
    model, met = models.random(0), 0
    for seed in range(40):
        drawn, held_out = models.asked(model, seed, "fit", 60), models.asked(model, seed)
        met += rows_in_common(drawn, held_out)
        assert not rows_in_common(models.fit(model, seed), held_out)
    assert met  # chance alone would not keep them apart
