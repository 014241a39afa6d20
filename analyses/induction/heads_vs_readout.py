"""Which heads does in-context learning hang on, and does that depend on how it is read out?

A transformer of two layers learns a mixture: few-shot texts of eight functions, whose answers stand nowhere in the
text, and repeated random blocks.  Its heads are scored twice: by prefix matching on blocks (induction), and by how
much a head's mean output over prompts of a function raises the answer where the examples are shuffled (function
vector, FV).  Then the best heads of one kind are ablated together, by their mean over other texts, without the few
best of the other kind; random heads are the control, and the model before training.  Read out are the accuracy of
the last answer of few-shot texts, and late minus early loss on blocks of lengths that training never showed.
A trained model opens in one line, `trained(Config(), 1)`.  The settings were chosen on seed 0, which is not run.

Source: Yin and Steinhardt 2025, arXiv:2502.14010: few-shot accuracy depends on FV heads, not on induction heads, in
12 language models, and the loss late in a text behaves otherwise; Todd et al. 2023, arXiv:2310.15213: the FV score.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from analyses.core.claims import Bound, Claim
from analyses.core.results import Result, results_root
from analyses.core.sweep import run_jobs
from probes.ablation import Mean, ablated
from probes.function_vectors import function_vectors
from probes.in_context import in_context
from probes.induction import prefix_matching
from probes.model import patterns, target_losses
from toy_models.config import TransformerConfig
from toy_models.errors import ConfigError
from toy_models.seeding import generator
from toy_models.tasks import Batch
from toy_models.tasks.repeated_blocks import BOS
from toy_models.tasks.task_mixture import TaskMixture, shuffled
from toy_models.train import TrainConfig

INDUCTION, FV, RANDOM = "induction", "function vector", "random"
KINDS = (INDUCTION, FV, RANDOM)
BEFORE, AFTER = "untrained", "trained"
MAP = "{}: {} (seed, layer, head)"
Head = tuple[int, int]  # layer, head


@dataclass(frozen=True)
class Config:
    """Args: texts: of each kind, that readouts and reference means are taken on;  prompts: of each function, proper
    and shuffled, for the FV score;  excluded: best heads of the other kind that are spared;  most: heads ablated
    together at the most;  draws: of random heads."""

    model: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(
            **{"n_layers": 2, "n_heads": 8, "d_model": 64, "d_vocab": TaskMixture().d_vocab, "n_ctx": 24},
            **{"position": "shortformer", "normalization_type": None, "bos_id": BOS},
        )
    )
    task: TaskMixture = field(default_factory=TaskMixture)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=1200, batch_size=48, lr=5e-3))
    texts: int = 256
    prompts: int = 32
    excluded: int = 3
    most: int = 6
    draws: int = 3
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    device: str = "cpu"

    def __post_init__(self):
        heads = self.model.n_layers * self.model.n_heads
        whole = min(self.most, self.draws, self.prompts) >= 1 and self.excluded >= 0
        fits = self.excluded + self.most <= heads and self.texts >= 2 * len(self.task.held_out) > 0
        if not (whole and fits):
            raise ConfigError(
                f"most={self.most}, draws={self.draws}, prompts={self.prompts} must be 1 or more, excluded="
                f"{self.excluded} 0 or more, excluded + most at most {heads}, the model's heads, texts={self.texts} "
                f"at least 2 for each period in task.held_out={self.task.held_out}, of which it needs one"
            )


QUICK = {"train.steps": 600, "texts": 64, "prompts": 8, "draws": 2, "seeds": (0,)}

COLUMNS = {
    "model": "before or after training: untrained, trained",
    "seed": "of the weights, the training texts and the random heads",
    "ablated": "which heads: " + "; ".join(KINDS) + " (the first two without the best few of each other)",
    "draw": "of random heads; 0 for the others",
    "k": "heads ablated together",
    "accuracy": "of the last answer of few-shot texts (0 to 1)",
    "log_prob": "ln of its probability, mean (nats)",
    "in_context": "loss on the later copies of a block less that on the first, periods held out (nats per token)",
    "shuffled_prob": "probability of the answer where examples are shuffled, nothing ablated (0 to 1)",
    "overlap": "share of the k best FV heads that are among the k best induction heads (0 to 1; nan for k = 0)",
    "rank_correlation": "of the two scores over all heads, Spearman's (-1 to 1)",
}


def run(config: Config) -> Result:
    """Train every seed, or find the checkpoints; score the heads of each, ablate them and read out."""
    jobs = [(config, name, seed) for seed in config.seeds for name in (BEFORE, AFTER)]
    done = run_jobs(_measure_one, jobs, label="models")
    table = pd.DataFrame([row for rows, _, _ in done for row in rows], columns=list(COLUMNS))
    arrays = {}
    for name in (BEFORE, AFTER):
        maps = [scores for (_, scores, _), (_, of, _) in zip(done, jobs, strict=True) if of == name]
        for kind in maps[0]:
            arrays[MAP.format(name, kind)] = np.stack([one[kind] for one in maps])
    backends = sorted({backend for _, _, ran in done for backend in ran})
    known = {"guess": 1 / config.task.n_functions, "elimination": config.task.elimination}
    return Result(table, arrays, {"device": config.device, "dtype": "float32", "backend": backends, "task": known})


def trained(config: Config, seed: int):
    """The trained run of one seed, from disk if it is there; its model is `.model`."""
    from toy_models.checkpoints import RunConfig, train_or_load

    model = replace(config.model, device=config.device)
    run_config = RunConfig(model=model, task=config.task, train=config.train, seed=seed)
    return train_or_load(run_config, results_root() / "checkpoints", show_progress=False)


def _measure_one(job: tuple[Config, str, int]):
    """Rows of one model, its heads' scores, and the attention backends that ran."""
    from toy_models import Transformer

    config, name, seed = job
    start = replace(config.model, device=config.device)
    model = trained(config, seed).model if name == AFTER else Transformer(start, seed=seed).eval()
    texts = _texts(config)
    scores, shuffled_prob = _scores(model, texts)
    ranks = {kind: _ranked(scores[kind]) for kind in (INDUCTION, FV)}
    rank_correlation = float(spearmanr(*(scores[kind].ravel() for kind in (INDUCTION, FV))).statistic)
    of_model = {"shuffled_prob": shuffled_prob, "rank_correlation": rank_correlation}
    rows, ran, whole = [], set(), _read_out(model, texts, [])
    for kind, draw, heads in _groups(config, ranks, seed):
        for k in range(config.most + 1):
            read = _read_out(model, texts, heads[:k]) if k else whole
            shared = len({*ranks[FV][:k]} & {*ranks[INDUCTION][:k]}) / k if k else math.nan
            place = {"model": name, "seed": seed, "ablated": kind, "draw": draw, "k": k}
            rows.append({**place, **read, **of_model, "overlap": shared})
            ran.update(model.backends)
    return rows, scores, sorted(ran)


