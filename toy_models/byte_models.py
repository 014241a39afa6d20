"""Small models that read real text byte by byte, by name, so that every study opens the same ones.

    train_or_load(byte_model(TWO_LAYERS, seed=10), folder).model

Attention alone, without norms: two layers; one layer, as the control; and one layer whose keys are smeared with
their predecessor's, which takes the place of the first layer of an induction circuit (Olsson et al. 2022,
arXiv:2209.11895).
"""

from dataclasses import replace

from toy_models.checkpoints import RunConfig
from toy_models.config import TransformerConfig
from toy_models.errors import ConfigError
from toy_models.tasks.text import BOS, Text
from toy_models.train import TrainConfig

TWO_LAYERS, ONE_LAYER, SMEARED = "2 layers", "1 layer", "1 layer, smeared keys"
CONDITIONS = (TWO_LAYERS, ONE_LAYER, SMEARED)
MODEL = TransformerConfig(
    **{"n_layers": 2, "n_heads": 8, "d_model": 64, "d_mlp": 0, "d_vocab": Text.d_vocab, "n_ctx": 128},
    **{"position": "shortformer", "normalization_type": None, "bos_id": BOS},
)
TASK = Text(n_ctx=128)
TRAIN = TrainConfig(steps=3000, batch_size=16, checkpoint_every=150)


def byte_model(
    name: str,
    seed: int,
    *,
    model: TransformerConfig = MODEL,
    task: Text = TASK,
    train: TrainConfig = TRAIN,
    device: str = "cpu",
) -> RunConfig:
    """What decides the model called `name` in CONDITIONS: `model` with its layers, on the text as it is now.

    Raises:
        ConfigError: an unknown name, or a text that cannot be read.
    """
    if name not in CONDITIONS:
        raise ConfigError(f"unknown byte model {name!r}: choose one of {', '.join(CONDITIONS)}")
    shape = {"n_layers": 2 if name == TWO_LAYERS else 1, "smeared_keys": name == SMEARED, "device": device}
    return RunConfig(model=replace(model, **shape), task=task.pinned(), train=train, seed=seed)
