"""What does the place of the norm do to a deep model at birth: its stream, its gradients, what its last token hears?

Models of 1 to 32 layers, drawn as the theorem has them, with LayerNorm before each branch (pre), behind each addition
(post), RMSNorm before, and none.  Measured are the stream's mean square behind every layer, each branch's part of it,
the gradient of a random task's loss by each layer's second MLP matrix, and how much of the last token's squared
sensitivity is its own: beside what the law of random values makes of the layers' gains, and beside the bound.

A pre-norm stream grows with depth, so a late branch is a small part of it: the last layer's gradient falls, and a token
keeps hearing itself.  Behind a post-norm every branch is as large as the first.  Then models of 12 layers are trained
for a short while on bytes of Python's standard library, with warm-up and without.

Source: Xiong et al. 2020, arXiv:2002.04745, lemma 2, theorem 1, section 4; Barbero et al. 2024,
arXiv:2406.04267, theorem 5.1.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from analyses.core.claims import Bound, Claim
from analyses.core.results import Result
from analyses.core.sweep import run_jobs
from analyses.glasses.depth.born import NONE, NORMS, POST, PRE, RMS, born, hearing, layers
from analyses.glasses.depth.training import losses
from toy_models.errors import ConfigError
from toy_models.tasks.text import Text
from toy_models.train import TrainConfig

LAST_STEPS = 10
DRAWS_APART = 1000  # draw k of seed s is drawn from seed s + 1000 k


@dataclass(frozen=True)
class Config:
    """Args: depths: layers;  slope_from: the depth from which on slopes are fitted;  n: tokens in a text;  texts,
    draws: of weights, that a seed's mean squares are over;  train: `warmup` is that of the trainings that have one;
    train_depth: their layers."""

    depths: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    slope_from: int = 4
    d_model: int = 32
    d_vocab: int = 64
    n: int = 32
    texts: int = 4
    draws: int = 6
    task: Text = field(default_factory=lambda: Text(n_ctx=32))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=100, batch_size=16, lr=5e-3, warmup=50))
    train_depth: int = 12
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)  # the findings' bounds were set on seeds 0 to 3
    device: str = "cpu"

    def __post_init__(self):
        rising = list(self.depths) == sorted(set(self.depths)) and min(self.depths, default=0) >= 1
        if not rising or sum(depth >= self.slope_from for depth in self.depths) < 2:
            start = f"depths={self.depths} must rise from 1 or more, with"
            raise ConfigError(f"{start} at least two from slope_from={self.slope_from} on")
        if min(self.d_model, self.d_vocab, self.n) < 2 or min(self.texts, self.draws) < 1:
            raise ConfigError(
                f"d_model={self.d_model}, d_vocab={self.d_vocab}, n={self.n} must be 2 or more, texts={self.texts} and "
                f"draws={self.draws} 1 or more"
            )
        if self.train.warmup < 1 or self.train.steps < LAST_STEPS or self.train_depth < 1:
            raise ConfigError(
                f"train.warmup={self.train.warmup}, train_depth={self.train_depth} must be 1 or more, "
                f"train.steps={self.train.steps} at least {LAST_STEPS}, which the final loss is a mean over"
            )
        if not self.seeds or max(self.seeds) >= DRAWS_APART:
            raise ConfigError(f"seeds={self.seeds} must lie below {DRAWS_APART}: further draws have the numbers above")


QUICK = {"depths": (1, 2, 4, 8), "draws": 1, "train.steps": 20, "train.warmup": 10, "train_depth": 3, "seeds": (0, 1)}

COLUMNS = {
    "norm": "which norm, and where: " + ", ".join(NORMS),
    "depth": "layers",
    "seed": "of the draws of weights, texts and targets",
    "warmup": "steps of warm-up of a training, which has `loss` alone (nan: at birth, where all else is measured)",
    "stream": "mean square of the stream behind the last layer, mean over draws (1 at its start)",
    "end": "the same at the last position",
    "growth_low": "smallest, over layers l, of (mean square of the stream behind layer l, less 1) / l",
    "growth_high": "largest of the same",
    "sum": "mean square of stream + MLP before a norm behind it, mean over layers (pre: of the stream)",
    "attention_share": "mean square that the last layer's attention adds, over that of the stream behind it (0 to 1)",
    "mlp_share": "the same of its MLP (0 to 1)",
    "last_gradient": "norm of the gradient of one position's loss by W_out of the last layer (nats), rms over draws",
    "first_gradient": "the same of the first layer (nats)",
    "own": "the last token's share of the sum of squared sensitivities, first draw (0 to 1)",
    "first": "the first token's share of the same (0 to 1)",
    "own_law": "what the law of random values gives `own` at the layers' gains (0 to 1)",
    "own_bound": "the last token's share of the bound's squares (0 to 1; nan for post: the theorem is about pre)",
    "held": "share of positions whose sensitivity is at or below the bound (0 to 1; nan for post)",
    "last_gain": "1 / scale of the last attention's norm at its median position: what the law takes (ratio)",
    "final": "the bound's last factor, 1 / scale of the final norm at the last token (ratio; nan for post)",
    "loss": "training loss, mean over the last 10 steps (nats per byte)",
}
CURVES = ("stream", "attention", "mlp", "gradient")


def run(config: Config) -> Result:
    """Every norm at every depth and seed, with curves over the layers of the deepest; then the trainings."""
    config = replace(config, task=config.task.pinned())
    jobs = [(config, _at_birth, (), seed) for seed in config.seeds]
    trainings = [(norm, warmup) for norm in (PRE, POST) for warmup in (0, config.train.warmup)]
    jobs += [(config, _training, one, seed) for one in trainings for seed in config.seeds]
    done = run_jobs(_carry_out, jobs, label="births and trainings")
    table = pd.DataFrame([row for rows, _ in done for row in rows], columns=list(COLUMNS))
    arrays: dict[str, list] = {}
    for _, curves in done:
        for name, curve in curves.items():
            arrays.setdefault(name, []).append(curve)
    told = {"device": config.device, "dtype": "float32", "backend": "reference; auto in training"}
    told["text"] = {"digest": config.task.text_digest}
    return Result(table, {name: np.stack(curves) for name, curves in arrays.items()}, told)


def _carry_out(job: tuple[Config, Callable, tuple, int]):
    config, part, options, seed = job
    return part(config, seed, *options)


def _at_birth(config: Config, seed: int):
    rows, curves = [], {}
    for norm in NORMS:
        for depth in config.depths:
            found = _over_draws(config, norm, depth, seed)
            heard = hearing(_born(config, norm, depth, seed), seed)
            rows.append({"norm": norm, "depth": depth, "seed": seed} | _numbers(found) | heard)
        curves |= {f"{norm}: {name} (seed, layer)": found[name].numpy() for name in CURVES}
    return rows, curves


def _training(config: Config, seed: int, norm: str, warmup: int):
    found = losses(norm, config.train_depth, config.task, config.train, warmup, seed)
    place = {"norm": norm, "depth": config.train_depth, "seed": seed, "warmup": float(warmup)}
    curve = {f"{norm}, {'with' if warmup else 'no'} warm-up: loss (seed, step)": found.astype(np.float32)}
    return [place | {"loss": found[-LAST_STEPS:].mean()}], curve


def _born(config: Config, norm: str, depth: int, seed: int):
    return born(norm, depth, config.d_model, config.n, config.d_vocab, seed).to(config.device)


def _over_draws(config: Config, norm: str, depth: int, seed: int) -> dict:
    draws = [seed + DRAWS_APART * k for k in range(config.draws)]
    found = [layers(_born(config, norm, depth, draw), config.texts, draw) for draw in draws]
    return {name: sum(getattr(one, name).cpu() for one in found) / len(found) for name in found[0].__dataclass_fields__}


def _numbers(found: dict) -> dict[str, float]:
    stream = found["stream"].numpy()
    growth = (stream - 1) / np.arange(1, len(stream) + 1)
    gradient = found["gradient"].sqrt()
    return {
        "stream": float(stream[-1]),
        "end": found["end"][-1].item(),
        "growth_low": float(growth.min()),
        "growth_high": float(growth.max()),
        "sum": found["sum"].mean().item(),
        "attention_share": (found["attention"][-1] / stream[-1]).item(),
        "mlp_share": (found["mlp"][-1] / stream[-1]).item(),
        "last_gradient": gradient[-1].item(),
        "first_gradient": gradient[0].item(),
    }


# The claims -----------------------------------------------------------------------------------------


def born_rows(result: Result, norm: str) -> pd.DataFrame:
    """One norm's models at birth."""
    return result.table[(result.table.norm == norm) & result.table.warmup.isna()]


