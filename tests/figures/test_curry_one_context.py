"""The figure of one context: every method stands where the table says, and its verdict follows from the numbers."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.currying import curry_one_context as subject
from figures.draw import figure_for

# method -> family, r, bytes, token-forwards; as the study has them
METHODS = {
    "kv": ("exact", 0, 16128, 21),
    "sink": ("closed form", 1, 1152, 4900),
    "sibling": ("null", 1, 1152, 4900),
    "wrong task": ("null", 1, 1152, 4900),
    "lsq_o": ("closed form", 0, 18432, 4900),
    "none": ("null", 0, 0, 0),
    "bias": ("null", 0, 52, 3200),
    "steer": ("null", 0, 768, 3200),
    "bigram_shift": ("null", 0, 624, 3200),
    "lora 1": ("descent", 1, 3072, 89000),
    "lora 4": ("descent", 4, 12288, 89000),
    "kv_r 1": ("learned pairs", 1, 768, 74000),
    "kv_r 2": ("learned pairs", 2, 1536, 151000),
    "kv_r 5": ("learned pairs", 5, 3840, 400000),
    "gradient": ("gradient", 0, 73728, 60000),
}
SHARES = dict(
    zip(METHODS, (1.0, 0.95, 0.6, -5.0, 0.9, 0.0, 0.1, 0.4, 0.5, 0.96, 0.97, 0.96, 0.97, 0.99, 0.2), strict=True)
)
KINDS = {
    "chain 0": SHARES,
    "biased die": {**SHARES, "steer": 0.93},
    "copy": {**SHARES, "sink": 0.2, "kv_r 1": 0.4, "kv_r 2": 0.6, "kv_r 5": 0.92},
}


def rows(context: str, shares: dict[str, float], seed: int):
    for method, (family, r, size, cost) in METHODS.items():
        share = shares[method]
        yield {
            **{"context": context, "seed": seed, "method": method, "family": family, "r": r, "share": share},
            **{"kl": 0.2 * (1 - share), "baseline_kl": 0.2, "context_share": 0.7 if method == "sink" else np.nan},
            **{"entity_error": 0.9 - 0.5 * share, "bytes": size, "token_forwards": cost, "queries": 100 + seed},
        }


def result(kinds=KINDS, seeds: int = 5, **config) -> Result:
    table = pd.DataFrame([row for name, one in kinds.items() for seed in range(seeds) for row in rows(name, one, seed)])
    value = np.linspace(0.1, 0.9, len(kinds) * seeds * 4).reshape(len(kinds), seeds, 2, 2)
    arrays = {f"{name} (context, seed, layer, head)": value for name in ("rho", "gate")}
    arrays |= {f"untrained {name} (context, seed, layer, head)": value / 4 for name in ("rho", "gate")}
    told = {"model": {"n_layers": 2}, "task": {"n_chains": 4}, "context_length": 20, "prompt": ""}
    told |= {"queries": {"source": "own", "length": 12}, **config}
    run = {"study": "curry_one_context", "config_hash": "0" * 12, "profile": "full", "config": told}
    run |= {"contexts": list(kinds), "refused": {"sink_r": "needs register tokens"}}
    return Result(table, arrays, run=run)


def drawn(measured: Result):
    return figure_for("curry_one_context", {"curry_one_context": measured})


@pytest.mark.parametrize(("kinds", "seeds"), [(KINDS, 5), ({"prompt": SHARES}, 1)], ids=["three contexts", "a prompt"])
def test_every_text_can_be_read(legible, kinds, seeds):
    legible(drawn(result(kinds, seeds)))


def test_every_method_has_a_mean_where_the_table_says_and_what_is_too_low_stands_on_the_edge():
    ax = drawn(result()).axes[0]
    low, high = ax.get_ylim()
    points = {(round(x), round(y, 6)) for line in ax.lines for x, y in zip(*line.get_data(), strict=True)}
    for method, (_, _, size, _) in METHODS.items():
        if size:
            assert (size, max(SHARES[method], subject.FLOOR)) in points
    assert low == subject.FLOOR
    assert high > 1
    assert len(subject._styles(result().table)) == len(METHODS) - 4  # none is a line; two of kv_r, one of lora


def test_no_two_methods_look_alike():
    styles = subject._styles(result().table)
    assert len(set(styles.values())) == len(styles)


def test_the_verdict_is_the_least_that_suffices():
    told = {name: subject.verdict(group) for name, group in result().table.groupby("context")}
    assert told == {"biased die": "a steering vector", "chain 0": "a rank-one edit", "copy": "needs r ≈ 5 pairs"}
    hard = {"copy": {**SHARES, "sink": 0.1, "kv_r 1": 0.2, "kv_r 2": 0.3, "kv_r 5": 0.8}}
    assert subject.verdict(result(hard).table) == "needs r > 5 pairs"
    quiet = {"prompt": dict.fromkeys(SHARES, np.nan)}
    assert subject.verdict(result(quiet).table) == "says almost nothing"
    few = result(hard).table
    assert subject.verdict(few[few.family != "learned pairs"]) == "no rank-one edit"


def test_heads_stand_beside_the_untrained_ones():
    ax = drawn(result()).axes[9]
    assert [len(line.get_xdata()) for line in ax.lines] == [5 * 4, 5 * 2, 5 * 2]


def test_the_caption_says_what_was_measured():
    told = subject.caption({"curry_one_context": result()})
    assert "transformers of 2 layers trained on a mixture of 4 chains" in told
    assert "5 seeds (faint; large: means), on 100 to 104 held-out queries of 12 tokens, the model's own samples" in told
    assert "Chain 0, 0.200 nats without the context: a rank-one edit (best null bigram_shift 0.50, sink 0.95" in told
    assert "sibling 0.60, wrong task -5.00, sink's context-specific share 0.70, 1 to 5 pairs 0.96 to 0.99)" in told
    assert "Copy, 0.200 nats without the context: needs r ≈ 5 pairs" in told
    assert told.endswith("Not drawn: sink_r (needs register tokens).")
    mine = result({"prompt": SHARES}, 1, model="path/to/gpt2", prompt="a text")
    assert subject.caption({"curry_one_context": mine}).startswith("One prompt curried into gpt2, 1 seed (faint")
    quiet = result({"prompt": dict.fromkeys(SHARES, np.nan)}, 1, model="gpt2", prompt="a text")
    assert "says almost nothing; rho of the last layer" in subject.caption({"curry_one_context": quiet})
    many = result()
    many.run["refused"] = {"lora": "asked for by name", "sink_r": "needs register tokens", "lsq": "asked for by name"}
    told = subject.caption({"curry_one_context": many})
    assert told.endswith("Not drawn: lora, lsq (asked for by name); sink_r (needs register tokens).")
