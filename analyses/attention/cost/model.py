"""A whole model of two layers, in its three ways: on SDPA, with every row statistic, and TransformerLens's own."""

from collections.abc import Callable

import torch

from analyses.attention.cost.variants import FUSED_STATISTICS, TRANSFORMER_LENS, Case
from toy_models.seeding import generator

LAYERS, D_VOCAB = 2, 64
SEED = 0  # of the weights: any do


def prepare_model(case: Case, seed: int, role: str) -> Callable[[], object]:
    """The call to measure, on random tokens: up to the last residual stream, or that and the statistics per layer.

    TransformerLens computes the logits as well: of D_VOCAB tokens, a thousandth of its work.
    """
    tokens = torch.randint(D_VOCAB, (1, case.n), generator=generator(seed, "bench_attention", role, case.n))
    tokens = tokens.to(case.device)
    shape = {"n_layers": LAYERS, "n_heads": case.n_heads, "d_head": case.d_head, "d_vocab": D_VOCAB, "n_ctx": case.n}
    shape |= {"d_model": case.n_heads * case.d_head, "d_mlp": 4 * case.n_heads * case.d_head, "act_fn": "gelu"}
    call = _theirs(shape, case, tokens) if case.variant == TRANSFORMER_LENS else _ours(shape, case, tokens)

    def without_gradients():
        with torch.no_grad():
            return call()

    return without_gradients


def _ours(shape: dict, case: Case, tokens: torch.Tensor) -> Callable[[], object]:
    from toy_models import Transformer, TransformerConfig

    attention = case.backend if case.variant == FUSED_STATISTICS else "sdpa"
    settings = TransformerConfig(**shape, attention=attention, dtype=getattr(torch, case.dtype), device=case.device)
    model = Transformer(settings, seed=SEED).eval()
    if case.variant == FUSED_STATISTICS:
        return lambda: model.attention_statistics(tokens)
    return lambda: model(tokens, stop_at_layer=LAYERS)


def _theirs(shape: dict, case: Case, tokens: torch.Tensor) -> Callable[[], object]:
    from transformer_lens.model_bridge.sources.native import boot

    model = boot(shape | {"seed": SEED}, device=case.device, dtype=getattr(torch, case.dtype)).eval()
    return lambda: model(tokens)
