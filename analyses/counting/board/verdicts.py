"""What theory says before anything is trained: does what a net learns on short texts hold at all lengths?

Transformers.  C-RASP is a language of counts: how many earlier positions hold a predicate, sums of such counts, and
their comparison; with absolute positions it may also ask what stands a fixed number of tokens back.  An idealised
learner that fits the short texts is right at all lengths where such a program exists (Huang et al. 2024,
arXiv:2410.02140, theorem 7).  Outside, the guarantee is gone, and their nets failed.  Three ways to lie outside: groups
(parity); the last symbol, where there are no positions; and whatever needs more than a logarithm of the length in bits
from the text's first half (theorem 12).  Programs and reductions marked "ours" are given in words.  Of rotary and ALiBi
positions C-RASP says nothing: a "no" stands there only where it follows from bounded scores of any kind (Hahn 2020,
arXiv:1906.06755; layer norm can evade the bound, in sharp minima, Hahn & Rofin 2024, arXiv:2402.09963).

LSTMs.  Their cells count (Weiss et al. 2018), and they hold a finite state; a text that must be kept in full does not
fit a state of fixed size, from some length on (Jelassi et al. 2024).

All verdicts are about all lengths in the limit, given weights that fit the short ones; `silent` is a verdict too.
"""

from dataclasses import dataclass

YES, NO, SILENT = "yes", "no", "silent"
ARCHITECTURES = ("none", "learned", "rope", "alibi", "lstm")
ABSOLUTE, RELATIVE = ARCHITECTURES[:2], ARCHITECTURES[2:4]
CODES = ABSOLUTE + RELATIVE

HUANG = "Huang et al. 2024, arXiv:2410.02140"
BITS = f"{HUANG}, theorem 12"
YANG = f"Yang & Chiang 2024, arXiv:2404.04393; {HUANG}"
ALGEBRA = "Yang et al. 2026, arXiv:2608.13433"
VEITSMAN = "Veitsman et al. 2025, arXiv:2505.21785, appendix A.2"
HAHN = "Hahn 2020, arXiv:1906.06755"
KAZEMNEJAD = "Kazemnejad et al. 2023, arXiv:2305.19466"
MERRILL = "Merrill & Sabharwal 2023, arXiv:2310.07923"
BARBERO = "Barbero et al. 2024, arXiv:2406.04267"
WEISS = "Weiss, Goldberg & Yahav 2018, arXiv:1805.04908"
DELETANG = "Deletang et al. 2022, arXiv:2207.02098"
JELASSI = "Jelassi et al. 2024, arXiv:2402.01032"
LOOKUP = "Bhattamishra et al. 2024, arXiv:2406.09347"


@dataclass(frozen=True)
class Verdict:
    """Args: task, architecture: as on the board;  learnable: "yes", "no" or "silent";  reason: one line;  source."""

    task: str
    architecture: str
    learnable: str
    reason: str
    source: str


def _say(task: str, architectures: tuple[str, ...], learnable: str, reason: str, source: str) -> tuple[Verdict, ...]:
    return tuple(Verdict(task, architecture, learnable, reason, source) for architecture in architectures)


def _open(task: str, reason: str = "the guarantee is for absolute positions and for none", source: str = HUANG):
    return _say(task, RELATIVE, SILENT, reason, source)


def _lstm(task: str, learnable: str, reason: str, source: str) -> tuple[Verdict, ...]:
    return _say(task, ("lstm",), learnable, reason, source)


