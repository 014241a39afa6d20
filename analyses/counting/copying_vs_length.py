"""Copy the last digit of 1...10, or the first of 01...1: which fails first when the run grows, and why?

Small transformers learn either from runs of up to 32 digits and are asked about longer ones.  The published answer is
that the last fails first, since the representation of the last token collapses: what one odd digit among n adds to it
falls below the precision.  So the nets are asked in float32 and in bfloat16, beside the distance between the odd text
and the same text with no odd end, and with the remedies of the source: separators, alternating runs, windows, each at
test and in training.  A length counts only if an end that differs and one that does not are both told.

The rival explanation: pretrained models find what follows a token (induction) better than what stands before it
(anti-induction).  Trained from scratch, are both learned?

And the identity behind it: without mask and positions a text and its doubling are the same to a transformer.

Sources: Barbero et al. 2024, arXiv:2406.04267, sections 3, 4 and 6, figure 2; Veitsman et al. 2025, arXiv:2505.21785.
"""

from dataclasses import dataclass, field, replace

import pandas as pd

from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.core.sweep import run_jobs
from analyses.counting.copying.arms import ARMS, PLAIN, QUICK_ARMS, TESTS, asked
from analyses.counting.copying.claims import BELOW, CLAIMS, COPY, DOUBLED, OVER, RECALL, TRAINED, UNTRAINED
from analyses.counting.nets.arms import transformer
from toy_models.tasks.copy_end import CopyEnd
from toy_models.tasks.recall import DIRECTIONS, Recall
from toy_models.train import TrainConfig

__all__ = ["CLAIMS", "COLUMNS", "QUICK", "Config", "run"]


@dataclass(frozen=True)
class Config:
    """Args: arms: which of ARMS to train;  directions: of recall;  lengths: digits of the test texts;
    recall_lengths: tokens of its test texts;  texts: of each kind at each length."""

    arms: tuple[str, ...] = tuple(ARMS)
    directions: tuple[str, ...] = DIRECTIONS
    task: CopyEnd = field(default_factory=lambda: CopyEnd(symbols=4))
    recall: Recall = field(default_factory=lambda: Recall(longest=6, symbols=12))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=150, lr=5e-3, warmup=30, decay=0.5))
    recall_train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=1400, lr=1e-2, warmup=30, decay=0.5))
    lengths: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    recall_lengths: tuple[int, ...] = (3, 6, 12)
    texts: int = 16
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)  # settings and the findings' bounds were chosen on seeds 0 to 2
    device: str = "cpu"

    def __post_init__(self):
        for what, names, known in (("arm", self.arms, ARMS), ("direction", self.directions, DIRECTIONS)):
            if odd := [one for one in names if one not in known]:
                raise WorkbenchError(f"copying_vs_length has no {what} {odd[0]!r}: choose from {', '.join(known)}")
        for name, least in (("lengths", 2), ("recall_lengths", 2)):
            values = getattr(self, name)
            if not values or list(values) != sorted(set(values)) or values[0] < least:
                raise WorkbenchError(f"{name}={values} must rise, from {least} on")
        if self.texts < 1:
            raise WorkbenchError(f"texts={self.texts} must be at least 1")


QUICK = {
    **{"arms": QUICK_ARMS, "directions": (), "train.steps": 100, "seeds": (0,)},
    **{"lengths": (8, 32, 128, 512), "texts": 8},
}

