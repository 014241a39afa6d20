import pytest
import torch
from scipy.stats import chi2

from toy_models import tasks
from toy_models.errors import ConfigError
from toy_models.seeding import generator
from toy_models.tasks.fixed_period import FixedPeriod
from toy_models.tasks.repeated_blocks import BOS, RepeatedBlocks

VECTORS = ("linear_regression",)  # tasks whose tokens are vectors, not ids
TINY = RepeatedBlocks(d_vocab=7, n_ctx=10, shortest=2, longest=4, held_out=(3,))


@pytest.fixture(params=tasks.NAMES)
def task(request):
    return tasks.find(request.param)()


@pytest.fixture(params=[*("repeated_blocks", "fixed_period"), "tiny", "period 1", "one held-out period"])
def block_task(request):
    made = {"tiny": TINY, "period 1": TINY.at(1), "one held-out period": RepeatedBlocks().at(12)}
    return made[request.param] if request.param in made else tasks.find(request.param)()


def period_of(text: list[int]) -> int:
    """The distance at which the text, BOS taken off, repeats itself."""
    content = text[1:]
    return next(p for p in range(1, len(content)) if content[p:] == content[:-p])


def chi_square(counts: torch.Tensor) -> float:
    expected = counts.sum() / counts.numel()
    return ((counts - expected) ** 2 / expected).sum().item()


# Every task ---------------------------------------------------------------------------------------


def test_the_same_generator_gives_the_same_batch_and_another_seed_another(task):
    first, again, other = (task.sample(16, generator(seed, "data", 0)) for seed in (0, 0, 1))
    for name in ("tokens", "targets", "scored"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.tokens, other.tokens)


def test_a_generator_that_was_used_goes_on_to_another_batch(task):
    stream = generator(0, "data")
    assert not torch.equal(task.sample(16, stream).tokens, task.sample(16, stream).tokens)


def test_the_global_random_state_is_neither_read_nor_touched(task):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = task.sample(8, generator(0, "data"))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(first.tokens, task.sample(8, generator(0, "data")).tokens)


@pytest.mark.parametrize("n", [1, 13])
@pytest.mark.parametrize("name", [name for name in tasks.NAMES if name not in VECTORS])
def test_a_batch_has_n_texts_of_whole_numbers_within_the_vocabulary(name, n):
    task = tasks.find(name)()
    batch = task.sample(n, generator(0, "data"))
    width = batch.tokens.shape[1]  # of texts of many lengths: that of the longest drawn
    assert width <= task.n_ctx if hasattr(task, "longest") else width == task.n_ctx
    for ids in (batch.tokens, batch.targets):
        assert ids.shape == (n, width)
        assert ids.dtype == torch.int64
        assert ids.min() >= 0
        assert ids.max() < task.d_vocab
    assert batch.scored.shape == (n, width)
    assert batch.scored.dtype == torch.bool
    assert batch.scored.any(-1).all()  # every text asks something


@pytest.mark.parametrize("name", [name for name in tasks.NAMES if {"longest", "at"} <= set(dir(tasks.find(name)))])
def test_n_ctx_is_the_width_of_the_longest_text(name):
    task = tasks.find(name)()
    assert task.at(task.longest).sample(4, generator(0, "data")).tokens.shape == (4, task.n_ctx)


def test_an_unknown_task_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown task 'parity_of_nothing'.*repeated_blocks, fixed_period"):
        tasks.find("parity_of_nothing")


# Repeated blocks ----------------------------------------------------------------------------------


def test_bos_stands_first_and_only_there(block_task):
    tokens = block_task.sample(64, generator(0, "data")).tokens
    assert (tokens[:, 0] == BOS).all()
    assert (tokens[:, 1:] != BOS).all()


def test_targets_are_the_next_tokens(block_task):
    batch = block_task.sample(64, generator(0, "data"))
    assert torch.equal(batch.targets[:, :-1], batch.tokens[:, 1:])
    for text, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        longer = [*text, targets[-1]]
        assert longer[-1] == longer[-1 - period_of(text)]  # the last target goes on as the text did


