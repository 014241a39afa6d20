"""The configurations that Triton's tuner may choose from, and the kernels with their tuners.

A kernel is compiled once per family: head widths, type, and which options are in use.  Lengths, batch, heads and the
values of the options are run-time numbers.  The first time a family is met, the tuner times the few blocks listed for
it and keeps the fastest; one that asks for more shared memory than the device has is passed over.  In Triton's
interpreter (TRITON_INTERPRET=1) there is nothing to tune: one small block.
"""

from functools import partial

import torch
import triton

from toy_models.attention.kernels import backward as backward_kernels
from toy_models.attention.kernels.forward import forward as forward_kernel
from toy_models.attention.kernels.received import received as received_kernel
from toy_models.attention.kernels.support import interpreted

LOG2E = 1.4426950408889634
# Blocks of (queries, keys, warps, stages) by kernel, by kind of product and by the padded head width: those of the
# first width that is wide enough.  What decides is the registers: a number of the inner loop that does not fit in them
# goes to memory and back on every turn.  The last block of a line keeps them all, or all but one instruction in two
# hundred, with every option on, and needs no more than 99 kB of shared memory, the least that a supported device has.
# With many options the larger blocks lack registers; the tuner finds out what that costs.  Products of 16 bits, and
# those of TF32, run on the tensor cores: 64 rows or more, to use what capability 9.0 has for them.  Those of IEEE
# float32 do not: each thread holds rows of both factors, so the blocks are small.
BLOCKS = {
    "forward": {
        "16-bit": {
            64: ((128, 128, 8, 3), (128, 64, 8, 3), (64, 32, 4, 3)),
            128: ((128, 64, 8, 3), (128, 32, 8, 3), (64, 32, 8, 3)),
            256: ((128, 32, 8, 2), (64, 32, 8, 2), (32, 32, 8, 2)),
        },
        "tf32": {
            64: ((128, 64, 8, 2), (128, 32, 8, 3), (64, 32, 4, 3)),
            128: ((128, 32, 8, 2), (64, 32, 4, 2), (64, 16, 8, 2)),
            256: ((128, 16, 8, 2), (64, 16, 8, 2), (32, 16, 8, 2)),
        },
        "ieee": {
            64: ((64, 32, 8, 2), (32, 32, 4, 2), (32, 16, 4, 2)),
            128: ((32, 32, 8, 2), (16, 32, 8, 2)),
            256: ((16, 32, 8, 2), (16, 16, 8, 2)),
        },
    },
    "received": {
        "16-bit": {
            64: ((64, 128, 8, 3), (64, 64, 4, 3)),
            128: ((64, 128, 8, 3), (64, 64, 4, 3)),
            256: ((64, 64, 8, 2), (32, 64, 4, 2)),
        },
        "tf32": {
            64: ((64, 128, 8, 2), (64, 64, 4, 2)),
            128: ((64, 64, 8, 2), (32, 64, 4, 2)),
            256: ((32, 64, 4, 2), (16, 64, 4, 2)),
        },
        "ieee": {
            64: ((32, 64, 8, 2), (32, 32, 4, 2)),
            128: ((32, 32, 8, 2), (32, 32, 4, 2)),
            256: ((32, 32, 8, 2), (16, 32, 4, 2)),
        },
    },
    "by_queries": {
        "16-bit": {
            64: ((128, 64, 8, 3), (64, 32, 4, 3)),
            128: ((128, 64, 8, 2), (128, 32, 8, 2), (64, 32, 4, 2)),
            256: ((128, 16, 8, 2), (64, 32, 8, 2), (64, 16, 8, 2)),
        },
        "tf32": {
            64: ((128, 32, 8, 2), (64, 32, 4, 2)),
            128: ((128, 16, 8, 2), (64, 16, 4, 2)),
            256: ((32, 16, 8, 2), (16, 16, 4, 2)),
        },
        "ieee": {
            64: ((64, 32, 8, 2), (32, 32, 4, 2)),
            128: ((32, 32, 8, 2), (16, 32, 8, 2)),
            256: ((16, 32, 8, 2), (16, 16, 8, 2)),
        },
    },
    "by_keys": {
        "16-bit": {
            64: ((64, 128, 8, 2), (64, 64, 4, 2), (32, 128, 8, 2)),
            128: ((64, 64, 8, 2), (32, 128, 8, 2), (32, 64, 8, 2)),
            256: ((16, 64, 8, 2), (32, 32, 8, 2), (16, 32, 4, 2)),
        },
        "tf32": {
            64: ((32, 128, 8, 2), (32, 64, 4, 2), (16, 64, 4, 2)),
            128: ((16, 128, 8, 2), (16, 64, 4, 2), (16, 32, 4, 2)),
            256: ((16, 32, 8, 2), (16, 16, 8, 2)),
        },
        "ieee": {
            64: ((32, 64, 8, 2), (32, 32, 4, 2)),
            128: ((32, 32, 8, 2), (16, 32, 8, 2)),
            256: ((16, 32, 8, 2), (16, 16, 8, 2)),
        },
    },
}
DESCRIBED = ("forward",)  # from capability 9.0 on, with the first block of the line once more: tiles by descriptor
SMALL = (64, 64, 4, 1)  # in the interpreter
FAMILY = ("DP", "CAUSAL", "WINDOWED", "PADDED", "ALIBI", "CAPPED", "PRECISION")