def slopes(result: Result, norm: str, column: str) -> np.ndarray:
    """a of column ~ depth^a, per seed, fitted from `slope_from` layers on."""
    rows = born_rows(result, norm)
    rows = rows[rows.depth >= result.run["config"]["slope_from"]]
    return np.array([np.polyfit(np.log(one.depth), np.log(one[column]), 1)[0] for _, one in rows.groupby("seed")])


def _slope(norm: str, column: str) -> Callable[[Result], np.ndarray]:
    return lambda result: slopes(result, norm, column)


def _beside_the_stream(result: Result) -> np.ndarray:
    return slopes(result, PRE, "last_gradient") + slopes(result, PRE, "end") / 2


def _deepest(result: Result, norm: str) -> pd.DataFrame:
    rows = born_rows(result, norm)
    return rows[rows.depth == rows.depth.max()].sort_values("seed")


def _at_deepest(norm: str, column: str) -> Callable[[Result], list[float]]:
    return lambda result: _deepest(result, norm)[column].tolist()


def _rate(result: Result) -> list[float]:
    rows = _deepest(result, NONE)
    return (np.log(rows.own) / np.log(rows.own_law)).tolist()


def _held(result: Result) -> list[float]:
    return result.table[result.table.held.notna()].groupby("seed").held.min().tolist()


