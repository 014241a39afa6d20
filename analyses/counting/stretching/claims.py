"""What `length_generalisation` claims: what theory and earlier work say, fixed before the first full run."""

from collections.abc import Callable

import pandas as pd

from analyses.core.claims import Bound, Claim
from analyses.core.results import Result
from analyses.counting.nets.arms import LSTM, POSITIONS
from analyses.counting.stretching.arms import CONSTRUCTED, COUNTED

WEISS = "Weiss, Goldberg & Yahav 2018, arXiv:1805.04908"
DELETANG = "Deletang et al. 2023, arXiv:2207.02098, which calls 0.9 solved"
C_RASP = "Huang et al. 2024, arXiv:2410.02140"
PARITY, PAIRS, MAJORITY = "parity", "even pairs", "majority"


def _of(result: Result, task: str, arms: tuple[str, ...]) -> pd.DataFrame:
    """Accuracy by seed (rows), net and stretch (columns)."""
    rows = result.table[(result.table.task == task) & result.table.arm.isin(arms)]
    return rows.pivot(index="seed", columns=["arm", "stretch"], values="accuracy").sort_index()


def _lstm(task: str, farthest: bool = True) -> Callable[[Result], list[float]]:
    """Accuracy of each seed's LSTM at the longest texts, or at the next length after training."""

    def measure(result: Result) -> list[float]:
        found = _of(result, task, (LSTM,))[LSTM]
        return found[found.columns.max() if farthest else sorted(found.columns)[1]].tolist()

    return measure


def _median_lstm(task: str) -> Callable[[Result], list[float]]:
    return lambda result: [float(pd.Series(_lstm(task)(result)).median())]


def _beyond(found: pd.DataFrame) -> pd.DataFrame:
    """By net: mean over all lengths beyond the training length."""
    later = found.loc[:, found.columns.get_level_values("stretch") > 1]
    return later.T.groupby(level="arm").mean().T


def _best_code(task: str) -> Callable[[Result], list[float]]:
    return lambda result: _beyond(_of(result, task, POSITIONS)).max(axis=1).tolist()


def _in_training(task: str) -> Callable[[Result], list[float]]:
    """Accuracy of the best position code at the training length."""
    return lambda result: _of(result, task, POSITIONS).xs(1, axis=1, level="stretch").max(axis=1).tolist()


def _majority_over_parity(result: Result) -> list[float]:
    one, other = (_beyond(_of(result, task, POSITIONS)).mean(axis=1) for task in (MAJORITY, PARITY))
    return (one - other).tolist()


def _cell(column: str, arm: str = LSTM) -> Callable[[Result], list[float]]:
    def measure(result: Result) -> list[float]:
        rows = result.table[(result.table.arm == arm) & result.table[column].notna()]
        return rows.sort_values("seed")[column].tolist()

    return measure


def _slopes(result: Result) -> list[float]:
    return [down / up for up, down in zip(_cell("cell_up")(result), _cell("cell_down")(result), strict=True)]


CLAIMS = (
    Claim(
        sentence="The cell set by hand is the count at every position of a^1000 b^1000: largest difference",
        kind="identity",
        source=f"{WEISS}: saturated gates copy and add",
        expected=Bound(high=1e-9),
        measure=_cell("cell_drift", CONSTRUCTED),
    ),
    Claim(
        sentence="The net with that cell answers a^1000 b^1000 right throughout",
        kind="calibration",
        source="the same weights",
        expected=Bound(1.0, 1.0),
        measure=lambda result: result.table[result.table.arm == CONSTRUCTED].accuracy.tolist(),
    ),
    Claim(
        sentence="Trained LSTMs go on to a^n b^n of twice the training length",
        kind="replication",
        source=f"{WEISS}: n up to 256 after training on 100",
        expected=Bound(low=0.99),
        measure=_lstm(COUNTED, farthest=False),
    ),
    Claim(
        sentence="Trained LSTMs go on to ten times the training length: median over seeds",
        kind="replication",
        source=f"{WEISS}: LSTMs count without bound",
        expected=Bound(low=0.99),
        measure=_median_lstm(COUNTED),
    ),
    Claim(
        sentence="A cell of each trained LSTM counts: squared correlation with the count at ten times the length",
        kind="replication",
        source=f"{WEISS}, figure 1",
        expected=Bound(low=0.99),
        measure=_cell("cell_r2"),
    ),
    Claim(
        sentence="It goes down in the b's as fast as up in the a's: slope over slope",
        kind="replication",
        source=f"{WEISS}, figure 1",
        expected=Bound(-1.05, -0.95),
        measure=_slopes,
    ),
    Claim(
        sentence="No position code lets a transformer do parity on longer texts: mean accuracy of the best one",
        kind="replication",
        source=f"{C_RASP}: parity is not in C-RASP; Hahn 2020, arXiv:1906.06755; guessing gives 0.5",
        expected=Bound(high=0.6),
        measure=_best_code(PARITY),
    ),
    Claim(
        sentence="Nor do they learn parity at the training length, in these updates: accuracy of the best code",
        kind="finding",
        source="this study",
        expected=Bound(high=0.75),
        measure=_in_training(PARITY),
    ),
    Claim(
        sentence="LSTMs do parity at ten times the training length: mean accuracy",
        kind="replication",
        source=DELETANG,
        expected=Bound(low=0.9),
        measure=_lstm(PARITY),
        every=False,
    ),
    Claim(
        sentence="Majority goes on further than parity: mean accuracy on longer texts over the codes, difference",
        kind="replication",
        source=f"{C_RASP}: majority is in C-RASP, parity is not",
        expected=Bound(low=0.2),
        measure=_majority_over_parity,
    ),
    Claim(
        sentence="With the best position code transformers do even pairs on longer texts: mean accuracy",
        kind="replication",
        source=DELETANG,
        expected=Bound(low=0.9),
        measure=_best_code(PAIRS),
        explanation="the source reports the best of ten seeds and several rates, five layers, longer training; here "
        "a code that learns it finds the first bit at distances that training showed, and loses it beyond them",
        source_verdict="not reproduced in these updates",
    ),
)
