"""The kernels of `triton` with products of float32 in TF32: eleven bits of each factor, on the tensor cores.

A name of its own, since the numbers are others: relative to the largest score they are wrong by up to a thousandth.
"""

import torch

from toy_models.attention.kernels.support import interpreted, refusal
from toy_models.attention.options import Options


def refuses(q, k, options: Options) -> str | None:
    """As `triton`, any type but float32, and the interpreter, which knows no TF32."""
    if interpreted():
        return "has no TF32 in Triton's interpreter"
    if q.dtype != torch.float32:
        return f"is for float32, and these are {str(q.dtype).removeprefix('torch.')}"
    return refusal(q, k, options)


def attend(q, k, v, options: Options):
    """See `toy_models.attention.attend`; z and entropy have gradients for q, k, v, alibi_slopes and sink_logit."""
    from toy_models.attention.kernels import serve

    return serve.attend(q, k, v, options, "tf32")
