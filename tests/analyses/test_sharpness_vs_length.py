"""The study of retrieval against length: its numbers against the net's own and closed forms; claims on made-up data."""

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from analyses.core import study
from analyses.core.claims import judge
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.glasses import sharpness_vs_length as subject
from analyses.glasses.retrieval import claims, nets, scores
from tests.toy_models.item_nets import largest_priority_head
from toy_models.normalisers.adaptive import Adaptive, beta
from toy_models.normalisers.log_n import LogN
from toy_models.normalisers.softmax import Softmax
from toy_models.seeding import generator
from toy_models.set_retrieval import SetRetrieval
from toy_models.tasks.item_sets import MaxRetrieval, Needle

SMALL = {
    **{"train.steps": 2, "model.d_model": 8, "model.d_mlp": 8, "lengths": (16, 24, 40), "sets": 16, "items": 640},
    **{"margin_lengths": (4, 9), "margins": (0.5, 2.0), "s_times_margin": (0.5, 1.0, 2.0), "seeds": (0, 3)},
}


def small(**changes) -> subject.Config:
    return study.configure(subject.Config, {**SMALL, **changes})


# The nets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [MaxRetrieval(), Needle()])
def test_each_column_is_what_the_net_gives_with_that_normaliser(task, monkeypatch):
    """Set by set, through the forward pass, where the study scores once for all; in two pieces and a rest."""
    monkeypatch.setattr(nets, "ITEMS_AT_ONCE", 2 * 30)
    net = largest_priority_head(25.0)
    found = nets.measure(net, task.at(30), 5, generator(0, "test"), unchanged_at=16)
    stream = generator(0, "test")
    batches = [task.at(30).sample(some, stream) for some in (2, 2, 1)]
    specs = {"softmax": Softmax(), "adaptive": Adaptive(), "log_n": LogN(1 / math.log(16))}
    for name, spec in specs.items():
        net.blocks[0].attn.normaliser = spec
        right, weight, entropy = [], [], []
        for batch in batches:
            logits, cache = net.run_with_cache(batch.tokens)
            p = cache["blocks.0.attn.hook_pattern"][:, 0, 0]
            right += (logits.argmax(-1) == batch.targets)[:, 0].tolist()
            weight += p.gather(1, batch.places[:, None])[:, 0].tolist()
            entropy += (-(p * p.log()).nansum(-1)).tolist()
        assert found[name]["accuracy"] == pytest.approx(np.mean(right), abs=1e-12)
        assert found[name]["target_weight"] == pytest.approx(np.mean(weight), rel=1e-5)
        assert found[name]["entropy"] == pytest.approx(np.mean(entropy), rel=1e-4, abs=1e-6)


def test_a_head_that_ranks_right_loses_to_dispersion_alone_and_a_blind_one_to_ranking():
    """Scores in the right order: the hard-max never errs.  All scores equal: the hard-max is softmax."""
    right = nets.measure(largest_priority_head(3.0), MaxRetrieval().at(64), 200, generator(0), unchanged_at=16)
    assert right["hard_max"]["accuracy"] == 1.0
    assert right["softmax"]["ranking"] == 0.0
    assert right["softmax"]["dispersion"] == pytest.approx(1 - right["softmax"]["accuracy"])
    assert right["softmax"]["accuracy"] < right["log_n"]["accuracy"] < 1
    blind = nets.measure(largest_priority_head(0.0), MaxRetrieval().at(64), 200, generator(0), unchanged_at=16)
    assert blind["softmax"]["dispersion"] == 0.0
    assert blind["softmax"]["entropy"] == pytest.approx(math.log(64), rel=1e-6)
    assert blind["softmax"]["spread"] == 0.0
    assert blind["softmax"]["peak_excess"] == pytest.approx(0, abs=1e-6)


def test_the_dead_zones_lie_outside_the_roots_of_the_fit_and_close_to_them():
    below, above = (torch.tensor(edge, dtype=torch.float64) for edge in (nets.DEAD_BELOW, nets.DEAD_ABOVE))
    assert beta(below) == beta(above) == 1
    assert beta(below + 2e-4) > 1
    assert beta(above - 2e-4) > 1