# The texts, the same for every model ------------------------------------------------------------------


def _texts(config: Config) -> dict:
    """Few-shot texts, blocks of held-out periods, references for both, and prompts of every function."""
    task, functions = config.task, range(config.task.n_functions)
    few, few_reference = (task.few_shot(config.texts, generator(0, word)) for word in ("few-shot", "reference"))
    each = config.texts // len(task.held_out)
    blocks, reference = (
        [task.blocks.at(period).sample(each, generator(0, word, period)) for period in task.held_out]
        for word in ("blocks", "blocks reference")
    )
    joined = {name: torch.cat([getattr(batch, name) for batch in blocks]) for name in ("tokens", "targets", "scored")}
    prompts, others = (
        [task.few_shot(config.prompts, generator(0, word, f), f) for f in functions] for word in ("prompts", "others")
    )
    mixed = [shuffled(others[f].tokens, generator(0, "shuffled", f)) for f in functions]
    tensors = {
        "few-shot reference": few_reference.tokens,
        "blocks reference": torch.cat([batch.tokens for batch in reference]),
        "prompts": torch.stack([batch.tokens for batch in prompts]),
        "shuffled": torch.stack(mixed),
        "answers": torch.stack([batch.targets[:, -1] for batch in others]),
    }
    moved = {name: tensor.to(config.device) for name, tensor in tensors.items()}
    return {**moved, "few-shot": few.to(config.device), "blocks": Batch(**joined).to(config.device)}


# The measurements -----------------------------------------------------------------------------------


def _scores(model, texts: dict) -> tuple[dict[str, np.ndarray], float]:
    """Both scores of every (layer, head), and the probability of the answer where examples are shuffled."""
    tokens = texts["blocks"].tokens
    matching = [prefix_matching(pattern, tokens).tolist() for pattern in patterns(model, tokens)]
    carried = function_vectors(model, texts["prompts"], texts["shuffled"], texts["answers"])
    return {INDUCTION: np.array(matching), FV: carried.score.cpu().numpy()}, carried.before.mean().item()


def _ranked(scores: np.ndarray) -> list[Head]:
    """Heads, best first."""
    return [divmod(int(i), scores.shape[1]) for i in np.argsort(-scores, axis=None, kind="stable")]


def _groups(config: Config, ranks: dict[str, list[Head]], seed: int) -> list[tuple[str, int, list[Head]]]:
    """(kind, draw, heads in the order in which they are ablated)."""
    groups = [
        (kind, 0, [head for head in ranks[kind] if head not in ranks[other][: config.excluded]])
        for kind, other in ((INDUCTION, FV), (FV, INDUCTION))
    ]
    heads = sorted(ranks[FV])
    for draw in range(config.draws):
        order = torch.randperm(len(heads), generator=generator(seed, "random heads", draw)).tolist()
        groups.append((RANDOM, draw, [heads[i] for i in order]))
    return groups


