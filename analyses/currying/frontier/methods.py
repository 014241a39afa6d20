"""The methods of the frontier, and how many steps of descent a budget buys each of them.

Costs are counted in token-forwards as `probes.currying` counts them: with N fit queries of T tokens, n tokens of BOS
and context, and r keys before a query, reading all queries once costs N (T + r), a step on all of them 3 N (T + r).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

NULL, EXACT, EDIT, FITTED, PREFIX, STEP = "null", "exact", "closed form", "descent", "learned pairs", "gradient"
CLOSED = {
    "kv": EXACT,
    **dict.fromkeys(("none", "bias", "steer", "bigram_shift"), NULL),
    **dict.fromkeys(("sink", "lsq_o"), EDIT),
    "gradient": STEP,
}
# Two step sizes, relative to the size of what they change; the better one on the fit queries is kept.
RATES = {"kv_r": (0.03, 0.1), "lora": (0.01, 0.03), "lsq": (0.01, 0.03)}
ENOUGH_STEPS = 4  # with fewer, fewer queries are fitted on, down to a quarter
MOST_STEPS = 1000
CHECKS = 10  # times that a search looks at all queries


@dataclass(frozen=True)
class Way:
    """A method at one size; `r` is its number of pairs or its rank, 0 where it has neither."""

    method: str
    family: str
    r: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its name in tables and figures: "kv_r 5"."""
        return f"{self.method} {self.r}" if self.options else self.method

    @property
    def rates(self) -> tuple[float, ...]:
        """Step sizes that are tried; none for what does not descend."""
        return RATES.get(self.method, ())


@dataclass(frozen=True)
class Plan:
    """What a budget buys: fit queries, and steps for each step size."""

    fit: int
    steps: int


def ways(pairs: Sequence[int], ranks: Sequence[int]) -> Iterator[Way]:
    """Every method, those that need no descent first."""
    for method, family in CLOSED.items():
        yield Way(method, family, int(method == "sink"))
    for r in pairs:
        yield Way("attention_matching", EDIT, r, {"pairs": r})
    for r in pairs:
        yield Way("kv_r", PREFIX, r, {"pairs": r})
    for r in ranks:
        yield Way("lora", FITTED, r, {"rank": r})
    yield Way("lsq", FITTED)


def plan(way: Way, budget: int, fit: int, length: int, before: int) -> Plan | None:
    """The most steps for every step size within the budget: on all fit queries, else on half or a quarter of them; None
    where even those do not get a step.

    Args:
        fit, length: fit queries and their tokens;  before: tokens of BOS and context.
    """
    found = None
    for n in (fit, fit // 2, fit // 4):
        if not n:
            break

        def cost(steps: int, n: int = n) -> int:
            return cost_of(way, n, length, before, steps)

        steps = _most(cost, budget // len(way.rates))
        found = Plan(n, steps) if steps else None
        if steps >= ENOUGH_STEPS:
            break
    return found


def cost_of(way: Way, n: int, length: int, before: int, steps: int) -> int:
    """Token-forwards of a descent on n queries at one step size."""

    def read(keys: int) -> int:
        return n * (length + keys)

    closed = n * length + 2 * read(1) + before  # sink or lsq_o
    goal = before + n * length
    searches = looks(steps) + 3 * steps
    if way.method == "kv_r":
        wider = 2 * n * length * (way.r - 1)
        return closed + goal + wider + searches * sum(read(keys) for keys in range(1, way.r + 1))
    starts = 2 * closed + goal + 3 * read(1)  # none, sink and lsq_o, each looked at
    slope = 3 * read(1) if way.method == "lora" else 0
    return starts + slope + searches * read(1)


def looks(steps: int) -> int:
    """How often a search of that many steps looks at all queries, the start included."""
    every = max(1, steps // CHECKS)
    return 1 + steps // every + (steps % every > 0)


def _most(cost: Callable[[int], int], budget: int) -> int:
    return max((steps for steps in range(1, MOST_STEPS + 1) if cost(steps) <= budget), default=0)