def test_rows_in_the_dead_zones_are_counted_and_a_change_among_them_too():
    rows = torch.zeros(3, 1, 1, 500)
    rows[1, ..., 0] = 20.0  # one key
    rows[2, ..., :3] = 9.0  # three keys: in the range of the fit
    found = nets.per_set(rows, Adaptive()(rows, torch.ones(1, 1, 1, 500, dtype=torch.bool)))
    assert found["dead_above"].tolist() == [True, False, False]
    assert found["dead_below"].tolist() == [False, True, False]
    assert found["changed"].tolist() == [False, False, True]
    assert not found["dead_changed"].any()
    other = nets.per_set(rows, (1.01 * rows).softmax(-1))
    assert other["dead_changed"].tolist() == [False, True, False]  # 1.01 times 0 is 0


# Scores set by hand --------------------------------------------------------------------------------


def test_the_limit_of_bounded_scores_is_that_of_the_law_of_large_numbers():
    mean = quad(lambda s: math.exp(s) / 8, -4, 4)[0]
    assert pytest.approx(math.exp(4) / mean, rel=1e-9) == scores.BOUNDED_LIMIT


def test_bounded_scores_approach_it_and_stay_under_the_bound():
    config = small(lengths=(16, 4096), items=2**20)
    rows = pd.DataFrame(scores.bounded(config, 0))
    last = rows[(rows.length == 4096) & (rows.normaliser == "softmax")].iloc[0]
    # One row's sum of 4096 exponentials is off by 3^(1/2) / 64, and 256 rows average it.
    assert last.length * last.peak == pytest.approx(scores.BOUNDED_LIMIT, rel=5 * 3**0.5 / 64 / 16)
    assert rows.peak_excess.dropna().max() < 0
    assert last.dead_above == 256
    assert rows[rows.normaliser == "adaptive"].dead_changed.sum() == 0


@given(n=st.integers(2, 3000), margin=st.floats(0.1, 3), product_=st.floats(0.1, 3))
def test_among_equal_distractors_the_weight_is_the_closed_form(n, margin, product_):
    weight = scores.needle_weight(torch.zeros(1, n, dtype=torch.float64), margin, product_ / margin, above=0.0)
    assert weight == pytest.approx(scores.closed_form(scores.EQUAL, n, margin, product_), rel=1e-10)


@given(n=st.integers(3, 10**6), product_=st.floats(0.1, 3))
def test_s_times_the_margin_decides_whether_more_distractors_help(n, product_):
    """Equal distractors: more than half the weight above 1; at 1 an n-th of a distractor is missing for a half."""
    weight = scores.closed_form(scores.EQUAL, n, 1.0, product_)
    if product_ >= 1:
        assert weight > 0.5
    if product_ < 1 + math.log((n - 1) / n) / math.log(n) - 1e-9:
        assert weight < 0.5


@pytest.mark.parametrize(("product_", "margin"), [(0.5, 0.5), (1.0, 0.5), (1.0, 2.0), (1.5, 1.0)])
def test_among_uniform_distractors_the_weight_tends_to_the_closed_form(product_, margin):
    n, sets = 50_000, 8
    others = torch.rand(sets, n, generator=generator(0), dtype=torch.float64)
    weight = scores.needle_weight(others, margin, product_ / margin, above=1.0)
    slope = product_ / margin * math.log(n)
    # Of the sum of exp(slope u) over n draws: its relative error, and p (1 - p) of that is the weight's.
    error = math.sqrt(slope / 2 / math.tanh(slope / 2) / n / sets)
    assert weight == pytest.approx(scores.closed_form(scores.UNIFORM, n, margin, product_), abs=5 * error / 4)


# The run -------------------------------------------------------------------------------------------


