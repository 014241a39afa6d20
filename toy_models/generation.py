"""The key-value cache, and the loop that extends a text token by token."""

import torch
from jaxtyping import Float, Int

from toy_models.errors import InputError
from toy_models.progress import progress


class KeyValueCache:
    """Keys and values of the tokens seen so far, one pair per layer, as `hook_k` and `hook_v` left them.

    Smearing and rotation are applied when the keys are read, so an edit through those hooks lasts and
    `hook_rot_k` sees every key.  `length` moves only when a whole forward pass has succeeded.
    """

    def __init__(self, n_layers: int):
        self.length = 0
        self._pairs: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * n_layers

    def extend(
        self,
        layer: int,
        k: Float[torch.Tensor, "batch new kv_head d_head"],
        v: Float[torch.Tensor, "batch new kv_head d_head"],
    ) -> tuple[Float[torch.Tensor, "batch key kv_head d_head"], Float[torch.Tensor, "batch key kv_head d_head"]]:
        """All keys and values of the layer, the new ones last."""
        if self.length:
            if self._pairs[layer] is None:
                raise InputError(f"the cache holds no keys of layer {layer}: the pass that filled it stopped before")
            old_k, old_v = self._pairs[layer]
            if old_k.shape[0] != k.shape[0]:
                raise InputError(f"the cache holds a batch of {old_k.shape[0]}, the new tokens one of {k.shape[0]}")
            k, v = torch.cat([old_k[:, : self.length], k], 1), torch.cat([old_v[:, : self.length], v], 1)
        self._pairs[layer] = (k, v)
        return k, v

    def prefix(self, length: int, copies: int = 1) -> "KeyValueCache":
        """A cache of the first `length` tokens, the batch `copies` times over; this one stays as it is.

        Raises:
            InputError: more tokens than there are.
        """
        if not 0 <= length <= self.length:
            raise InputError(f"length={length} must lie in [0, {self.length}], the tokens seen so far")
        taken = KeyValueCache(len(self._pairs))
        taken.length = length
        for layer, pair in enumerate(self._pairs):
            if pair is not None:  # of a batch of one the copies are views
                k, v = (x[None, :, :length].expand(copies, *[-1] * x.ndim).flatten(0, 1) for x in pair)
                taken._pairs[layer] = (k, v)
        return taken


def choose(
    logits: Float[torch.Tensor, "batch d_vocab"], temperature: float, generator: torch.Generator | None
) -> Int[torch.Tensor, " batch"]:
    """The next token: the likeliest (temperature 0) or a draw from softmax(logits / temperature)."""
    if temperature == 0:
        return logits.argmax(-1)
    weights = (logits.float() / temperature).softmax(-1)
    return torch.multinomial(weights.cpu(), 1, generator=generator)[:, 0].to(logits.device)


@torch.no_grad()
def generate(
    model,
    tokens: Int[torch.Tensor, "*batch pos"],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    use_past: bool = True,
    show_progress: bool = False,
) -> Int[torch.Tensor, "batch longer"]:
    """See `Transformer.generate`."""
    if max_new_tokens < 0:
        raise InputError(f"max_new_tokens={max_new_tokens} must not be negative")
    if temperature < 0:
        raise InputError(f"temperature={temperature} must be 0 (greedy) or positive")
    if temperature > 0 and generator is None:
        raise InputError("sampling needs generator=torch.Generator().manual_seed(...): the global state is not used")
    tokens = model.to_tokens(tokens)
    if tokens.shape[1] + max_new_tokens > model.cfg.n_ctx + 1:
        raise InputError(
            f"{tokens.shape[1]} tokens and {max_new_tokens} new ones go beyond n_ctx={model.cfg.n_ctx}: "
            f"ask for at most {model.cfg.n_ctx + 1 - tokens.shape[1]}"
        )
    past = KeyValueCache(model.cfg.n_layers) if use_past else None
    new = tokens
    for _ in progress(range(max_new_tokens), "generate", show_progress):
        logits = model(new if use_past else tokens, past=past)
        new = choose(logits[:, -1], temperature, generator)[:, None]
        tokens = torch.cat([tokens, new], dim=1)
    return tokens
