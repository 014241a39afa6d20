"""Logit lens: what would the model say if it stopped after this layer?

The stream before the first block and after every block is read out as the last one is, through the final norm (its
scale computed anew) and the unembedding.  With p_l the distribution read at reading l, and p the model's own:

    loss          -ln p_l(target)                    nats      0 upwards; ln V for a uniform reading
    probability   p_l(target)                        fraction  0 to 1
    rank          tokens with a larger logit         count     0 (the likeliest) to V - 1
    divergence    KL(p || p_l) = sum_v p ln(p/p_l)   nats      0 upwards; exactly 0 at the last reading

Reading 0 is the embedding, reading l the stream after block l - 1; the last is the model's own output.

Source: nostalgebraist 2020, "interpreting GPT: the logit lens".  Early layers need not write in the basis that the
unembedding reads: Belrose et al. 2023, arXiv:2303.08112, find readings biased and, on some models, misleading, and
train a translator per layer instead.  A late reading that is good is evidence; an early one that is bad is none.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes import names
from probes.errors import ProbeInputError
from probes.model import HookedModel, cached, target_losses

ROUNDINGS = 8  # between the model's logits and the same two modules on the same stream there is none on one machine


@dataclass(frozen=True)
class LogitLens:
    """Every reading at every position that has a target; `reading` counts n_layers + 1, embedding first."""

    loss: Float[Tensor, "reading batch position"] = field(metadata={"unit": "nats"})
    probability: Float[Tensor, "reading batch position"]
    rank: Int[Tensor, "reading batch position"]
    divergence: Float[Tensor, "reading batch position"] = field(metadata={"unit": "nats"})


@torch.no_grad()
def logit_lens(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], targets: Int[Tensor, "batch position"] | None = None
) -> LogitLens:
    """Read every layer of a hooked model on these texts, in one forward pass.

    Args:
        targets: the right answer at every position; by default the next token, and no reading at the last position.

    Raises:
        ProbeInputError: targets of another shape or outside the vocabulary, a text of one token without targets, or a
            model without the hooks, the final norm or the unembedding.
    """
    if targets is None:
        if tokens.shape[1] < 2:
            raise ProbeInputError(f"a text of {tokens.shape[1]} token has no next one: give targets, or at least 2")
        targets = tokens[:, 1:]
    elif targets.shape != tokens.shape:
        raise ProbeInputError(
            f"targets have shape {tuple(targets.shape)}: one per token is needed, {tuple(tokens.shape)}"
        )
    n_layers, n = model.cfg.n_layers, targets.shape[1]
    wanted = [names.resid_pre(0), *(names.resid_post(layer) for layer in range(n_layers))]
    logits, cache = cached(model, tokens, wanted)
    _refuse_another_way_out(read_out(model, cache[wanted[-1]]), logits)
    final = _log_probabilities(logits[:, :n])
    targets = targets.to(logits.device).long()
    rows = [_measure(read_out(model, cache[name])[:, :n], targets, final) for name in wanted]
    return LogitLens(*(torch.stack(column) for column in zip(*rows, strict=True)))


def read_out(
    model: HookedModel, residual: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_vocab_out"]:
    """The logits that a stream gives through the model's own final norm and unembedding.

    Raises:
        ProbeInputError: the model has no module `ln_final` or `unembed`.
    """
    for name in ("ln_final", "unembed"):
        if not callable(getattr(model, name, None)):
            raise ProbeInputError(f"the model has no module {name}: the lens reads through ln_final and unembed")
    return model.unembed(model.ln_final(residual))


def _refuse_another_way_out(last: Tensor, logits: Tensor) -> None:
    """Soft-capped or scaled logits, say: the lens would be off at every layer."""
    off = (last - logits).where(last != logits, 0.0).abs().max().item()  # two infinite logits are equal
    size = logits.nan_to_num(0.0, 0.0, 0.0).abs().max().item()
    if not off <= ROUNDINGS * torch.finfo(logits.dtype).eps * size:  # written so that NaN fails too
        raise ProbeInputError(
            f"the last layer through ln_final and unembed is off the model's own logits by {off:.3g}: "
            f"the lens needs a model whose logits leave through these two alone"
        )


def _measure(logits: Tensor, targets: Tensor, final: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss = target_losses(logits, targets)
    rank = (logits > logits.gather(-1, targets[..., None])).sum(-1)
    read = _log_probabilities(logits)
    # Where p is 0 its term is 0, also when p_l is 0 as well.
    terms = torch.where(final.isneginf(), 0.0, final.exp() * (final - read))
    return loss, (-loss).exp(), rank, terms.sum(-1)


def _log_probabilities(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
