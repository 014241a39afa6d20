"""Counting and width: nets by hand count exactly, trained ones are the transformer they stand for, claims can fail."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyses.core import study
from analyses.core.claims import judge
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.counting import counting_vs_width as subject
from analyses.counting.widths.columns import CONSTRUCTED, EXACT, TRAINED, UNTRAINED, critical_widths
from analyses.counting.widths.constructed import FRAMES, ORTHOGONAL, RANDOM, SIMPLEX, counter, frame, readings
from analyses.counting.widths.layers import Layers, counted, fit, twin
from analyses.counting.widths.nets import guess
from toy_models.errors import TrainingError
from toy_models.seeding import generator
from toy_models.tasks.count_query import CountQuery
from toy_models.train import TrainConfig

SMALL = {"widths": (2, 4), "vocabularies": (3, 4), "train.steps": 2, "train.batch_size": 4, "test_texts": 16}


@given(m=st.integers(2, 9), spare=st.integers(0, 3), length=st.integers(1, 30), seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_orthogonal_tokens_and_a_simplex_are_counted_exactly(m, spare, length, seed):
    task = CountQuery(m, length, length)
    batch = task.sample(16, generator(seed))
    true = (batch.tokens[:, 1:-1] == batch.tokens[:, -1:]).sum(-1)
    for kind, least in ((ORTHOGONAL, m), (SIMPLEX, m - 1)):
        vectors = frame(kind, m, least + spare, seed)
        model = counter(task, vectors)
        held = readings(model, task, vectors, batch.tokens)
        torch.testing.assert_close(held, true.double(), rtol=0, atol=EXACT)
        assert torch.equal(model(batch.tokens)[:, -1, task.first_count :].argmax(-1), true)


@pytest.mark.parametrize(("m", "d"), [(5, 2), (8, 4), (12, 6)])
def test_random_tokens_hold_what_the_others_add(m, d):
    task, vectors = CountQuery(m, 20, 20), frame(RANDOM, m, d, seed=1)
    tokens = task.sample(32, generator(1)).tokens
    counts = torch.stack([(tokens[:, 1:-1] == token).sum(-1) for token in range(1, m + 1)], -1).double()
    expected = (counts * (vectors @ vectors.T)[tokens[:, -1] - 1]).sum(-1)
    held = readings(counter(task, vectors), task, vectors, tokens)
    torch.testing.assert_close(held, expected, rtol=0, atol=1e-9)
    assert (held - counts.gather(1, tokens[:, -1:] - 1)[:, 0]).abs().max() > 0.5


def test_frames_are_unit_vectors_with_the_products_of_their_name():
    for kind in FRAMES:
        vectors = frame(kind, 6, 7, seed=0)
        products = vectors @ vectors.T
        torch.testing.assert_close(products.diagonal(), torch.ones(6, dtype=torch.float64))
        off = products[~torch.eye(6, dtype=torch.bool)]
        if kind != RANDOM:
            torch.testing.assert_close(off, torch.full_like(off, {ORTHOGONAL: 0.0, SIMPLEX: -1 / 5}[kind]))
    with pytest.raises(WorkbenchError, match="d_model=4 has no room for the simplex frame of 6 tokens: take 5 or more"):
        frame(SIMPLEX, 6, 4, seed=0)


def test_what_is_trained_is_the_transformer_that_reads_the_tokens():
    task = CountQuery(5, 12, 12, most=6)
    layers = Layers(task, 8, 16, seeds=(3, 4))
    fit(layers, TrainConfig(steps=5, batch_size=8, warmup=0))
    batches = [task.sample(32, generator(seed)) for seed in (3, 4)]
    counts, query, answers = counted(task, batches)
    logits = layers(counts, query).detach()
    for at, batch in enumerate(batches):
        with torch.no_grad():
            read = twin(layers, at)(batch.tokens)[:, -1, task.first_count :]
        torch.testing.assert_close(read, logits[at], rtol=1e-4, atol=1e-5)
        assert torch.equal(answers[at] + task.first_count, batch.targets[:, -1])


def test_a_seed_learns_the_same_alone_and_beside_others():
    task, settings_ = CountQuery(4, 8, 8), TrainConfig(steps=4, batch_size=8, warmup=0, clip=1.0)
    alone, beside = Layers(task, 4, 8, seeds=(5,)), Layers(task, 4, 8, seeds=(7, 5))
    for layers in (alone, beside):
        fit(layers, settings_)
    for (name, one), (_, two) in zip(alone.named_parameters(), beside.named_parameters(), strict=True):
        torch.testing.assert_close(one[0], two[1], rtol=1e-5, atol=1e-6, msg=name)
    with torch.no_grad():
        alone.W_U.fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"the loss is nan at step 0: lower lr=0\.01"):
        fit(alone, settings_)


def test_the_best_guess_is_as_good_as_it_says():
    task = CountQuery(8, 32, 32, most=15)
    answers = task.sample(20000, generator(0)).targets[:, -1] - task.first_count
    share = (answers.bincount().max() / len(answers)).item()
    assert abs(share - guess(task)) < 5 * (0.25 / len(answers)) ** 0.5
    assert guess(CountQuery(2, 64, 64, most=5)) == pytest.approx(1.0, abs=1e-6)  # "5 or more" is nearly sure


def test_a_run_has_every_cell_before_and_after_and_the_same_bits_again():
    config = study.configure(subject.Config, {**SMALL, "seeds": (0, 1)})
    rows = subject._train_cell(config, 4, 2)
    assert rows == subject._train_cell(config, 4, 2)
    assert [(row["model"], row["seed"]) for row in rows] == [(UNTRAINED, 0), (UNTRAINED, 1), (TRAINED, 0), (TRAINED, 1)]
    hand = subject._construct_seed(config, 0)
    assert [(row["vocabulary"], row["d_model"], row["frame"]) for row in hand] == [
        *[(3, 2, SIMPLEX), (3, 3, ORTHOGONAL), (3, 4, ORTHOGONAL)],
        *[(4, 2, RANDOM), (4, 3, SIMPLEX), (4, 4, ORTHOGONAL)],
    ]
    for row in (*rows, *hand):
        assert set(row) | {"reading_error"} == set(subject.COLUMNS)


def made_up(exponent: float = 1.0, changed: dict | None = None) -> Result:
    """Trained accuracy rises by the logarithm of d / m^exponent and is 0.8 at d = m^exponent."""
    rows = []
    for seed in (10, 11, 12):
        for m in (4, 8, 16, 32):
            for d in (2, 4, 8, 16, 32, 64):
                accuracy = min(1.0, max(0.0, 0.8 + 0.15 * np.log2(d / m**exponent)))
                cell = {"model": TRAINED, "frame": "", "seed": seed, "vocabulary": m, "d_model": d, "guess": 0.2}
                rows.append(cell | {"accuracy": accuracy})
                hand = ORTHOGONAL if d >= m else SIMPLEX if d == m // 2 else RANDOM
                rows.append(cell | {"model": CONSTRUCTED, "frame": hand, "accuracy": 0.1, "reading_error": 1e-12})
    table = pd.DataFrame(rows)
    for (model, frame_, column), value in (changed or {}).items():
        table.loc[(table.model == model) & (table.frame == frame_) & (table.seed == 11), column] = value
    return Result(table, run={"study": "counting_vs_width", "config_hash": "0" * 12, "profile": "full"})


def failing(result: Result) -> list[int]:
    return [at for at, claim in enumerate(subject.CLAIMS) if not judge("counting_vs_width", claim, result).holds]


def test_critical_widths_are_where_the_accuracy_crosses():
    found = critical_widths(made_up().table)
    assert found.critical.to_numpy() == pytest.approx(found.vocabulary.to_numpy(), rel=1e-9)
    assert found.crossed.all()
    beyond = critical_widths(made_up().table.assign(accuracy=0.5))
    assert (beyond.critical == 64).all()
    assert not beyond.crossed.any()
    assert (critical_widths(made_up().table.assign(accuracy=0.9)).critical == 2).all()


def test_claims_hold_where_they_should_and_each_can_fail():
    assert failing(made_up()) == []
    assert failing(made_up(changed={(CONSTRUCTED, ORTHOGONAL, "reading_error"): 1e-8})) == [0]
    assert failing(made_up(changed={(CONSTRUCTED, SIMPLEX, "reading_error"): 1e-8})) == [1]
    assert failing(made_up(changed={(CONSTRUCTED, RANDOM, "accuracy"): 0.3})) == [2]
    assert 4 in failing(made_up(changed={(TRAINED, "", "accuracy"): 0.95}))
    assert 3 in failing(made_up(changed={(TRAINED, "", "accuracy"): 0.7}))
    assert failing(made_up(exponent=0.5))[-1] == 5


def test_what_cannot_be_run_is_refused_in_one_line():
    for changes, complaint in (
        ({"widths": (4, 2)}, r"widths=\(4, 2\) must be two or more whole numbers, rising"),
        ({"d_mlp": 8}, "d_mlp=8 must be 32 or more, a neuron for each token"),
    ):
        with pytest.raises(WorkbenchError, match=complaint) as caught:
            study.configure(subject.Config, changes)
        assert "\n" not in str(caught.value)