def test_scored_is_where_an_earlier_occurrence_decides_the_answer_and_nowhere_else(block_task):
    batch = block_task.sample(64, generator(0, "data"))
    for text, targets, scored in zip(batch.tokens.tolist(), batch.targets.tolist(), batch.scored.tolist(), strict=True):
        for i, token in enumerate(text):
            earlier = [j for j in range(i) if text[j] == token]
            assert scored[i] == bool(earlier)
            # Every earlier occurrence gives the answer, the last one among them.
            assert {text[j + 1] for j in earlier} <= {targets[i]}


def test_tokens_within_a_block_are_distinct(block_task):
    for text in block_task.sample(64, generator(0, "data")).tokens.tolist():
        block = text[1 : 1 + period_of(text)]
        assert len(set(block)) == len(block)


def test_every_period_but_the_held_out_ones_is_drawn():
    task = RepeatedBlocks()
    drawn = {period_of(text) for text in task.sample(1000, generator(0, "data")).tokens.tolist()}
    assert drawn == set(task.periods) == set(range(4, 24)) - {7, 12, 17}


def test_periods_are_equally_likely():
    task, n = RepeatedBlocks(), 2000
    found = torch.tensor([period_of(text) for text in task.sample(n, generator(0, "data")).tokens.tolist()])
    counts = torch.tensor([(found == p).sum() for p in task.periods]).double()
    assert chi_square(counts) < chi2.ppf(1 - 1e-6, len(task.periods) - 1)


@pytest.mark.parametrize("period", [1, 7, 20, 46])
def test_at_gives_one_period_held_out_or_not(period):
    task = RepeatedBlocks().at(period)
    texts = task.sample(32, generator(0, "data")).tokens.tolist()
    assert {period_of(text) for text in texts if period < 24} <= {period}
    assert all(text[1 + period] == text[1] and text[1] not in text[2 : 1 + period] for text in texts)
    assert (task.d_vocab, task.n_ctx) == (65, 48)


def test_the_fixed_period_task_has_one_period():
    texts = FixedPeriod().sample(64, generator(0, "data")).tokens.tolist()
    assert {period_of(text) for text in texts} == {12}
    assert {period_of(text) for text in FixedPeriod().at(9).sample(8, generator(0, "data")).tokens.tolist()} == {9}


@pytest.mark.parametrize("position", [1, 2, 4])
def test_a_token_of_the_first_copy_tells_nothing_of_the_next(position):
    """No leak: the pairs (token, next token) of the first copy are uniform over the ordered pairs of distinct ones."""
    content, n = 6, 6000
    task = RepeatedBlocks(d_vocab=content + 1, n_ctx=10, shortest=5, longest=6, held_out=())
    tokens = task.sample(n, generator(0, "leak", position)).tokens
    pairs = (tokens[:, position] - 1) * content + tokens[:, position + 1] - 1
    counts = pairs.bincount(minlength=content**2).reshape(content, content).double()
    assert (counts.diagonal() == 0).all()
    distinct = counts[~torch.eye(content, dtype=torch.bool)]
    assert chi_square(distinct) < chi2.ppf(1 - 1e-6, distinct.numel() - 1)


def test_the_chi_square_notices_a_leak():
    counts = torch.full((30,), 200.0)
    counts[0] *= 2  # one pair in thirty twice as likely as the others
    assert chi_square(counts) > chi2.ppf(1 - 1e-6, 29)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"shortest": 0}, r"periods 0 to 23 must lie in \[1, 64\]"),
        ({"shortest": 9, "longest": 5}, "periods 9 to 5"),
        ({"d_vocab": 20}, r"periods 4 to 23 must lie in \[1, 19\]"),
        ({"n_ctx": 24}, "period of 23 leaves nothing to predict in n_ctx=24: n_ctx must be at least 25"),
        ({"shortest": 7, "longest": 7}, r"held_out=\(7, 12, 17\) leaves no period between 7 and 7"),
    ],
)
def test_periods_that_do_not_fit_are_refused_with_the_values(options, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        RepeatedBlocks(**options)
    assert "\n" not in str(caught.value)


def test_a_context_that_just_fits_still_scores_one_position():
    batch = RepeatedBlocks(n_ctx=25).at(23).sample(3, generator(0, "data"))
    assert batch.scored.sum(-1).tolist() == [1, 1, 1]
    with pytest.raises(ConfigError, match="a period of 24 leaves nothing"):
        RepeatedBlocks(n_ctx=25).at(24)
