"""Prompts that ask for a count or for one digit, as plain text, with everything that may be answered.

    How many 1s in 1101? Answer: 3.                              "bits"; of "ones" every bit is 1
    1+1+1+1 = 4.                                                 "sum"
    How often is cat in: cat dog sun cat? Answer: 2.             "word"
    Last digit of 1110? Answer: 0.                               "last"; or 1, of 0001: to say 0 always is half right
    First digit of 0111? Answer: 0.                              "first"; likewise

Each has a second phrase.  With `separate=3` a comma stands after every third digit.  A text may begin with solved
examples of the same phrase, a line each.  Everything up to "Answer:" is given; " 3." is the answer, one of those for
0 to twice the length.  The full stop ends a number, or 1 would be at least as likely as 12.

Source: the tasks are those of Barbero et al. 2024, arXiv:2406.04267, sections 3 and 6 and the appendix on prompts:
ones, ones among bits with probability 0.7, a sum of ones, a word in a sentence; the last and the first digit of a run.
The words are ours.
"""

from dataclasses import dataclass

import torch

from toy_models.errors import ConfigError

COUNTING = ("ones", "bits", "sum", "word")
COPYING = ("last", "first")
KINDS = (*COUNTING, *COPYING)
DIGITS = ("ones", "bits", *COPYING)  # whose bodies are runs of digits, which commas can break
P_ONE, P_WORD = 0.7, 0.5
COUNTED, FILLERS = "cat", ("dog", "sun", "map", "tea")
ONES = ("How many 1s in {}? Answer:", "{} has so many 1s:")
PHRASES = {
    "ones": ONES,
    "bits": ONES,
    "sum": ("{} =", "The sum of {} is"),
    "word": ("How often is cat in: {}? Answer:", "{} says cat so often:"),
    "last": ("Last digit of {}? Answer:", "{} ends with"),
    "first": ("First digit of {}? Answer:", "{} begins with"),
}
EXAMPLES = (2, 6)  # lengths of solved examples


@dataclass(frozen=True)
class Prompt:
    """A text that stops before its answer.

    Args:
        answers: what may follow; the i-th says i.
        right: which of them is right.
    """

    text: str
    answers: tuple[str, ...]
    right: int


def prompt(
    kind: str, length: int, generator: torch.Generator, *, text: int = 0, separate: int = 0, examples: int = 0
) -> Prompt:
    """A prompt about `length` digits, ones or words.

    Args:
        text: its number: even and odd ones have the two phrases; of copying, every other pair has mirrored digits.
        separate: digits between commas, 0 for none.
        examples: solved ones before it, of 2 to 6 each.

    Raises:
        ConfigError: an unknown kind, no digit to ask about, or commas where there are no digits.
    """
    _check(kind, length, separate)
    phrase = PHRASES[kind][text % 2]
    solved = []
    for number in range(examples):
        n = int(torch.randint(EXAMPLES[0], EXAMPLES[1] + 1, (), generator=generator))
        body, value = _body(kind, n, number, separate, generator)
        solved.append(f"{phrase.format(body)}{answer(value)}\n")
    body, value = _body(kind, length, text // 2, separate, generator)
    last = 1 if kind in COPYING else 2 * length
    return Prompt("".join(solved) + phrase.format(body), tuple(answer(i) for i in range(last + 1)), value)


def answer(value: int) -> str:
    """How a number is said."""
    return f" {value}."


def _check(kind: str, length: int, separate: int) -> None:
    if kind not in KINDS:
        raise ConfigError(f"there is no kind {kind!r} of prompt: choose among {', '.join(KINDS)}")
    if length < (least := 2 if kind in COPYING else 1):
        raise ConfigError(f"length={length} must be {least} or more for {kind!r}")
    if separate < 0 or (separate and kind not in DIGITS):
        raise ConfigError(f"separate={separate} must be 0 or more, and 0 for {kind!r}: commas stand between digits")


def _body(kind: str, n: int, number: int, separate: int, generator: torch.Generator) -> tuple[str, int]:
    """What is asked about, and the right answer."""
    if kind == "sum":
        return "+".join("1" * n), n
    if kind == "word":
        drawn = torch.rand(2, n, generator=generator).tolist()
        fillers = [FILLERS[int(share * len(FILLERS))] for share in drawn[1]]
        words = [COUNTED if one < P_WORD else filler for one, filler in zip(drawn[0], fillers, strict=True)]
        return " ".join(words), words.count(COUNTED)
    if kind == "bits":
        digits = "".join("1" if one < P_ONE else "0" for one in torch.rand(n, generator=generator).tolist())
        return separated(digits, separate), digits.count("1")
    if kind == "ones":
        return separated("1" * n, separate), n
    odd = number % 2
    digits = str(1 - odd) * (n - 1)
    digits = f"{digits}{odd}" if kind == "last" else f"{odd}{digits}"
    return separated(digits, separate), odd


def separated(digits: str, every: int) -> str:
    """The digits with a comma after every so many; 0 for none.  No comma ends the text."""
    if not every:
        return digits
    return ",".join(digits[at : at + every] for at in range(0, len(digits), every))
