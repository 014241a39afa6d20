"""A model of every kind that a probe serves: ours, a foreign module, and two bridges."""

import pytest

import toy_models
from tests.probes.clean_and_corrupt import perturbed
from tests.probes.models import HandWritten


@pytest.fixture(params=["ours", "hand-written", "bridge-gpt2", "bridge-llama"])
def any_model(request):
    if request.param == "ours":
        return perturbed()
    if request.param == "hand-written":
        return HandWritten(d_vocab=9)
    return toy_models.load(request.getfixturevalue(f"{request.param.removeprefix('bridge-')}_directory"))
