"""Pools of chains: what is drawn is what is said, and the four ways are what their formulas say, counted by hand."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toy_models.errors import ConfigError, InputError
from toy_models.seeding import generator
from toy_models.tasks.chain_pool import BOS, WAYS, ChainPool

TINY = ChainPool(n_symbols=3, n_ctx=8, n_chains=4)
FRESH = ChainPool(n_symbols=3, n_ctx=8, n_chains=0)


def by_hand(task: ChainPool, name: str, text: list[int]) -> list[float]:
    """The formulas of the module, one symbol at a time."""
    seen, n, a = [token - 1 for token in text], task.n_symbols, task.concentration
    if name.endswith("inference"):
        if name.startswith("bigram") and not seen:
            return [1 / n] * n
        followers = [y for x, y in pairwise(seen) if x == seen[-1]] if name.startswith("bigram") else seen
        return [(followers.count(s) + a) / (len(followers) + n * a) for s in range(n)]
    weights = []
    for chain, still in zip(task.chains.tolist(), task.stationary.tolist(), strict=True):
        weight = 1.0
        for i, symbol in enumerate(seen):
            weight *= still[symbol] if name.startswith("unigram") else chain[seen[i - 1]][symbol] if i else 1 / n
        weights.append(weight)
    if name.startswith("bigram") and not seen:
        return [1 / n] * n
    rows = [still if name.startswith("unigram") else chain[seen[-1]]
            for chain, still in zip(task.chains.tolist(), task.stationary.tolist(), strict=True)]  # fmt: skip
    return [sum(w * row[s] for w, row in zip(weights, rows, strict=True)) / sum(weights) for s in range(n)]


@given(st.sampled_from(WAYS), st.lists(st.integers(1, 3), max_size=7), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_every_way_is_its_formula_after_every_symbol(name, text, source_seed):
    task = ChainPool(n_symbols=3, n_ctx=8, n_chains=4, source_seed=source_seed)
    found = task.way(name, torch.tensor([[BOS, *text]]))[0].exp()
    assert (found[:, BOS] == 0).all()
    for before in range(len(text) + 1):
        assert found[before, 1:].tolist() == pytest.approx(by_hand(task, name, text[:before]), rel=1e-9)


@pytest.mark.parametrize("task", [TINY, FRESH])
def test_exact_bayes_says_more_of_its_texts_than_every_other_way(task):
    batch = task.sample(4000, generator(0, "texts"))
    said = {name: None for name in WAYS if task.n_chains or name.endswith("inference")}
    for name in said:
        each = task.way(name, batch.tokens).gather(-1, batch.targets[..., None])[:, 1:, 0]
        said[name] = each.mean(1)
    best = "bigram retrieval" if task.n_chains else "bigram inference"
    assert torch.equal(task.predict(batch.tokens), task.way(best, batch.tokens))
    for name in said.keys() - {best}:
        gain = said[best] - said[name]
        assert gain.mean() > 5 * gain.std() / len(gain) ** 0.5  # by Gibbs's inequality it is positive


def test_texts_follow_their_chain():
    text = TINY.text(2, 4000, 6, generator(1, "texts")) - 1
    counts = torch.zeros(3, 3, dtype=torch.float64)
    for x, y in zip(text[:, :-1].flatten().tolist(), text[:, 1:].flatten().tolist(), strict=True):
        counts[x, y] += 1
    rows, n = counts / counts.sum(-1, keepdim=True), counts.sum(-1, keepdim=True)
    chain = TINY.chains[2]
    assert ((rows - chain).abs() <= 5 * (chain * (1 - chain) / n).sqrt() + 1e-9).all()


def test_the_first_symbol_is_not_scored_and_every_later_one_is():
    batch = TINY.sample(3, generator(0, "texts"))
    assert batch.scored.tolist() == [[False] + [True] * 7] * 3
    assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])


def test_a_pool_is_fixed_by_its_seed_and_its_rows_are_distributions():
    assert torch.equal(TINY.chains, ChainPool(n_symbols=3, n_ctx=20, n_chains=4).chains)
    assert not torch.equal(TINY.chains, ChainPool(n_symbols=3, n_chains=4, source_seed=1).chains)
    assert (TINY.chains.sum(-1) - 1).abs().max() < 1e-14
    assert (TINY.stationary @ TINY.chains - TINY.stationary[:, None]).diagonal().abs().max() < 1e-12


def test_a_larger_pool_begins_with_other_chains_only_if_its_seed_is_another():
    few, many = ChainPool(n_chains=4), ChainPool(n_chains=8)
    assert torch.equal(few.chains, many.chains[:4])


def test_the_posterior_finds_the_chain():
    text = TINY.text(1, 200, 7, generator(3, "texts"))
    posterior = TINY.posterior(torch.cat([torch.zeros(200, 1, dtype=torch.long), text], 1))
    assert torch.equal(posterior[:, 0], torch.full((200, 4), 0.25, dtype=torch.float64))
    assert posterior[:, -1, 1].mean() > posterior[:, 1, 1].mean() + 0.2


def test_what_cannot_be_is_one_line_with_the_value():
    with pytest.raises(ConfigError, match="concentration=0"):
        ChainPool(concentration=0.0)
    with pytest.raises(ConfigError, match="n_chains=0 has no pool"):
        FRESH.way("bigram retrieval", torch.tensor([[BOS, 1]]))
    with pytest.raises(InputError, match="unknown way 'guessing'"):
        TINY.way("guessing", torch.tensor([[BOS, 1]]))
    with pytest.raises(InputError, match="symbols 1 to 3"):
        TINY.predict(torch.tensor([[BOS, 4]]))
    with pytest.raises(InputError, match="chain=4"):
        TINY.text(4, 1, 3, generator(0, "texts"))