COUNTED = (
    *_say("majority", ABSOLUTE, YES, "compares two counts", YANG),
    *_open("majority"),
    *_lstm("majority", YES, "one counter", WEISS),
    *_say("a^n b^n", ABSOLUTE, YES, "compares two counts at every b", YANG),
    *_open("a^n b^n"),
    *_lstm("a^n b^n", YES, "one counter", WEISS),
    *_say(
        "Dyck-1", ABSOLUTE, YES, "counts the prefixes with more closed than open: none, and as many at the end", YANG
    ),
    *_open("Dyck-1"),
    *_lstm("Dyck-1", YES, "one counter and a flag", WEISS),
    *_say("count to 8", ABSOLUTE, YES, "compares one count with 0 to 8 (ours)", YANG),
    *_open("count to 8", "the guarantee is for the others; long texts collapse only at finite precision", BARBERO),
    *_lstm("count to 8", YES, "one counter", WEISS),
)
ENDS = (
    *_say("copy first", ABSOLUTE, YES, "asks what stands where one token was before (ours)", HUANG),
    *_open("copy first"),
    *_lstm("copy first", YES, "finite state", DELETANG),
    *_say("copy last", ("none",), SILENT, "the last symbol is outside; but on these texts counts tell it", ALGEBRA),
    *_say("copy last", ("learned",), YES, "asks what stands one token back (ours)", HUANG),
    *_open("copy last"),
    *_lstm("copy last", YES, "finite state", DELETANG),
    *_say("even pairs", ("none",), NO, "with the first bit given it asks for the last one, which is outside", ALGEBRA),
    *_say("even pairs", ("learned",), YES, "first bit equals last: one token back, and behind BOS (ours)", HUANG),
    *_open("even pairs"),
    *_lstm("even pairs", YES, "finite state", DELETANG),
)
NO_THEOREM = "positions can be rebuilt by counting, but by programs that nest deeper than two layers (ours)"
STATE = "the state would have to hold the whole text"
RECALLED = (
    *_say("induction", ("none",), SILENT, NO_THEOREM, KAZEMNEJAD),
    *_say("induction", ("learned",), YES, "one token back, then: did this pair occur?", f"{VEITSMAN}, lemma 4"),
    *_open("induction"),
    *_lstm("induction", NO, STATE, LOOKUP),
    *_say("copy unique", ("none",), SILENT, NO_THEOREM, KAZEMNEJAD),
    *_say("copy unique", ("learned",), YES, "induction again and again", f"{VEITSMAN}, lemma 7"),
    *_open("copy unique"),
    *_lstm("copy unique", NO, STATE, JELASSI),
    *_say("copy repeated", ABSOLUTE, NO, "needs the whole text, not a logarithm of bits", BITS),
    *_open("copy repeated", "the bound is for absolute positions and for none"),
    *_lstm("copy repeated", NO, STATE, JELASSI),
)
FAR = "what is far away moves the answer by less still (ours)"
BY_BIT = "each parity from the one before and one bit, both at hand"
SUMMED = (
    *_say("parity", ABSOLUTE, NO, "a group: outside C-RASP, and no bit moves the answer by more than 1/n", HUANG),
    *_say("parity", ("rope",), NO, "no bit moves the answer by more than 1/n", HAHN),
    *_say("parity", ("alibi",), NO, FAR, HAHN),
    *_lstm("parity", YES, "finite state", DELETANG),
    *_say("sum mod 5", ABSOLUTE, NO, "a group: outside C-RASP, and no digit moves the answer by more than 1/n", HUANG),
    *_say("sum mod 5", ("rope",), NO, "no digit moves the answer by more than 1/n", HAHN),
    *_say("sum mod 5", ("alibi",), NO, FAR, HAHN),
    *_lstm("sum mod 5", YES, "finite state", DELETANG),
    *_say("parity pad behind", ABSOLUTE, NO, "its steps ask for every bit, as copying does (ours)", BITS),
    *_open("parity pad behind", "can be expressed; whether it is learned is open", MERRILL),
    *_lstm("parity pad behind", NO, "the state would have to hold every bit (ours)", JELASSI),
    *_say("parity pad between", ("none",), SILENT, "asks for the last symbol; but other texts than all", ALGEBRA),
    *_say("parity pad between", ("learned",), YES, f"{BY_BIT} (ours)", HUANG),
    *_open("parity pad between"),
    *_lstm("parity pad between", YES, "finite state", DELETANG),
)  # fmt: skip
VERDICTS = {(one.task, one.architecture): one for one in (*COUNTED, *ENDS, *RECALLED, *SUMMED)}