def test_a_run_has_every_row_once_and_the_same_again(monkeypatch):
    monkeypatch.setattr(subject, "run_jobs", lambda function, jobs, label: [function(job) for job in jobs])
    config = small()
    one, again = subject.run(config), subject.run(config)
    pd.testing.assert_frame_equal(one.table, again.table, check_exact=True)
    assert list(one.table) == list(subject.COLUMNS)
    counts = one.table.groupby("model").size().to_dict()
    nets_rows, hand = 2 * 2 * 3 * 4, 2 * 2 * 2 * 2 * 3  # seeds, tasks, lengths, columns; and the constructed head's
    assert counts == {"trained": nets_rows, "untrained": nets_rows, "bounded scores": 18, "constructed head": hand}
    assert not one.table.duplicated(["model", "task", "normaliser", "seed", "length", "margin", "s_times_margin"]).any()
    table = one.table[one.table.model.isin(["trained", "untrained"])]
    assert (table.accuracy + table.ranking + table.dispersion).to_numpy() == pytest.approx(1)
    full = (table.model == "trained") & (table.task == "max_retrieval")
    assert table.sets.where(full, 4 * table.sets).tolist() == [16] * (2 * 2 * 2 * 3 * 4)


def test_untrained_is_the_net_at_birth_and_trained_is_not():
    config = small(seeds=(0,))
    rows = pd.DataFrame(nets.rows(config, 0))
    first = rows[(rows.task == "max_retrieval") & (rows.length == 16) & (rows.normaliser == "softmax")]
    born = SetRetrieval(config.model, 0)
    found = nets.measure(born, config.task.at(16), 4, generator(0, "test", "max_retrieval", 16), unchanged_at=16)
    assert first[first.model == "untrained"].spread.item() == found["softmax"]["spread"]
    assert first[first.model == "trained"].spread.item() != pytest.approx(found["softmax"]["spread"], rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task.n_classes": 4}, "n_classes=4: the model has 11 and 10"),
        ({"lengths": (16, 12)}, r"lengths=\(16, 12\) must be two or more, rise"),
        ({"lengths": (32, 64)}, r"must start at task.longest=16"),
        ({"margins": (0.0, 1.0)}, r"margins=\(0.0, 1.0\)"),
        ({"s_times_margin": (1.5, 2.0)}, "from below 1 to above it"),
        ({"margin_lengths": (1, 4)}, r"margin_lengths=\(1, 4\)"),
        ({"sets": 3}, "sets=3 must be 4 or more"),
        ({"items": 150}, "items=150"),
        ({"needle_margin": 0.0}, r"margin=0.0 must lie in \(0, 1\]"),
    ],
)
def test_impossible_configs_are_refused_in_one_line(changes, message):
    with pytest.raises(WorkbenchError, match=message) as caught:
        small(**changes)
    assert "\n" not in str(caught.value)


# The claims ----------------------------------------------------------------------------------------

LENGTHS = (16, 1024, 4096, 16384)
ACCURACY = {16: 0.99, 1024: 0.5, 4096: 0.2, 16384: 0.1}


def made_up(where: dict | None = None, column: str | None = None, value: float | None = None) -> Result:
    """A table for which every claim holds, changed in seed 2 where the test says."""
    rows = []
    for seed, length in product(range(3), LENGTHS):
        base = {"seed": seed, "length": length, "sets": 100, "dead_changed": 0.0, "dead_below": 0.0, "dead_above": 0.0}
        for normaliser, gain in (("softmax", 0.0), ("adaptive", 0.01), ("log_n", 0.0)):
            net = base | {"normaliser": normaliser, "entropy": math.log(length) - 2, "target_weight": 0.5}
            right = ACCURACY[length] + gain
            net |= {"accuracy": right, "ranking": 0.8 * (1 - right), "spread": 100.0, "peak_excess": -1.0}
            rows.append(net | {"model": "trained", "task": "max_retrieval"})
            found = net | {"accuracy": 1.0, "target_weight": 1.0, "dead_below": 9.0}
            rows.append(found | {"model": "trained", "task": "needle"})
            rows.append(net | {"model": "untrained", "task": "max_retrieval", "accuracy": 0.1})
            peak = scores.BOUNDED_LIMIT / length
            rows.append(net | {"model": "bounded scores", "task": "none", "peak": peak, "dead_above": 9.0})
    for seed, length, task in product(range(3), (64, 4096), (scores.EQUAL, scores.UNIFORM)):
        for margin, s_times_margin in product((0.5, 2.0), (0.5, 1.0, 2.0)):
            weight = scores.closed_form(task, length, margin, s_times_margin)
            row = {"model": "constructed head", "task": task, "normaliser": "log_n", "seed": seed, "length": length}
            row |= {"margin": margin, "s_times_margin": s_times_margin, "target_weight": weight, "theory": weight}
            rows.append(row)
    table = pd.DataFrame(rows)
    if where is not None:
        chosen = table.seed == 2
        for name, wanted in where.items():
            chosen &= table[name] == wanted
        assert chosen.any()
        table.loc[chosen, column] = value
    return Result(table, run={"study": "sharpness_vs_length", "config_hash": "0" * 12, "profile": "full"})


