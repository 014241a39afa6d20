"""How far do nets count, and where does it go wrong?

Small transformers (causal; without positions, or rotary) and an LSTM of the same width learn to count in texts of 1 to
`longest` symbols: ones alone, a sum of ones, ones among zeros, one word among others (task `count_symbols`).
They are asked at trained lengths, and among other symbols on texts up to ten times as long whose counts stay
within the answers that training has shown.  Ones alone and sums count their length: beyond training their answer is a
token that was never seen, and they are not asked there; nor are rotary positions tried on them.

Beside them: an answer at random, the best answer that knows the length alone, the untrained nets, and the trained ones
in bfloat16.  And the reason that a transformer needs a BOS, a mask or positions to count at all: without them a text
and the same text twice are one.

Sources: Barbero et al. 2024, arXiv:2406.04267, section 6 (proposition 6.1, corollary 6.2) and figure 3; Weiss et al.
2018, arXiv:1805.04908, for counting in LSTMs.
"""

from dataclasses import dataclass, field

import pandas as pd

from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.core.sweep import run_jobs
from analyses.counting.growing.claims import CLAIMS as CLAIMS
from analyses.counting.growing.columns import BFLOAT16, LSTM, NETS, RATIOS, ROPE, TRAINED, UNTRAINED
from toy_models.tasks.count_symbols import BERNOULLI, KINDS, ONES, SUM, WORD
from toy_models.train import TrainConfig


@dataclass(frozen=True)
class Config:
    """Args: nets, kinds: which to run;  longest: symbols of a training text, and the largest count;  lengths: asked of
    texts with other symbols, ones alone and sums being asked at every trained one;  d_model: of every net;
    test_texts: at a length."""

    nets: tuple[str, ...] = NETS
    kinds: tuple[str, ...] = KINDS
    longest: int = 24
    lengths: tuple[int, ...] = (1, 2, 4, 8, 12, 16, 20, 24, 48, 96, 240)
    d_model: int = 32
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=600, batch_size=32, lr=1e-2, warmup=50, decay=0.5, weight_decay=0.0)
    )
    test_texts: int = 256
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)  # settings and the findings' bounds were chosen on seed 0
    device: str = "cpu"

    def __post_init__(self):
        for name, known in (("nets", NETS), ("kinds", KINDS)):
            if unknown := [one for one in getattr(self, name) if one not in known]:
                raise WorkbenchError(f"{name} has {unknown[0]!r}: choose from {', '.join(map(repr, known))}")
        if list(self.lengths) != sorted(set(self.lengths)) or self.longest not in self.lengths:
            raise WorkbenchError(f"lengths={self.lengths} must rise and hold longest={self.longest}, the trained one")


QUICK = {
    **{"nets": ("none", "lstm"), "kinds": (ONES, BERNOULLI), "lengths": (4, 8, 16, 24, 240)},
    **{"train.steps": 200, "test_texts": 128, "seeds": (0,)},
}

COLUMNS = {
    "net": f"position code of the transformer, or {LSTM}; of the random nets one of {', '.join(RATIOS)}",
    "kind": f"{ONES}, {SUM}, {BERNOULLI} or {WORD}; empty for the random nets",
    "seed": "of the weights, the training data and the test texts",
    "moment": f"{UNTRAINED}, {TRAINED}, or {BFLOAT16}: trained, then rounded; empty for the random nets",
    "length": "symbols of the text (of a sum: its ones)",
    "count": "the true count",
    "texts": "asked with this length and count",
    "right": "texts whose count is told right",
    "error": "mean distance of the told count from the true one (counts)",
    "bias": "mean told count less the true one (counts)",
    "difference": "largest difference of a logit between a text and the same text twice, over the largest logit",
}


def run(config: Config) -> Result:
    """Train every net, kind and seed side by side, and ask; and the random nets."""
    cells = [(net, kind) for kind in config.kinds for net in config.nets if not (net == ROPE and kind in (ONES, SUM))]
    jobs = [(_train_one, config, net, kind, seed) for net, kind in cells for seed in config.seeds]
    jobs += [(_ratios, seed) for seed in config.seeds]
    done = run_jobs(_call, jobs, label="nets that count, random nets")
    table = pd.DataFrame([row for found in done for row in found], columns=list(COLUMNS))
    return Result(table, measured_with={"device": config.device, "dtype": "float32", "backend": ["sdpa"]})


def _call(job: tuple) -> list[dict]:
    function, *given = job
    return function(*given)


def _train_one(config: Config, net: str, kind: str, seed: int) -> list[dict]:
    from analyses.counting.growing.nets import rows

    return rows(config, net, kind, seed)


def _ratios(seed: int) -> list[dict]:
    from analyses.counting.growing.ratios import ratio_rows

    return [{"kind": "", "moment": "", "seed": seed, **row} for row in ratio_rows(seed)]
