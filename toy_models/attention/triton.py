"""Attention and every row statistic in one pass on a GPU, as a Triton kernel; gradients by recomputing the scores.

For float16, bfloat16 and float32, whose products are those of IEEE float32 (`triton_tf32` has the fast ones).  Scores,
sums and statistics are in float32.  Memory is O(n).  On a CPU it runs in Triton's interpreter only, for tests: set
TRITON_INTERPRET=1 before Python starts.  Nothing of Triton is imported before something is computed.
"""

from toy_models.attention.kernels.support import refusal
from toy_models.attention.options import Options


def refuses(q, k, options: Options) -> str | None:
    """What the kernels do not have, and where they cannot run."""
    return refusal(q, k, options)


def attend(q, k, v, options: Options):
    """See `toy_models.attention.attend`; z and entropy have gradients for q, k, v, alibi_slopes and sink_logit."""
    from toy_models.attention.kernels import serve

    return serve.attend(q, k, v, options, "ieee")
