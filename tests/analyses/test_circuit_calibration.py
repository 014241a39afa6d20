"""The study that calibrates: its claims hold, and an instrument or a model that is off makes the right ones fail."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch

from analyses.core.claims import judge
from analyses.core.results import Result
from analyses.induction import circuit_calibration as subject
from probes import ablation
from toy_models import views
from toy_models.constructed import induction_circuit

RUN = {"study": "circuit_calibration", "config_hash": "0" * 12, "profile": "custom"}
ONE = subject.Config(seeds=(7,))


def measure(config: subject.Config = ONE) -> Result:
    return replace(subject.run(config), run=RUN)


@cache
def measured() -> Result:
    return measure(subject.Config(**subject.QUICK))


def failing(result: Result) -> set[tuple[str, str]]:
    verdicts = {
        (one.instrument, one.quantity): judge("circuit_calibration", one.claim(), result) for one in subject.KNOWN
    }
    return {key for key, verdict in verdicts.items() if not verdict.holds}


@pytest.fixture
def edited(monkeypatch):
    """Measure with a circuit that was changed by hand."""

    def run(change) -> set[tuple[str, str]]:
        def circuit(config):
            model = induction_circuit(subject.V, subject.N, subject.BETA).double()
            with torch.no_grad():
                change(model)
            return model

        monkeypatch.setattr(subject, "_circuit", circuit)
        return failing(measure())

    return run


def test_every_claim_holds_on_the_quick_profile():
    assert len(subject.CLAIMS) >= 30
    assert {claim.kind for claim in subject.CLAIMS} == {"identity", "calibration"}
    assert failing(measured()) == set()


def test_every_row_has_its_seed_and_as_many_values_as_it_says():
    table = measured().table
    assert list(table.columns) == list(subject.COLUMNS)
    assert table.groupby("seed").size().tolist() == [len(subject.KNOWN)] * 2
    entries = table.set_index(["instrument", "quantity"]).entries
    assert (entries["composition", "K, the 15 other pairs"] == 15).all()
    assert (entries["patching", "previous-token head, elsewhere"] == 5).all()
    assert (entries["ablation", "loss, no induction head"] == 8 * 32).all()


def test_seeds_draw_other_texts_and_models_and_the_same_seed_the_same():
    table = measured().table.set_index(["seed", "instrument", "quantity"]).measured
    for name in (("views", "LayerNorm folded"), ("composition", "K, the 15 other pairs")):
        assert table[(0, *name)] != table[(1, *name)]
    again = measure(subject.Config(seeds=(1,))).table
    pair = measured().table[measured().table.seed == 1].reset_index(drop=True)
    assert again.equals(pair)


def test_the_circuit_hides_behind_other_heads_at_other_seeds():
    with torch.no_grad():
        assert len({tuple(subject._hidden(ONE, seed)[1]) for seed in range(8)}) > 3


def test_the_loss_goes_from_certainty_to_a_plateau_above_guessing_within_the_block():
    table = measured().table.set_index(["instrument", "quantity"])
    plateau = table.known["ablation", "loss, no previous-token head"]
    assert plateau.between(math.log(subject.PERIOD), math.log(subject.V)).all()
    assert (table.measured["ablation", "loss, nothing ablated"] < 1e-7).all()


# Claims that fail ---------------------------------------------------------------------------------


def test_a_key_that_also_reads_its_own_token_fails_in_the_weights_and_in_the_run(edited):
    token = torch.arange(subject.V)

    def change(model):
        model.blocks[1].attn.W_K[0, token, token] = 1.0

    found = edited(change)
    assert ("composition", "K, hidden pair") in found
    assert ("ablation", "loss, no previous-token head") in found
    assert ("patching", "previous-token head, after a") in found
    assert not any(name == "views" for name, _ in found)


def test_a_value_that_also_reads_the_previous_token_is_seen_by_value_composition(edited):
    token, previous = torch.arange(subject.V), subject.V + subject.N

    def change(model):
        model.blocks[1].attn.W_V[0, previous + token, token] = 0.5

    found = edited(change)
    assert ("composition", "Q and V, hidden pair") in found
    assert ("composition", "K, hidden pair") not in found


def test_a_circuit_that_is_one_part_in_a_million_too_strong_fails(edited):
    found = edited(lambda model: model.unembed.W_U.mul_(1 + 1e-6))
    assert ("in context", "whole circuit") in found
    assert ("logit attribution", "induction head, at a repeat") in found


def test_an_ablation_that_does_nothing_fails(monkeypatch):
    monkeypatch.setattr(ablation.Zero, "edits", lambda self, model, heads: [])
    assert failing(measure()) == {
        ("ablation", "loss, no previous-token head"),
        ("ablation", "loss, no induction head"),
        ("in context", "no induction head"),
    }


@pytest.mark.parametrize("view", ["fold_layer_norm", "centre_writing_weights"])
def test_a_view_that_changes_one_weight_by_a_billionth_fails(monkeypatch, view):
    honest = getattr(views, view)

    def off(model):
        found = honest(model)
        found.unembed.W_U[0, 0] += 1e-9
        return found

    monkeypatch.setattr(views, view, off)
    names = {"fold_layer_norm": ["LayerNorm folded", "RMSNorm folded"]}.get(view, ["writing weights centred"])
    assert failing(measure()) == {("views", name) for name in names}


def test_a_composition_that_hears_the_wrong_side_fails(monkeypatch):
    honest = subject.composition
    monkeypatch.setattr(subject, "composition", lambda model: replace(honest(model), k=honest(model).q))
    found = failing(measure())
    assert ("composition", "K, hidden pair") in found
    assert {name for name, _ in found} == {"composition"}


def test_a_path_into_other_inputs_than_those_named_fails(monkeypatch):
    honest, other = subject.path_patch, {"k": "v", "v": "k", "q": "q"}

    def mixed_up(*inputs):
        *rest, [(layer, head, letter)] = inputs
        return honest(*rest, [(layer, head, other[letter])])

    monkeypatch.setattr(subject, "path_patch", mixed_up)
    assert failing(measure()) == {("path patching", "into the keys"), ("path patching", "into the values")}
