"""The tasks of the board, at training lengths at which most nets learn them within some hundred updates."""

from dataclasses import dataclass

from toy_models.tasks import Task
from toy_models.tasks.an_bn import AnBn
from toy_models.tasks.copy_end import CopyEnd
from toy_models.tasks.copy_text import CopyText
from toy_models.tasks.count_symbols import CountSymbols, uniform
from toy_models.tasks.dyck import Dyck1
from toy_models.tasks.even_pairs import EvenPairs
from toy_models.tasks.majority import Majority
from toy_models.tasks.modular_addition import ModularAddition
from toy_models.tasks.parity import Parity
from toy_models.tasks.recall import Recall
from toy_models.tasks.running_parity import RunningParity


@dataclass(frozen=True)
class Row:
    """Args: task: at its training lengths;  guess: accuracy of the best constant answer at any one length, 0 where a
    text asks for many tokens and all must be right;  pace: factor on the updates of the training;  farthest: test
    lengths over training lengths end here, where tokens must differ and so many more would be needed, each rarer."""

    task: Task
    guess: float = 0.5
    pace: float = 1.0
    farthest: int = 10


MOST = 8  # of `count to 8`
ROWS = {
    "majority": Row(Majority(1, 16)),
    "a^n b^n": Row(AnBn(1, 8), guess=0.0, pace=1.5),
    "Dyck-1": Row(Dyck1(2, 16)),
    "count to 8": Row(CountSymbols(shortest=MOST, longest=16, most=MOST, prior=uniform(MOST)), guess=1 / (MOST + 1)),
    "copy first": Row(CopyEnd("first", 2, 16), pace=0.5),
    "copy last": Row(CopyEnd("last", 2, 16)),
    "even pairs": Row(EvenPairs(2, 8), pace=2.0),
    "induction": Row(Recall("after", 2, 4, symbols=16), guess=1 / 16, pace=2.5, farthest=4),
    "copy unique": Row(CopyText(False, 2, 4, symbols=16), guess=0.0, pace=1.5, farthest=4),
    "copy repeated": Row(CopyText(True, 2, 6), guess=0.0, pace=1.5),
    "parity": Row(Parity(1, 8), pace=2.0),
    "sum mod 5": Row(ModularAddition(1, 4), guess=0.2, pace=2.0),
    "parity pad behind": Row(Parity(1, 6, scratchpad=True), guess=0.0, pace=2.0),
    "parity pad between": Row(RunningParity(1, 6), guess=0.0, pace=1.5),
}
