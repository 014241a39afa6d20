"""Short trainings of deep models on text, with warm-up and without."""

from dataclasses import replace

import numpy as np

from analyses.glasses.depth.born import NORMS
from toy_models.config import TransformerConfig
from toy_models.tasks.text import BOS, Text
from toy_models.train import TrainConfig, train

SIZE = {"n_heads": 2, "d_model": 32, "d_vocab": Text.d_vocab, "position": "rope", "bos_id": BOS}


def losses(norm: str, depth: int, task: Text, config: TrainConfig, warmup: int, seed: int) -> np.ndarray:
    """The training loss of every update (nats per byte), by the weights that all our models are born with.

    Raises:
        TrainingError: the loss stopped being finite.
    """
    from toy_models import Transformer

    kind, position = NORMS[norm]
    options = {"normalization_type": kind, "norm_position": position}
    model = Transformer(TransformerConfig(n_layers=depth, n_ctx=task.n_ctx, **SIZE, **options), seed=seed)
    model.train()
    updates = train(model, task, replace(config, warmup=warmup), seed=seed, show_progress=False)
    return np.array([loss for _, loss in updates])