COLUMNS = {
    "case": f"{COPY}: one end of a run; {RECALL}: the neighbour of a token; {DOUBLED}: a text and its doubling",
    "arm": "what was trained; of recall: after, before",
    "seed": "of the weights and of everything drawn",
    "moment": f"{UNTRAINED} or {TRAINED}",
    "test": f"kind of the test texts: {', '.join(TESTS)}; of {DOUBLED}: no mask, causal mask",
    "dtype": "of weights and arithmetic at test",
    "length": "digits of the text, tokens of recall's; of the single text that is doubled, in tokens",
    "texts": "asked at this length, of each kind",
    "accuracy": f"share answered rightly (0 to 1); of {COPY}: of texts whose end differs from the run",
    "accuracy_same": "the same of texts whose end does not",
    "margin": "logit of the right token less the best other, mean over the texts of accuracy (nats)",
    "margin_same": "the same over the texts of accuracy_same",
    "apart": "2-norm between what the unembedding reads of a text with an odd end and of the same without, over the "
    f"mean 2-norm (0 to 2); of {DOUBLED}: largest difference of a logit over the largest logit",
    "identical": "share of these numbers that are one bfloat16 number (0 to 1)",
    "updates": f"of {RECALL}: after how many the mean of the last {OVER} losses is below {BELOW} nats; all where never",
}
EMPTY = dict.fromkeys(COLUMNS, float("nan"))


def run(config: Config) -> Result:
    """Train every arm and seed side by side, and test on every length."""
    jobs = [(config, COPY, arm, seed) for arm in config.arms for seed in config.seeds]
    jobs += [(config, RECALL, direction, seed) for direction in config.directions for seed in config.seeds]
    done = run_jobs(_train_one, jobs, label="training runs")
    table = pd.DataFrame([row for rows in done for row in rows], columns=list(COLUMNS))
    return Result(table, {}, {"device": config.device, "dtype": "float32", "backend": ["sdpa"]})


def _train_one(job: tuple[Config, str, str, int]) -> list[dict]:
    config, case, arm, seed = job
    rows = _copy_rows(config, arm, seed) if case == COPY else _recall_rows(config, arm, seed)
    fixed = {"arm": arm, "seed": seed, "dtype": "float32"}
    return [EMPTY | {"case": case} | fixed | row for row in rows]


def _copy_rows(config: Config, name: str, seed: int):
    from analyses.counting.copying.measures import copied, doubled, in_dtype
    from analyses.counting.nets.learning import born, learned

    arm = ARMS[name]
    tests = {text: asked(config.task, arm.which, text) for text in TESTS}
    n_ctx = max(task.at(config.lengths[-1]).n_ctx for task in tests.values())
    options = {"position": arm.position, "window": arm.window, "device": config.device}
    shape = transformer(config.task, n_ctx, **options)
    about = (config.lengths, config.texts, seed)
    for row in copied(born(shape, seed), tests[arm.text], *about):
        yield row | {"moment": UNTRAINED, "test": arm.text}
    model = learned(shape, tests[arm.text], config.train, seed)
    for text in TESTS:
        for row in copied(model, tests[text], *about):
            yield row | {"moment": TRAINED, "test": text}
    for row in copied(in_dtype(model, "bfloat16"), tests[arm.text], *about):
        yield row | {"moment": TRAINED, "test": arm.text, "dtype": "bfloat16"}
    if arm.window is None and arm.text == PLAIN:
        for row in doubled(model, tests[PLAIN], config.task.longest, seed):
            yield row | {"case": DOUBLED, "moment": TRAINED, "dtype": "float64"}


def _recall_rows(config: Config, direction: str, seed: int):
    from analyses.counting.copying.measures import recalled, updates_until
    from analyses.counting.nets.learning import born
    from toy_models.train import train

    task = replace(config.recall, direction=direction)
    n_ctx = task.at(config.recall_lengths[-1]).n_ctx
    # Attention alone, without norms, as induction is learned fastest.
    plain = {"position": "rope", "d_mlp": 0, "normalization_type": None, "device": config.device}
    model = born(transformer(task, n_ctx, **plain), seed)
    about = (task, config.recall_lengths, 8 * config.texts, seed)
    for row in recalled(model, *about):
        yield row | {"moment": UNTRAINED, "test": PLAIN}
    losses = [loss for _, loss in train(model, task, config.recall_train, seed=seed, show_progress=False)]
    for row in recalled(model, *about):
        yield row | {"moment": TRAINED, "test": PLAIN, "updates": updates_until(losses)}
