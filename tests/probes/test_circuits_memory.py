"""Composition of a deep model: as much memory as that of a shallow one."""

import weakref

import pytest

from probes import circuits
from tests.probes.models import ours


@pytest.mark.parametrize("n_layers", [3, 6])
def test_composition_holds_the_factors_of_two_layers_at_a_time(monkeypatch, n_layers):
    made, alive, make = [], [], circuits._writer

    def counted(*weights):
        found = make(*weights)
        made.append(weakref.ref(found))
        alive.append(sum(one() is not None for one in made))
        return found

    monkeypatch.setattr(circuits, "_writer", counted)
    circuits.composition(ours(n_layers=n_layers))
    assert max(alive) <= 3 + 1 + 3  # the next three are made before the last ones are let go
