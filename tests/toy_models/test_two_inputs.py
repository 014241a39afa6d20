"""Two small machines, and softmax that asks every text the same: what a context leaves behind is exact."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toy_models.constructed import constant_queries
from toy_models.errors import ConfigError, InputError
from toy_models.seeding import generator
from toy_models.two_inputs import BOS, Bilinear, Recurrent

SEEDS = st.integers(0, 50)


def draw(seed: int, *shapes):
    stream = generator(seed, "two inputs")
    return [torch.randn(*shape, generator=stream, dtype=torch.float64) for shape in shapes]


def texts(seed: int, *shape: int, d_vocab: int = 8) -> torch.Tensor:
    return torch.randint(1, d_vocab, shape, generator=generator(seed, "texts"))


@given(seed=SEEDS)
def test_the_two_input_model_is_its_tensor_times_both(seed):
    weight, x, y = draw(seed, (3, 5, 4), (4,), (6, 4))
    expected = torch.einsum("abc,b,nc->na", weight, torch.cat([torch.ones(1).double(), x]), y)
    assert (Bilinear(weight)(y, x) - expected).abs().max() <= 1e-12


@given(seed=SEEDS)
def test_currying_it_is_exact_and_contexts_add(seed):
    weight, x, x2, y = draw(seed, (3, 5, 4), (4,), (4,), (6, 4))
    model = Bilinear(weight)
    once = model.curried(x)
    assert torch.equal(once(y), model(y, x))
    assert (once.curried(x2)(y) - model(y, x + x2)).abs().max() <= 1e-12
    assert torch.equal(model.weight, weight)
    assert torch.equal(once.weight[:, 1:], weight[:, 1:])


@given(seed=SEEDS, n=st.integers(0, 30))
def test_the_start_tokens_column_takes_a_context_of_the_recurrent_net(seed, n):
    model, context, queries = Recurrent(seed=seed), texts(seed, n), texts(seed + 1, 3, 7)
    before = deepcopy(model.state_dict())
    curried = model.curried(context)
    expected = model(torch.cat([context.expand(3, -1), queries], 1))[:, n:]
    assert (curried(queries) - expected).abs().max() <= 1e-12
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    change = (curried.U - model.U).detach()
    assert (change[:, BOS + 1 :] == 0).all()  # rank one: one column
    assert torch.equal(curried.W, model.W)


def test_a_context_changes_what_the_recurrent_net_says():
    model, queries = Recurrent(), texts(1, 3, 2)
    assert (model.curried(texts(0, 10))(queries) - model(queries)).abs().max() > 0.05


@pytest.mark.parametrize("token", [BOS, 8, -1])
def test_tokens_that_the_recurrent_net_has_no_column_for_are_refused(token):
    with pytest.raises(InputError, match=r"token ids must lie in \[1, 8\)"):
        Recurrent()(torch.tensor([[1, token]]))


def test_a_size_below_one_is_refused():
    with pytest.raises(ConfigError, match="d_state=0 must be at least 1"):
        Recurrent(d_state=0)


@pytest.mark.parametrize("layer", [0, 1])
def test_softmax_with_constant_queries_scores_a_key_the_same_for_every_query_of_every_text(layer):
    model, tokens = constant_queries(), torch.cat([texts(0, 2, 30, d_vocab=12), texts(1, 2, 30, d_vocab=12)])
    tokens[:, :10] = tokens[:1, :10]
    _, cache = model.run_with_cache(tokens)
    scores, pattern = cache["attn_scores", layer], cache["pattern", layer]
    own = scores.diagonal(dim1=-2, dim2=-1)[..., None, :].expand_as(scores)
    seen = ~scores.isneginf()
    assert (scores[seen] - own[seen]).abs().max() <= 1e-12
    assert (scores[0, :, -1, :10] - scores[3, :, -1, :10]).abs().max() <= 1e-12
    assert pattern[:, :, -1].max() > 2 / 30  # and attention is not just the mean
