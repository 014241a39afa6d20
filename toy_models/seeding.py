"""Random streams addressed by name: the same words give the same stream, whatever else is drawn.

A model's `blocks.0.attn.W_Q` and the batch of step 17 each get a stream of their own.  Adding an
option or a layer therefore leaves every other draw as it was, and a run resumes exactly without
saving a generator's state.
"""

import hashlib

import torch


def generator(seed: int, *words: str | int) -> torch.Generator:
    """A fresh CPU generator for the stream `(seed, *words)`; the global random state is not touched."""
    text = "/".join(map(str, (int(seed), *words)))
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
