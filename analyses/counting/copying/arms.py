"""The arms of `copying_vs_length`: what is trained, and on what it is tested."""

from dataclasses import dataclass, replace

from toy_models.tasks.copy_end import CopyEnd

LAST, FIRST = "last", "first"
NONE, ROPE = "none", "rope"
POSITIONS = (NONE, ROPE)
PLAIN, SEPARATED, ALTERNATING = "plain", "separated", "alternating"
TESTS = (PLAIN, SEPARATED, ALTERNATING)
EVERY = 3  # digits between two separators, as in the source
WINDOW = 8


@dataclass(frozen=True)
class Arm:
    """Args: which: the end asked for;  position: code;  window: tokens that a layer sees, None for all;
    text: of the training, a name in TESTS."""

    which: str
    position: str
    window: int | None = None
    text: str = PLAIN


def name(which: str, position: str) -> str:
    """Of an arm without a remedy."""
    return f"{which}, {position}"


WINDOWED, TRAINED_SEPARATED, TRAINED_ALTERNATING, NONE_ALTERNATING = (
    f"{name(LAST, ROPE)}, window {WINDOW}",
    f"{name(LAST, ROPE)}, trained separated",
    f"{name(LAST, ROPE)}, trained alternating",
    f"{name(LAST, NONE)}, trained alternating",
)
FIRST_ALTERNATING = f"{name(FIRST, ROPE)}, trained alternating"
ARMS = {
    **{name(which, position): Arm(which, position) for position in POSITIONS for which in (LAST, FIRST)},
    WINDOWED: Arm(LAST, ROPE, window=WINDOW),
    TRAINED_SEPARATED: Arm(LAST, ROPE, text=SEPARATED),
    TRAINED_ALTERNATING: Arm(LAST, ROPE, text=ALTERNATING),
    FIRST_ALTERNATING: Arm(FIRST, ROPE, text=ALTERNATING),
    NONE_ALTERNATING: Arm(LAST, NONE, text=ALTERNATING),
}
QUICK_ARMS = (name(LAST, NONE), name(LAST, ROPE), name(FIRST, ROPE))


def asked(task: CopyEnd, which: str, text: str) -> CopyEnd:
    """The task with this end and this kind of text, in the same vocabulary."""
    return replace(task, which=which, separator=EVERY * (text == SEPARATED), alternating=text == ALTERNATING)
