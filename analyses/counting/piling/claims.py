"""What `count_saturation` claims."""

from collections.abc import Callable

from analyses.core.claims import Bound, Claim
from analyses.core.results import Result
from analyses.counting.piling.columns import CONFUSION, EVERY, FLAT, LOGITS, NOTHING, PEAKED, TRAINED

GLASSES = "Barbero et al. 2024, arXiv:2406.04267"


def _means(result: Result, prior: str, column: str):
    table = result.table[(result.table.prior == prior) & (result.table.moment == TRAINED)]
    return table.groupby("seed")[column].mean()


def round_share(result: Result, prior: str) -> list[float]:
    """Per seed, the share of wrong answers that are round numbers, all counts asked alike."""
    return (_means(result, prior, "wrong_round") / (1 - _means(result, prior, "right"))).tolist()


def even_share(result: Result) -> float:
    """The share of round numbers among all answers: what wrong answers drawn evenly would hold."""
    most = result.run["config"]["most"]
    return (most // EVERY) / (most + 1)


def _over_even(prior: str) -> Callable[[Result], list[float]]:
    return lambda result: [share / even_share(result) for share in round_share(result, prior)]


def _bias_of_large(result: Result) -> list[float]:
    """Mean bias over the upper half of the counts under the peaked prior less that under the uniform one."""
    table = result.table[(result.table.moment == TRAINED) & (result.table["count"] > result.run["config"]["most"] / 2)]
    means = table.groupby(["prior", "seed"]).bias.mean()
    return (means[PEAKED] - means[FLAT]).tolist()


def predicted(result: Result, name: str) -> list[float]:
    """Total variation of a prediction, one per seed."""
    return result.table[result.table.prediction == name].sort_values("seed").total_variation.tolist()


def _gain(name: str) -> Callable[[Result], list[float]]:
    """How much of the total variation without shrinkage the prediction takes away (1: all, 0: none)."""
    return lambda result: [
        1 - far / without for far, without in zip(predicted(result, name), predicted(result, NOTHING), strict=True)
    ]


CLAIMS = (
    Claim(
        sentence="Under the peaked prior wrong answers are round numbers: their share over that of evenly drawn ones",
        kind="replication",
        source=f"{GLASSES}, figures 3 and 4: answers pile up on round numbers",
        expected=Bound(low=2.0),
        measure=_over_even(PEAKED),
    ),
    Claim(
        sentence="Under a uniform prior they are not",
        kind="finding",
        source="this study",
        expected=Bound(low=0.5, high=1.5),
        measure=_over_even(FLAT),
    ),
    Claim(
        sentence="The peaked prior lowers the answers to large counts (counts)",
        kind="finding",
        source="shrinkage towards frequent, small counts",
        expected=Bound(high=0.0),
        measure=_bias_of_large,
    ),
    Claim(
        sentence="Bayes' rule on the confusions foretells the answers: share of the distance it takes away",
        kind="finding",
        source="this study",
        expected=Bound(low=0.2),
        measure=_gain(CONFUSION),
        every=False,
    ),
    Claim(
        sentence="So does the prior added to the logits, text by text",
        kind="finding",
        source="this study",
        expected=Bound(low=0.2),
        measure=_gain(LOGITS),
        every=False,
    ),
)
