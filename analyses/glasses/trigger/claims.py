"""What `sink_necessity` claims: the theorems' and the sources' values, and what the controls say."""

from collections.abc import Callable

from analyses.core.claims import Bound, Claim
from analyses.core.results import Result
from analyses.glasses.trigger.arms import ALONE, ALWAYS, DEEP, DEEP_RELU, TRAINED

SOLVED = 0.005  # the largest error at which the source's training stops
SINK = 0.3  # mean weight on the first token from which on Gu et al. speak of a sink
RAN_MILO = "Ran-Milo 2026, arXiv:2603.11487"
TAKEN = (
    "a virtual key makes a sink needless, not unlikely: with a first token at hand, training raises that one's score "
    "sooner than it lowers all others below the virtual key's; without a first token the virtual key takes the mass"
)


def _of(arm: str, column: str) -> Callable[[Result], list[float]]:
    """A column of one arm after training, one value per seed."""

    def measure(result: Result) -> list[float]:
        rows = result.table[(result.table.arm == arm) & (result.table.moment == TRAINED)]
        return rows.sort_values("seed")[column].tolist()

    return measure


def _ratio(above: Callable, below: Callable) -> Callable[[Result], list[float]]:
    return lambda result: [a / b for a, b in zip(above(result), below(result), strict=True)]


def _least_slack(result: Result) -> list[float]:
    return result.table.groupby("seed").slack.min().tolist()


def _replication(sentence: str, source: str, expected: Bound, measure: Callable, **verdict: str) -> Claim:
    return Claim(sentence=sentence, kind="replication", source=source, expected=expected, measure=measure, **verdict)


def _finding(sentence: str, expected: Bound, measure: Callable) -> Claim:
    return Claim(sentence=sentence, kind="finding", source="this study", expected=expected, measure=measure)


CLAIMS = (
    _replication(
        "Softmax has its mass on the first token at ordinary tokens",
        f"{RAN_MILO}, theorem 1",
        Bound(low=0.9),
        _of("softmax", "first_other"),
    ),
    _replication(
        "Softmax solves the task: largest error", f"{RAN_MILO}, its code", Bound(high=SOLVED), _of("softmax", "worst")
    ),
    _replication(
        "ReLU puts no weight on the first token at ordinary tokens",
        f"{RAN_MILO}, theorem 3",
        Bound(high=0.01),
        _of("ReLU", "first_other"),
    ),
    _replication(
        "ReLU solves the task as well: largest error",
        f"{RAN_MILO}, theorem 3 and code",
        Bound(high=SOLVED),
        _of("ReLU", "worst"),
    ),
    _replication(
        "Two layers of softmax have a position whose mass is on the first token",
        f"{RAN_MILO}, theorem 2",
        Bound(low=0.9),
        _of(DEEP, "first_most"),
    ),
    _replication(
        "Two layers of ReLU have no sink at any position (below 0.3)",
        f"{RAN_MILO}, figure 5; the threshold of Gu et al. 2024, arXiv:2410.10781",
        Bound(high=SINK),
        _of(DEEP_RELU, "first_most"),
    ),
    _replication(
        "With softmax off by one the virtual key has the mass at ordinary tokens",
        'Miller 2023, "Attention is off by one": a head may say nothing',
        Bound(low=0.9),
        _of("off by one", "virtual_other"),
        explanation=TAKEN,
        source_verdict="not reproduced where a first token offers itself",
    ),
    _replication(
        "With a learned sink logit the virtual key has the mass at ordinary tokens",
        "gpt-oss, arXiv:2508.10925: a head may attend to no token",
        Bound(low=0.9),
        _of("sink logit", "virtual_other"),
        explanation=TAKEN,
        source_verdict="not reproduced where a first token offers itself",
    ),
    _replication(
        "Behind a gate softmax has no sink: mean weight on the first token below 0.3",
        "Qiu et al. 2025, arXiv:2505.06708 (language models); the threshold of Gu et al. 2024, arXiv:2410.10781",
        Bound(high=SINK),
        _of("gated", "mass"),
        explanation="the sink costs this task nothing, so that nothing pushes the model to leave it: it does both, "
        "sinks and closes its gate in part; without a first token the gate closes",
        source_verdict="not reproduced on this task",
    ),
    _finding(
        "Without a first token, off by one: the virtual key has the mass",
        Bound(low=0.9),
        _of("off by one" + ALONE, "virtual_other"),
    ),
    _finding(
        "Without a first token, sink logit: the virtual key has the mass",
        Bound(low=0.9),
        _of("sink logit" + ALONE, "virtual_other"),
    ),
    _finding(
        "Without a first token softmax fails at the trigger: its error over that of off by one",
        Bound(low=100.0),
        _ratio(_of("softmax" + ALONE, "error_trigger"), _of("off by one" + ALONE, "error_trigger")),
    ),
    _finding(
        "Where every position averages, softmax makes no sink: weight on the first token",
        Bound(high=0.05),
        _of(ALWAYS, "first_other"),
    ),
    _finding(
        "Softmax uses its sink: error at ordinary tokens with the first token hidden, over that with it",
        Bound(low=100.0),
        _ratio(_of("softmax", "hidden_error_other"), _of("softmax", "error_other")),
    ),
    _finding(
        "ReLU does not miss the first token at ordinary tokens: error with it hidden",
        Bound(high=1e-6),
        _of("ReLU", "hidden_error_other"),
    ),
    _finding(
        "Softmax's sink says nothing: size of its value over the others'",
        Bound(high=0.01),
        _of("softmax", "value_ratio"),
    ),
    _finding(
        "A sink without massive activation: energy of the first token over all others'",
        Bound(high=0.1),
        _of("softmax", "massive"),
    ),
    Claim(
        sentence="The largest direction's share of the energy is at least (c + alpha) / (c + 1): least difference",
        kind="identity",
        source="projecting the stream on its first token",
        expected=Bound(low=-1e-12),
        measure=_least_slack,
    ),
)
