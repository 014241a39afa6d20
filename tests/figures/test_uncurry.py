"""The figure of uncurrying: points as in the table, and a message that follows from the numbers."""

import pandas as pd

from analyses.core.results import Result
from figures.currying import uncurry as subject
from figures.draw import figure_for

SHARES = {"Q": 0.2, "K": 0.3, "V": 0.9, "O": 0.7, "MLP": 0.4}


def result(shares=SHARES, seeds: int = 3) -> Result:
    rows = [
        {
            **{"source": source, "seed": seed, "kind": kind, "matrix": matrix, "change": 0.05},
            **{"share": share - 0.1 * (kind == "random") + 0.01 * (seed - (seeds - 1) / 2), "tokens_share": share / 2},
            **{"random_share": -1.5, "moved": 0.1 * (matrix in "QK"), "moved_above": 0.2},
        }
        for source in ("chain 0", "copy 4")
        for seed in range(seeds)
        for matrix, share in shares.items()
        for kind in ("gradient", "random")
    ]
    own = {"kind": "a context", "matrix": "K, V", "share": 0.99, "tokens_share": 0.8, "random_share": 0.8}
    rows += [{"source": "chain 0", "seed": seed, **own} for seed in range(seeds)]
    config = {"sources": ["chain 0", "copy 4"], "nats": 0.05, "held_out": 64, "context_length": 8, "candidates": 8}
    run = {"study": "uncurry", "config_hash": "0" * 12, "profile": "full", "config": config}
    return Result(pd.DataFrame(rows), {}, run=run)


def drawn(measured: Result):
    return figure_for("uncurry", {"uncurry": measured})


def heights(ax) -> list[float]:
    return [round(float(y), 6) for line in ax.lines for y in line.get_ydata()]


def test_every_text_can_be_read(legible):
    legible(drawn(result()))
    legible(drawn(result(seeds=1)))


def test_shares_stand_as_in_the_table_and_what_is_too_low_on_the_edge():
    shares, moved = drawn(result(seeds=1)).axes[:2]
    for share in SHARES.values():
        assert {round(share, 6), round(share - 0.1, 6), round(share / 2, 6)} <= set(heights(shares))
    assert subject.FLOOR in heights(shares)
    points = {(float(x), round(float(y), 6)) for line in moved.lines for x, y in zip(*line.get_data(), strict=True)}
    assert {(0.1, 0.2), (0.1, 0.3), (0.0, 0.9), (0.0, 0.7), (0.0, 0.4)} <= points


def test_the_message_turns_round_with_the_numbers():
    assert subject.message(result()) == "Contexts reach more of a step of V and O (80%) than of one of Q and K (25%)"
    turned = {**SHARES, "Q": 0.95, "K": 0.95}
    assert "reach no more" in subject.message(result(turned))


def test_the_caption_says_what_was_measured():
    told = subject.caption({"uncurry": result()})
    assert "3 seeds (points, means over sources; bars: means), 64 held-out queries at most" in told
    assert "9 free key-value pairs per layer and head: Q 0.20, K 0.30, V 0.90, O 0.70, MLP 0.40" in told
    assert "of a random step Q 0.10, K 0.20" in told
    assert "in it to 0.990 (dots), by those tokens to 0.80" in told
    assert "moved by Q 0.10, K 0.10, V 0.00, O 0.00, MLP 0.00" in told
