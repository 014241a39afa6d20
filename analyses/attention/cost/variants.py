"""Ways to compute the same attention, each prepared as a call without arguments."""

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from toy_models.attention import attend
from toy_models.attention.masks import visible_keys
from toy_models.seeding import generator

SDPA, TWICE = "SDPA", "SDPA twice"
FUSED, FUSED_STATISTICS = "fused, output only", "fused + statistics"
EAGER, EAGER_STATISTICS = "eager", "eager + statistics"
TRANSFORMER_LENS = "TransformerLens"
FLASH, CUDNN, MATH = "SDPA flash", "SDPA cuDNN", "SDPA math"
BY_NAME = {FLASH: SDPBackend.FLASH_ATTENTION, CUDNN: SDPBackend.CUDNN_ATTENTION, MATH: SDPBackend.MATH}
HOLD_THE_PATTERN = (EAGER, EAGER_STATISTICS, TRANSFORMER_LENS, MATH)
VARIANTS = (SDPA, FUSED, FUSED_STATISTICS, TWICE, EAGER, EAGER_STATISTICS, TRANSFORMER_LENS)
# A GPU has a choice of torch's kernels, each measured by name.  SDPA twice is not: in 16 bits the mean key is too
# coarse for an entropy.
ON_A_GPU = (SDPA, *BY_NAME, FUSED, FUSED_STATISTICS, EAGER, EAGER_STATISTICS, TRANSFORMER_LENS)
CAUSAL, WINDOW, MODEL = "causal", "window", "model"
IN = {CAUSAL: VARIANTS, WINDOW: (SDPA, FUSED_STATISTICS), MODEL: (SDPA, FUSED_STATISTICS, TRANSFORMER_LENS)}
IN_ON_A_GPU = {**IN, CAUSAL: ON_A_GPU}


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Args: workload: one of IN;  variant: one that IN has for it, or IN_ON_A_GPU;  n: queries, and keys;  window: keys
    that a query sees in the workload WINDOW, its own included;  backend: what "fused" stands for, a name in
    `toy_models.attention.NAMES`;  dtype: torch's name.
    """

    workload: str
    variant: str
    n: int
    window: int
    n_heads: int
    d_head: int
    backend: str
    dtype: str
    device: str


def installed(workload: str, variant: str) -> bool:
    """Whether a variant can run here: our model stands on TransformerLens's hooks, our attention does not."""
    needed = workload == MODEL or variant == TRANSFORMER_LENS
    return not needed or importlib.util.find_spec("transformer_lens") is not None


def prepare(case: Case, seed: int, role: str) -> Callable[[], object]:
    """The call to measure, its inputs drawn and laid out; it returns what the caller of that variant would keep.

    Args:
        seed, role: name the stream of the random inputs, standard normal.
    """
    if case.workload == MODEL:
        from analyses.attention.cost.model import prepare_model  # our model may not be importable here

        return prepare_model(case, seed, role)
    q, k, v = _inputs(case, generator(seed, "bench_attention", role, case.n))
    if case.variant in (SDPA, TWICE, *BY_NAME):
        return _sdpa(q, k, v, case)
    if case.variant == TRANSFORMER_LENS:
        return _transformer_lens(q, case)
    backend = "reference" if case.variant in (EAGER, EAGER_STATISTICS) else case.backend
    statistics = case.variant in (FUSED_STATISTICS, EAGER_STATISTICS)
    window = case.window if case.workload == WINDOW else None
    return lambda: attend(q, k, v, window=window, statistics=statistics, backend=backend)


def _inputs(case: Case, source: torch.Generator) -> list[torch.Tensor]:
    """q, k and v, drawn where they are needed: a processor takes minutes for a million tokens."""
    shape, dtype = (1, case.n, case.n_heads, case.d_head), getattr(torch, case.dtype)
    if torch.device(case.device).type == "cuda":
        there = torch.Generator(case.device).manual_seed(source.initial_seed())
        return [torch.randn(shape, generator=there, device=case.device, dtype=dtype) for _ in "qkv"]
    return [torch.randn(shape, generator=source).to(dtype) for _ in "qkv"]


def _sdpa(q, k, v, case: Case) -> Callable[[], object]:
    """torch's call alone, in its best case: heads first in memory, and a mask that was made before."""
    q, k, v = (one.transpose(1, 2).contiguous() for one in (q, k, v))
    mask = None
    if case.workload == WINDOW:
        mask = visible_keys(case.n, case.n, window=case.window, device=case.device)
    options = {"attn_mask": mask, "is_causal": mask is None}
    if case.variant == SDPA:
        return lambda: F.scaled_dot_product_attention(q, k, v, **options)
    if case.variant in BY_NAME:

        def by_name():
            with sdpa_kernel(BY_NAME[case.variant]):
                return F.scaled_dot_product_attention(q, k, v, **options)

        return by_name

    def twice():
        # Keys in place of values give the mean key, and with it the mean score.  The entropy is the logsumexp less it,
        # which the call does not hand out: what is measured here is the least that this way can cost.
        z, mean_key = (F.scaled_dot_product_attention(q, k, values, **options) for values in (v, k))
        return z, (q * mean_key).sum(-1) / math.sqrt(case.d_head)

    return twice


def _transformer_lens(x, case: Case) -> Callable[[], object]:
    """The attention of TransformerLens's own model, its hook on the pattern in place, its four projections left out."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.hook_points import HookPoint
    from transformer_lens.model_bridge.sources.native.model import NativeAttention

    d_model = case.n_heads * case.d_head
    shape = {"n_heads": case.n_heads, "d_head": case.d_head, "d_model": d_model, "d_vocab": 1, "d_mlp": 1}
    with torch.random.fork_rng(devices=[]):  # its projections would draw weights from the global state
        attention = NativeAttention(TransformerBridgeConfig(n_layers=1, n_ctx=case.n, **shape)).to(case.device)
    for name in "qkvo":
        setattr(attention, name, torch.nn.Identity())
    hook, x = HookPoint(), x.flatten(2)
    return lambda: attention(x, pattern_fn=hook)[0]
