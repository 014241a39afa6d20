"""Where the kernels cannot serve, said without importing Triton."""

import importlib.util
import os

import torch

from toy_models.attention.options import Options

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
WIDEST = 256  # of a head: a block of wider rows does not fit on the chip
CAPABILITY = (8, 0)  # the first that multiplies bfloat16
MOST = 65535  # heads of all texts together: one row of a launch's grid for each


def refusal(q, k, options: Options) -> str | None:
    """What the kernels do not have, or what they need that is not there; None if they serve."""
    if options.bias is not None:
        return "has no bias"
    if q.dtype not in DTYPES:
        return f"has no {str(q.dtype).removeprefix('torch.')}"
    if q.shape[-1] > WIDEST:
        return f"has no heads wider than {WIDEST}, and these are {q.shape[-1]} wide"
    if q.shape[0] * q.shape[2] > MOST:
        return f"has no room for {q.shape[0]} texts of {q.shape[2]} heads, more than {MOST} together"
    if importlib.util.find_spec("triton") is None:
        return "needs Triton, which is not installed (pip install triton)"
    if interpreted():
        return None
    if q.device.type != "cuda":
        return f"runs on a GPU, and these tensors are on {q.device} (for tests: TRITON_INTERPRET=1 in the environment)"
    if torch.cuda.get_device_capability(q.device) < CAPABILITY:
        return "needs a GPU of compute capability 8.0 or more"
    return None


def interpreted() -> bool:
    """Whether Triton's interpreter is asked for: on a CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")