def _read_out(model, texts: dict, heads: Sequence[Head]) -> dict[str, float]:
    """Both readouts without these heads: each says its mean, at each position, over other texts of the same kind."""
    asked = texts["few-shot"]
    answer = _logits(model, asked.tokens, heads, texts["few-shot reference"])[:, -1]
    blocks = texts["blocks"]
    losses = target_losses(_logits(model, blocks.tokens, heads, texts["blocks reference"]), blocks.targets)
    parts = [(losses * part).sum(-1) / part.sum(-1) for part in (~blocks.scored, blocks.scored)]  # early, late
    right = asked.targets[:, -1:]
    return {
        "accuracy": (answer.argmax(-1) == right[:, 0]).float().mean().item(),
        "log_prob": -target_losses(answer[:, None], right).mean().item(),
        "in_context": in_context(torch.stack(parts, dim=-1), early=0, late=1).mean.item(),
    }


def _logits(model, tokens, heads: Sequence[Head], reference):
    without = ablated(model, heads, Mean(reference, per_position=True)) if heads else nullcontext()
    with torch.no_grad(), without:
        return model(tokens)


# The claims -----------------------------------------------------------------------------------------

AT = 4  # heads ablated: a quarter of them


def _of(column: str, ablated: str, k: int = AT, model: str = AFTER) -> Callable[[Result], np.ndarray]:
    """The value of `column` with k heads of that kind ablated, one per seed: the mean over draws."""

    def measure(result: Result) -> np.ndarray:
        table = result.table
        rows = table[(table.model == model) & (table.ablated == ablated) & (table.k == k)]
        return rows.groupby("seed")[column].mean().to_numpy()

    return measure


def _less(one: Callable, other: Callable) -> Callable[[Result], np.ndarray]:
    return lambda result: one(result) - other(result)


YIN, TODD, OURS = "Yin and Steinhardt 2025, arXiv:2502.14010", "Todd et al. 2023, arXiv:2310.15213", "this study"
CHANCE = "one constant answer is right for 1/32 of the texts; 4 standard errors of 256 texts above it"
SAME = "probes/theory/function_vectors.md: a head that says the same on all texts scores 0"
LEFT = "TaskMixture.elimination is 0.19; 4 standard errors of 256 texts above it"
CLAIMS = (
    Claim(
        "Before training: few-shot accuracy",
        *("calibration", CHANCE, Bound(high=0.075), _of("accuracy", RANDOM, 0, BEFORE)),
    ),
    Claim(
        "Before training no head carries a function: best FV score (probability)",
        *("calibration", SAME, Bound(high=0.01), lambda result: result.arrays[MAP.format(BEFORE, FV)].max((1, 2))),
    ),
    Claim(
        "Training solves few-shot texts: accuracy of the last answer",
        *("finding", OURS, Bound(low=0.95), _of("accuracy", RANDOM, 0)),
        explanation="one seed of the five had not finished when training ended",
    ),
    Claim(
        "And blocks of new periods: late less early loss (nats; from chance to certainty: -4.16)",
        *("finding", OURS, Bound(high=-3.5), _of("in_context", RANDOM, 0)),
    ),
    Claim(
        "Shuffled examples hide the function: probability of the right answer",
        *("finding", TODD, Bound(high=0.19), _of("shuffled_prob", RANDOM, 0)),
    ),
    Claim(
        "Few-shot accuracy without 4 FV heads is lower than without 4 induction heads, by",
        *("replication", YIN, Bound(low=0.2), _less(_of("accuracy", INDUCTION), _of("accuracy", FV))),
    ),
    Claim(
        "Without 4 induction heads it is no lower than without 4 random heads: random less induction",
        *("replication", YIN, Bound(high=0.0), _less(_of("accuracy", RANDOM), _of("accuracy", INDUCTION))),
    ),
    Claim(
        "Without 4 FV heads it is no better than guessing among answers not yet seen",
        *("finding", LEFT, Bound(high=0.29), _of("accuracy", FV)),
        explanation="in some seeds more than 4 heads carry it, or one that is spared as an induction head does",
    ),
    Claim(
        "Late less early loss without 4 induction heads is higher than without 4 FV heads, by (nats)",
        *("replication", YIN, Bound(low=0.5), _less(_of("in_context", INDUCTION), _of("in_context", FV))),
    ),
    Claim(
        "Without 4 FV heads it hardly rises, by (nats)",
        *("finding", OURS, Bound(high=0.2), _less(_of("in_context", FV), _of("in_context", FV, 0))),
    ),
    Claim(
        "The kinds are mostly different heads: share of the 4 best FV heads among the 4 best induction heads",
        *("replication", YIN, Bound(high=0.5), _of("overlap", RANDOM)),
    ),
    Claim(
        "Yet over all heads the scores go together: Spearman's rank correlation",
        *("replication", YIN, Bound(low=0.0), _of("rank_correlation", RANDOM, 0)),
        every=False,
    ),
)
