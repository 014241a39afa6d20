"""Whose scores are scale * q . k over all earlier keys, so that two passes over q and k know them; and equal ones."""

from dataclasses import replace

import torch

from toy_models.config import TransformerConfig
from toy_models.normalisers.softmax import Softmax

WITHOUT_A_TABLE = (None, "rotation")  # where a position code acts that knows every position


def hindrance(model: TransformerConfig, positions: tuple[str | None, ...]) -> str | None:
    """What makes a model's scores something else, as "option=value" in the config's own words, or None.

    Args:
        positions: the places (`PositionSpec.where`) at which a position code may act.
    """
    found = {
        "position": model.position.where not in positions,
        "causal": not model.causal,
        "window": any(model.windows),
        "smeared_keys": model.smeared_keys,
        "attn_scores_soft_cap": model.attn_scores_soft_cap is not None,
        "normaliser": not isinstance(model.normaliser, Softmax),
        # Unrotated keys are read before they are normalised.
        "use_qk_norm": model.use_qk_norm and model.position.where != "rotation",
    }
    return ", ".join(f"{name}={getattr(model, name)}" for name, odd in found.items() if odd) or None


def equal_scores(room: TransformerConfig, seed: int, device: str):
    """One head of a model of these options in which no query asks for anything: every score is 0."""
    from toy_models import Transformer

    model = Transformer(replace(room, n_layers=1, n_heads=1, n_key_value_heads=1, window=None), seed=seed)
    with torch.no_grad():
        model.blocks[0].attn.W_Q.zero_()
    return model.to(device)
