"""How wide must the stream be to count tokens of a vocabulary?

The last token asks how often it stood in the text before it (`toy_models.tasks.count_query`).  With one direction for
each of the m tokens an average over the text is their histogram, and one neuron a token reads it: width d >= m is
enough.  With fewer directions the tokens interfere.  Texts have `per_token` x m tokens, so that the counts are alike in
every vocabulary.

Constructed nets of one head show what the width alone does: orthogonal tokens from d = m on; a simplex at d = m - 1,
which still counts exactly because at a known length all interference is one constant; random directions below.  Beside
them one layer and one head trained at every d and m, without norms and with an MLP of one size, and the same untrained.
The critical width of a vocabulary is where the accuracy crosses 0.8, between two widths by the logarithm.

Source: Yehudai et al. 2024, arXiv:2407.15160: counting is exact and learned from d = m on; below, weights have to grow
with the precision that is asked for, and training drops.  That is hard, not impossible.
"""

from dataclasses import dataclass, field

import pandas as pd

from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.core.sweep import run_jobs
from analyses.counting.widths.claims import CLAIMS as CLAIMS
from analyses.counting.widths.columns import CONSTRUCTED, TRAINED, UNTRAINED
from toy_models.tasks.count_query import CountQuery
from toy_models.train import TrainConfig


@dataclass(frozen=True)
class Config:
    """Args: widths: d_model, rising;  vocabularies: m, rising;  per_token: tokens of a text over m;  most: the last
    answer, most or more;  d_mlp: neurons, at least m;  test_texts: per net."""

    widths: tuple[int, ...] = (2, 4, 8, 16, 32)
    vocabularies: tuple[int, ...] = (4, 8, 16, 32)
    per_token: int = 4
    most: int = 15
    d_mlp: int = 64
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=1500, batch_size=256, lr=1e-2, warmup=50, decay=0.5, weight_decay=0.0)
    )
    test_texts: int = 1024
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14)  # the settings above and LEVEL were chosen on seeds 0 to 2
    device: str = "cpu"

    def __post_init__(self):
        for name in ("widths", "vocabularies"):
            values = getattr(self, name)
            if len(values) < 2 or list(values) != sorted(set(values)) or values[0] < 2:
                raise WorkbenchError(f"{name}={values} must be two or more whole numbers, rising from 2 or more")
        if self.d_mlp < self.vocabularies[-1]:
            raise WorkbenchError(f"d_mlp={self.d_mlp} must be {self.vocabularies[-1]} or more, a neuron for each token")

    def task(self, vocabulary: int) -> CountQuery:
        """The task of one vocabulary, all texts of one length."""
        length = self.per_token * vocabulary
        return CountQuery(vocabulary, length, length, self.most)


QUICK = {"widths": (2, 4, 8, 16), "vocabularies": (8, 16), "train.steps": 200, "test_texts": 256, "seeds": (0, 1)}

COLUMNS = {
    "model": f"{TRAINED}; {UNTRAINED}, the same net at birth; {CONSTRUCTED}, weights by hand",
    "frame": "how the constructed net embeds its tokens: orthogonal, simplex or random; else empty",
    "seed": "of the weights, the training data and the test texts",
    "vocabulary": "m, different tokens",
    "d_model": "d, width of the stream",
    "length": "tokens of a text",
    "accuracy": "share of test texts whose count is told right (0 to 1)",
    "error": "mean distance of the told count from the true one (counts)",
    "guess": "accuracy of the likeliest count as the answer to every text (0 to 1)",
    "chance": "accuracy of an answer at random among all counts (0 to 1)",
    "reading_error": "largest distance of what the firing neuron holds from the count (counts); constructed only",
}


def run(config: Config) -> Result:
    """Train every width and vocabulary, all seeds together; measure before and after, and the constructed nets."""
    jobs = [(_train_cell, config, m, d) for m in reversed(config.vocabularies) for d in reversed(config.widths)]
    jobs += [(_construct_seed, config, seed) for seed in config.seeds]
    done = run_jobs(_call, jobs, label="widths and vocabularies, nets by hand")
    table = pd.DataFrame([row for rows in done for row in rows], columns=list(COLUMNS))
    table = table.sort_values(["model", "frame", "vocabulary", "d_model", "seed"], ignore_index=True)
    return Result(table, measured_with={"device": config.device, "dtype": "float32", "backend": ["materialised"]})


def _call(job: tuple) -> list[dict]:
    function, *given = job
    return function(*given)


def _train_cell(config: Config, vocabulary: int, d_model: int) -> list[dict]:
    from analyses.counting.widths.nets import trained

    return trained(config, vocabulary, d_model)


def _construct_seed(config: Config, seed: int) -> list[dict]:
    from analyses.counting.widths.nets import constructed

    return constructed(config, seed)
