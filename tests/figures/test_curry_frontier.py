"""The figure of the frontier: points as in the table, a front that nothing cheaper beats, words from the numbers."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.currying import curry_frontier as subject
from figures.draw import figure_for

# method -> family, r, bytes; costs and shares below
METHODS = {
    "kv": ("exact", 0, 16128),
    "none": ("null", 0, 0),
    "bias": ("null", 0, 56),
    "steer": ("null", 0, 768),
    "bigram_shift": ("null", 0, 672),
    "sink": ("closed form", 1, 1152),
    "lsq_o": ("closed form", 0, 18432),
    "gradient": ("gradient", 0, 73728),
    "attention_matching 1": ("closed form", 1, 784),
    "attention_matching 10": ("closed form", 10, 7840),
    "kv_r 1": ("learned pairs", 1, 768),
    "kv_r 10": ("learned pairs", 10, 7680),
    "lora 4": ("descent", 4, 12288),
    "lsq": ("descent", 0, 73728),
    "sibling": ("null", 1, 1152),
    "wrong task": ("null", 1, 1152),
}
SHARES = dict(
    zip(METHODS, (1, 0, 0.1, 0.4, 0.5, 0.94, 0.96, 0.2, 0.91, 0.99, 0.95, 0.992, 0.96, 0.97, 0.6, -5), strict=True)
)
COPIED = {**SHARES, "sink": 0.4, "lsq_o": 0.7, "attention_matching 1": -0.1, "kv_r 1": 0.5, "lora 4": 0.7, "lsq": 0.8}
KINDS = {"chain 0": SHARES, "copy 4": COPIED}


def rows(source: str, shares: dict[str, float], seed: int, context: int):
    for method, (family, r, size) in METHODS.items():
        descends = family in ("descent", "learned pairs")
        for budget in (25_000, 100_000) if descends and not context else (25_000,):
            share = shares[method] - (0.01 if descends and budget == 25_000 else 0) + 0.001 * seed * (method != "none")
            yield {
                **{"source": source, "context": context, "seed": seed, "method": method, "family": family, "r": r},
                **{"budget": budget, "spent": budget - 500 if descends else 4900 if size else 0, "bytes": size},
                **{"kl": 0.3 * (1 - share), "baseline_kl": 0.3, "share": share, "entity_error": 1.1 - 0.9 * share},
                **{"keys": 33 if method == "kv" else 13, "queries": 100 + seed},
            }


def result(kinds=KINDS, seeds: int = 3) -> Result:
    table = pd.DataFrame(
        [
            row
            for name, one in kinds.items()
            for seed in range(seeds)
            for c in (0, 1)
            for row in rows(name, one, seed, c)
        ]
    )
    told = {"context_length": 20, "query_length": 12, "budgets": [25_000, 100_000], "net": {"model": {"n_layers": 2}}}
    run = {"study": "curry_frontier", "config_hash": "0" * 12, "profile": "full", "config": told}
    return Result(table, {}, run=run)


def drawn(measured: Result):
    return figure_for("curry_frontier", {"curry_frontier": measured})


def points(ax) -> set[tuple[float, float]]:
    return {(round(x), round(float(y), 6)) for line in ax.lines for x, y in zip(*line.get_data(), strict=True)}


@pytest.mark.parametrize(("names", "seeds"), [(list(KINDS), 3), (["chain 0"], 1)], ids=["two sources", "one seed"])
def test_every_text_can_be_read(legible, names, seeds):
    legible(drawn(result({name: KINDS[name] for name in names}, seeds)))


def test_every_method_stands_at_its_bytes_its_cost_and_its_error():
    one = result({"chain 0": SHARES}, seeds=1)
    left, cost, error = drawn(one).axes[:3]
    for method, (_, _, size) in METHODS.items():
        share = SHARES[method]
        if size:
            assert (size, round(min(max(1 - share, subject.FLOOR), subject.CEILING), 6)) in points(left)
            assert (size, round(min(1.1 - 0.9 * share, subject.LARGEST_ERROR), 6)) in points(error)
    assert (99_500, 0.05) in points(cost)
    assert (24_500, 0.06) in points(cost)  # the smaller budget of the same method
    assert min(x for line in cost.lines for x in line.get_xdata() if x > 1) > 1000  # a cache costs next to nothing


def test_second_contexts_are_not_drawn():
    one = result({"chain 0": SHARES}, seeds=1)
    changed = result({"chain 0": SHARES}, seeds=1)
    changed.table.loc[changed.table.context == 1, ["share", "entity_error"]] = 0.123
    assert points(drawn(one).axes[0]) == points(drawn(changed).axes[0])


def test_nothing_cheaper_beats_the_front():
    one = result({"copy 4": COPIED}, seeds=1)
    ax = drawn(one).axes[0]
    (front,) = [line for line in ax.lines if line.get_linewidth() == 3.0]
    x, y = (np.asarray(side, dtype=float) for side in front.get_data())
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) <= 0).all()
    drawn_at = [
        (METHODS[method][2], max(1 - COPIED[method], subject.FLOOR))
        for method in METHODS
        if method not in ("none", *subject.STRANGERS)
    ]
    assert all(y[x <= size].min() <= left + 1e-9 for size, left in drawn_at)
    assert {(size, round(left, 6)) for size, left in zip(x, y, strict=True)} >= {(56, 0.9), (7680, 0.008)}


def test_the_verdict_is_the_fewest_bytes_that_suffice():
    told = {
        name: subject.verdict(subject._largest(group)) for name, group in subject._first(result()).groupby("source")
    }
    assert told == {"chain 0": "1 learned pair", "copy 4": "10 learned pairs"}
    steered = {"chain 0": {**SHARES, "steer": 0.95, "kv_r 1": 0.5}}
    assert subject.verdict(subject._largest(subject._first(result(steered)))) == "a steering vector"
    hard = {"chain 0": {method: min(share, 0.8) if method != "kv" else 1.0 for method, share in SHARES.items()}}
    assert subject.verdict(subject._first(result(hard))) == "nothing suffices"
    quiet = {"chain 0": dict.fromkeys(METHODS, np.nan)}
    assert subject.verdict(subject._first(result(quiet))) == "says almost nothing"


def test_the_message_counts_contexts_for_which_no_descent_is_needed():
    assert subject.message(result()).startswith("Closed forms put 2 of 2 kinds of context away (90% of the KL)")
    learned = {**COPIED, "attention_matching 10": 0.7}
    assert "put 1 of 2" in subject.message(result({"chain 0": SHARES, "copy 4": learned}))


def test_the_caption_says_what_was_measured():
    told = subject.caption({"curry_frontier": result()})
    assert "3 seeds (faint; large: means), the first context of each source, 100 to 102 held-out queries of 12" in told
    assert "budgets of 25 000, 100 000 token-forwards" in told
    assert "Chain 0, KL removed: best null bigram_shift 0.50, sibling 0.60, sink 0.94, kv_r 1 0.95" in told
    assert "Copy 4, KL removed: best null bigram_shift 0.50, sibling 0.60, sink 0.40" in told
    assert told.endswith("reads 33 keys with the whole cache, 13 behind an edit.")
    quiet = subject.caption({"curry_frontier": result({"chain 0": dict.fromkeys(METHODS, np.nan)})})
    assert "Chain 0 says almost nothing." in quiet
