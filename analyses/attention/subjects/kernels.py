"""Which attention measures the models: on a GPU Triton's kernels, where they serve."""

import torch

from toy_models.attention import Options, triton


def with_kernels(model):
    """The model, its attention switched to Triton's kernels if it is on a GPU and they serve.

    `auto` does not take them by itself; a backend that was named stays.
    """
    cfg = model.cfg
    if cfg.attention == "auto" and torch.device(cfg.device).type == "cuda" and refused(cfg) is None:
        model.set_attention("triton")
    return model


def refused(cfg) -> str | None:
    """Why Triton's kernels cannot give the statistics of a model of these options, or None."""
    heads = (cfg.n_heads, cfg.n_key_value_heads)
    q, k = (torch.empty(1, 1, n, cfg.d_head, dtype=cfg.dtype, device=cfg.device) for n in heads)
    return triton.refuses(q, k, Options(scale=1.0, statistics=True))