def configurations(kernel: str) -> list[triton.Config]:
    """Every one listed for a kernel, each once."""
    if interpreted():
        return [configuration(*SMALL)]
    lines = [several for table in BLOCKS[kernel].values() for several in table.values()]
    plain = [configuration(*one) for one in dict.fromkeys(one for several in lines for one in several)]
    if kernel not in DESCRIBED:
        return plain
    return plain + [configuration(*one, DESCRIPTORS=True) for one in dict.fromkeys(several[0] for several in lines)]


def configuration(queries: int, keys: int, warps: int, stages: int, **more: bool) -> triton.Config:
    """One way to cut and run a kernel.  Products and sums are fused, which Triton 3.9 wants to be told."""
    chosen = {"BM": queries, "BN": keys, **more, "enable_fp_fusion": True}
    return triton.Config(chosen, num_warps=warps, num_stages=stages)


def blocks(kernel: str, dtype: torch.dtype, precision: str, width: int) -> tuple[tuple[int, int, int, int], ...]:
    """Those listed for a family; `precision` is that of products of float32, and `width` that of padded heads."""
    table = BLOCKS[kernel][precision if dtype == torch.float32 else "16-bit"]
    return next(several for widest, several in table.items() if width <= widest)


def fitting(configs: list[triton.Config], named: dict, *, kernel: str, **more) -> list[triton.Config]:
    """The configurations for a call, in the order of the list."""
    if interpreted():
        return configs
    arguments = named | more
    listed = blocks(kernel, arguments["Q"].dtype, arguments["PRECISION"], arguments["DP"])
    wanted = [configuration(*one) for one in listed]
    if arguments.get("ALIGNED") and triton.runtime.driver.active.get_current_target().arch >= 90:
        wanted.insert(1, configuration(*listed[0], DESCRIPTORS=True))
    return [next(one for one in configs if one == other) for other in wanted]


def _tuned(kernel, *flags: str):
    """The kernel with its tuner; `flags` are of the family beside FAMILY."""
    name = kernel.__name__
    keys = [key for key in (*FAMILY, *flags) if key in kernel.arg_names]
    prune = partial(fitting, kernel=name)
    return triton.autotune(configurations(name), key=keys, prune_configs_by={"early_config_prune": prune})(kernel)


FORWARD = _tuned(forward_kernel, "SINK", "STATISTICS", "TARGETED", "ALIGNED")
RECEIVED = _tuned(received_kernel)
BY_QUERIES = _tuned(backward_kernels.by_queries, "PULLED")
BY_KEYS = _tuned(backward_kernels.by_keys, "PULLED")