def failing(result: Result) -> list[int]:
    return [at for at, claim in enumerate(subject.CLAIMS) if not judge("sharpness_vs_length", claim, result).holds]


def test_all_claims_hold_on_a_table_where_they_should():
    assert failing(made_up()) == []
    assert {claim.kind for claim in subject.CLAIMS} == {"identity", "calibration", "replication", "finding"}


SOFT = {"model": "trained", "task": "max_retrieval", "normaliser": "softmax"}
EQUAL = {"task": scores.EQUAL, "length": 64, "margin": 2.0}


@pytest.mark.parametrize(
    ("broken", "where", "column", "value"),
    [
        ({0}, SOFT | {"length": 16}, "accuracy", 0.96),
        ({1, 10}, SOFT | {"length": 4096}, "accuracy", 0.31),
        ({2, 10}, SOFT | {"length": 1024}, "accuracy", 0.995),
        ({3}, SOFT | {"length": 1024}, "entropy", 0.7),
        ({4}, {"model": "untrained", "normaliser": "softmax", "length": 1024}, "peak_excess", 2e-4),
        ({5}, {"model": "bounded scores", "length": 16384, "normaliser": "softmax"}, "peak", 8.1 / 16384),
        ({6}, SOFT | {"length": 16384}, "spread", 9.0),
        ({7}, SOFT | {"length": 4096}, "ranking", 0.39),
        ({8}, {"model": "trained", "task": "needle", "normaliser": "softmax", "length": 16384}, "accuracy", 0.999),
        (
            {9},
            {"model": "trained", "task": "needle", "normaliser": "softmax", "length": 64 * 16},
            "target_weight",
            0.98,
        ),
        (
            {10},
            {"model": "trained", "task": "max_retrieval", "normaliser": "adaptive", "length": 1024},
            "accuracy",
            0.46,
        ),
        ({11}, {"model": "trained", "task": "needle", "normaliser": "adaptive", "length": 16}, "dead_changed", 1),
        ({12}, {"model": "bounded scores", "normaliser": "adaptive", "length": 16}, "dead_changed", 1),
        (
            {13},
            {"model": "trained", "normaliser": "log_n", "task": "max_retrieval", "length": 16},
            "target_weight",
            0.51,
        ),
        ({14}, {"model": "untrained", "normaliser": "softmax"}, "accuracy", 0.2),
        ({15}, EQUAL | {"s_times_margin": 2.0}, "target_weight", 0.9),
        ({15, 16}, EQUAL | {"s_times_margin": 1.0}, "target_weight", 0.9),
        ({17}, {"task": scores.UNIFORM, "length": 4096, "margin": 0.5}, "target_weight", 0.5),
    ],
)
def test_one_seed_that_misses_its_bound_fails_that_claim(broken, where, column, value):
    assert set(failing(made_up(where, column, value))) == broken


def test_short_sets_of_uniform_distractors_are_not_held_to_the_limit():
    assert failing(made_up({"task": scores.UNIFORM, "length": 64}, "target_weight", 0.5)) == []


def test_a_zone_that_no_set_lies_in_gives_no_verdict():
    result = made_up()
    result.table["dead_above"] = 0.0
    with pytest.raises(WorkbenchError, match="gave nan"):
        judge("sharpness_vs_length", subject.CLAIMS[12], result)


def test_the_critical_point_is_where_the_closed_form_is_a_half():
    found = claims.critical(made_up())
    exact = 1 + np.log((found.length - 1) / found.length) / np.log(found.length)
    assert found["at"].to_numpy() == pytest.approx(exact.to_numpy(), abs=1e-9)