def _over_the_bounds_share(result: Result) -> list[float]:
    rows = _deepest(result, PRE)
    return (rows.own / rows.own_bound).tolist()


def _loss(result: Result, norm: str, *, warm: bool) -> pd.Series:
    rows = result.table[
        (result.table.norm == norm) & ((result.table.warmup > 0) if warm else (result.table.warmup == 0))
    ]
    return rows.set_index("seed").loss


def _saved_by_warmup(norm: str) -> Callable[[Result], list[float]]:
    return lambda result: (_loss(result, norm, warm=False) - _loss(result, norm, warm=True)).tolist()


def _post_less_pre(result: Result) -> list[float]:
    return (_loss(result, POST, warm=True) - _loss(result, PRE, warm=False)).tolist()


LEMMA, THEOREM, OURS = (
    "lemma 2, arXiv:2002.04745",
    "theorem 1, arXiv:2002.04745",
    "this study; bound set on seeds 0 to 3",
)
# (1 + s L)^-1/2 with s = 3/2 at 4 and 1/2 at 32 layers is the flattest that lemma 2 leaves room for, and its reverse.
FINITE = f"{THEOREM}: -1/2 for many layers; from 4 to 32 lemma 2 leaves -0.67 to -0.21"
SECTION = "section 4, arXiv:2002.04745"
CLAIMS = (
    Claim(
        "Pre LN: the stream's mean square grows by at least 1/2 a layer, behind every layer",
        *("replication", LEMMA, Bound(low=0.5), _at_deepest(PRE, "growth_low")),
    ),
    Claim("and by at most 3/2", "replication", LEMMA, Bound(high=1.5), _at_deepest(PRE, "growth_high")),
    Claim(
        "Post LN: its mean square before the norm behind the MLP is 3/2, whatever the layer",
        *("replication", f"{LEMMA}; mean of seeds to 3 %", Bound(1.45, 1.55), _at_deepest(POST, "sum"), False),
    ),
    Claim(
        "Pre LN: the last layer's gradient falls like depth^a",
        *("replication", FINITE, Bound(-0.67, -0.21), _slope(PRE, "last_gradient"), False),
    ),
    Claim(
        "Because the final norm divides by the stream: a + 1/2 that of the stream's mean square at the position",
        *("replication", f"proof of {THEOREM}; +- 0.1", Bound(-0.1, 0.1), _beside_the_stream, False),
    ),
    Claim("RMSNorm before: a", "replication", FINITE, Bound(-0.67, -0.21), _slope(RMS, "last_gradient"), False),
    Claim(
        "Post LN: the last layer's gradient does not depend on depth (a)",
        *("replication", f"{THEOREM}: a = 0, +- 0.1", Bound(-0.1, 0.1), _slope(POST, "last_gradient"), False),
    ),
    Claim(
        "Pre LN: nor does the first layer's (a)",
        *("finding", OURS, Bound(-0.15, 0.15), _slope(PRE, "first_gradient"), False),
    ),
    Claim(
        "No norm: ln of the last token's own share over that of the law of random values, at the deepest",
        *("replication", "probes/theory/position_law.md; 3 standard errors", Bound(0.87, 1.13), _rate, False),
    ),
    Claim(
        "Pre LN: the last token's own share of its squared sensitivity, at the deepest",
        *("finding", OURS, Bound(low=0.2), _at_deepest(PRE, "own")),
    ),
    Claim("Post LN: the same", "finding", OURS, Bound(high=1e-4), _at_deepest(POST, "own")),
    Claim(
        "No position exceeds the bound (share of positions under it)",
        *("replication", "theorem 5.1, arXiv:2406.04267", Bound(1.0, 1.0), _held),
    ),
    Claim(
        "Pre LN: the own share over what the bound's shape would have it be, at the deepest",
        *("finding", OURS, Bound(low=1e3), _over_the_bounds_share),
    ),
    Claim(
        "Post LN needs warm-up: final loss without it less that with it (nats per byte)",
        *("replication", SECTION, Bound(low=0.0), _saved_by_warmup(POST), False),
    ),
    Claim(
        "Pre LN does not: the same",
        *("replication", f"{SECTION}: comparable, +- 0.1", Bound(-0.1, 0.1), _saved_by_warmup(PRE), False),
    ),
    Claim(
        "Post LN with warm-up less pre LN without (nats per byte)",
        *("replication", f"{SECTION}: no better", Bound(low=0.0), _post_less_pre, False),
    ),
)
