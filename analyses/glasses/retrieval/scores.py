"""Scores set by hand, whose answers are known: independent bounded ones, and a needle a margin above its distractors.

    bounded      uniform on (-4, 4): n * peak -> 8 / (1 - exp(-8)), by the law of large numbers
    a margin m   the needle scores m nats above the others' highest, and log_n multiplies all by s ln n:

        n - 1 equal distractors             p = n^(s m) / (n^(s m) + n - 1)
        uniform on (0, 1), the needle 1 + m     p = 1 / (1 + (n - 1) n^(-s m) (1 - n^(-s)) / (s ln n)),  n large

In both p tends to 1 where s m > 1 and to 0 where s m < 1, so that s m decides at every n; the ln n makes it slow.
Equal distractors are the case of arXiv:2510.05554: a needle of cosine 1 with the query, others of rho, m = 1 - rho.

Sources: probes/theory/sharpness.md; arXiv:2510.05554 for the critical s, 1 / (1 - rho).
"""

import math
from collections.abc import Iterator

import torch

from analyses.glasses.retrieval.nets import per_set, spread_of, summary, weightings
from probes.sharpness import missed_mass
from toy_models.normalisers.log_n import LogN
from toy_models.seeding import generator

BOUNDED, CONSTRUCTED = "bounded scores", "constructed head"
EQUAL, UNIFORM = "equal distractors", "uniform distractors"
HALF_WIDTH = 4.0  # nats
BOUNDED_LIMIT = 2 * HALF_WIDTH / (1 - math.exp(-2 * HALF_WIDTH))
SETS = 256  # of bounded scores: n * peak is then known to a few parts in a thousand
NEEDLE_SETS = 4


def bounded(config, seed: int) -> Iterator[dict]:
    """Rows of independent scores, uniform on (-4, 4)."""
    for length in config.lengths:
        drawn = torch.rand(SETS, 1, 1, length, generator=generator(seed, "bounded", length))
        scores = HALF_WIDTH * (2 * drawn - 1)
        for name, weights in weightings(scores, config.task.longest).items():
            found = per_set(scores, weights) | ({"spread": spread_of(scores)} if name == "softmax" else {})
            place = {"model": BOUNDED, "task": "none", "normaliser": name, "seed": seed, "length": length}
            yield place | {"sets": SETS} | summary(found, length)


def margins(config, seed: int) -> Iterator[dict]:
    """Rows of the needle's weight, at every length, margin and product s * margin."""
    for length in config.margin_lengths:
        stream = generator(seed, "margin", length)
        distractors = {
            EQUAL: torch.zeros(1, length, dtype=torch.float64),
            UNIFORM: torch.rand(NEEDLE_SETS, length, generator=stream, dtype=torch.float64),
        }
        for task, others in distractors.items():
            for margin in config.margins:
                for product in config.s_times_margin:
                    place = {"model": CONSTRUCTED, "task": task, "normaliser": "log_n", "seed": seed, "length": length}
                    place |= {"sets": len(others), "margin": margin, "s_times_margin": product}
                    weight = needle_weight(others, margin, product / margin, above=float(task == UNIFORM))
                    yield place | {"target_weight": weight, "theory": closed_form(task, length, margin, product)}


def needle_weight(others: torch.Tensor, margin: float, s: float, above: float) -> float:
    """Mean weight on the first key if it scores `above + margin`, the others as given, times s ln n."""
    scores = others.clone()
    scores[:, 0] = above + margin
    visible = torch.ones(1, 1, 1, others.shape[1], dtype=torch.bool)
    weights = LogN(s=s)(scores[:, None, None], visible)[:, 0, 0]
    return (1 - missed_mass(weights, torch.zeros(len(others), dtype=torch.long))).mean().item()


def closed_form(task: str, n: int, margin: float, s_times_margin: float) -> float:
    """What the docstring says of the needle's weight."""
    rest = (n - 1) * n**-s_times_margin  # of the others together, over the needle's
    if task == UNIFORM:
        slope = s_times_margin / margin * math.log(n)
        rest *= -math.expm1(-slope) / slope
    return 1 / (1 + rest)
