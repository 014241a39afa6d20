"""The models that read a pair: random ones, by what they know of positions, and a checkpoint beside its twin."""

from dataclasses import replace

import torch

from toy_models.config import TransformerConfig
from toy_models.errors import ConfigError
from toy_models.positions.alibi import Alibi

NONE, ROPE, STEEP, SHALLOW, LEARNED = "none", "rope", "alibi 1/2", "alibi 1/256", "learned"
POSITIONS = (NONE, ROPE, STEEP, SHALLOW, LEARNED)
SLOPES = {STEEP: 2.0**-1, SHALLOW: 2.0**-8}  # nats per token, the same in every head
CHECKPOINT, TWIN = "checkpoint", "its untrained twin"


def with_position(shape: TransformerConfig, position: str) -> TransformerConfig:
    """The options of a random model.

    Raises:
        ConfigError: an unknown position.
    """
    if position not in POSITIONS:
        raise ConfigError(f"unknown position {position!r}: choose among {', '.join(POSITIONS)}")
    spec = Alibi(slopes=(SLOPES[position],) * shape.n_heads) if position in SLOPES else position
    return replace(shape, position=spec)


def random_model(shape: TransformerConfig, position: str, seed: int):
    """A model with weights of its first day."""
    from toy_models import Transformer

    return Transformer(with_position(shape, position), seed=seed)


def open_checkpoint(directory: str, longest: int, device: str):
    """A checkpoint of Hugging Face with room for texts of `longest` tokens.

    Raises:
        ModelError: nothing there that can be read.
        ConfigError: texts beyond its table of positions.
    """
    from toy_models import from_hf

    model = from_hf(directory, dtype=torch.float32, device=device)
    if model.cfg.position.where == "embed" and longest > model.cfg.n_ctx:
        raise ConfigError(
            f"texts of {longest} tokens go beyond the n_ctx={model.cfg.n_ctx} positions that {directory} has a table "
            f"of: choose shorter lengths (the second text of a pair has one token more)"
        )
    model.cfg = replace(model.cfg, n_ctx=max(longest, model.cfg.n_ctx))
    return model


def twin(model, seed: int):
    """A model of the same options with weights of our own drawing."""
    from toy_models import Transformer

    return Transformer(model.cfg, seed=seed)


def check_lengths(lengths: tuple[int, ...], n_ctx: int, prompt: int) -> None:
    """Refuse lengths that do not rise, leave no room behind the prompt, or go beyond the model.

    Raises:
        ConfigError: one line.
    """
    if len(lengths) < 3 or list(lengths) != sorted(set(lengths)) or lengths[0] < prompt + 3:
        raise ConfigError(f"lengths={lengths} must be three or more and rise, from prompt + 3 = {prompt + 3} on")
    if lengths[-1] + 1 > n_ctx:
        raise ConfigError(
            f"lengths={lengths} go beyond n_ctx={n_ctx}: the second text of a pair has {lengths[-1] + 1} tokens; "
            f"choose shorter ones, or a larger n_ctx"
        )
