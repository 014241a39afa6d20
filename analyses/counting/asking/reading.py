"""How likely a model holds each answer: the log probability of its tokens behind the prompt, without sampling.

    log p(answer) = sum_t log p(token_t | prompt, tokens before)        nats

over the tokens in which the texts of prompt and answer differ from those of the other answers; what all texts begin
with costs every answer the same and is left out.  So a tokenizer may join the prompt's end with the answer's beginning.
"""

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analyses.counting.asking.prompts import Prompt
from toy_models.errors import ConfigError, ModelError

Encode = Callable[[Sequence[str]], list[list[int]]]
LOGITS_AT_ONCE = 2**24


@torch.no_grad()
def log_probabilities(model: Any, encode: Encode, prompt: Prompt) -> Float[Tensor, " answer"]:
    """Of every answer, in nats; float64 sums of the model's own logits.

    The prompt goes through the model once, and the answers, padded to one length, behind its cached keys and values.

    Args:
        encode: texts to token ids, whatever a text begins with included.

    Raises:
        ModelError: the tokenizer gives two answers the same tokens, or a token that the model does not embed.
        ConfigError: more tokens than the model has positions.
    """
    texts = _tokens(model, encode, prompt)
    shared = _shared(texts)
    past = model.empty_cache()
    if shared > 1:
        model(torch.tensor(texts[0][: shared - 1])[None].to(model.cfg.device), past=past)
    rest = [text[shared - 1 :] for text in texts]  # the last shared token predicts the first of the answer's own
    longest = max(map(len, rest))
    rows = torch.tensor([one + [one[-1]] * (longest - len(one)) for one in rest])
    own = torch.arange(1, longest) < torch.tensor([len(one) for one in rest])[:, None]
    some = max(1, LOGITS_AT_ONCE // (longest * model.cfg.d_vocab_out))
    found = [_summed(model, rows[at : at + some], own[at : at + some], past) for at in range(0, len(rows), some)]
    return torch.cat(found)


@torch.no_grad()
def one_by_one(model: Any, encode: Encode, prompt: Prompt) -> Float[Tensor, " answer"]:
    """The same from one whole text at a time, without cache or padding: slow, and what the fast way is held to."""
    texts = _tokens(model, encode, prompt)
    shared = _shared(texts)
    found = []
    for text in texts:
        tokens = torch.tensor(text)[None].to(model.cfg.device)
        told = model(tokens)[0, :-1].double().log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
        found.append(told[shared - 1 :].sum())
    return torch.stack(found).cpu()


def _summed(model: Any, rows: Tensor, own: Tensor, past: Any) -> Float[Tensor, " row"]:
    rows = rows.to(model.cfg.device)
    given = {"past": past.prefix(past.length, len(rows))} if past.length else {}
    told = model(rows, **given)[:, :-1].double().log_softmax(-1).gather(2, rows[:, 1:, None])[..., 0]
    return torch.where(own.to(told.device), told, 0.0).sum(-1).cpu()


def _shared(texts: list[list[int]]) -> int:
    """With how many tokens all texts begin alike."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*texts, strict=False)))


def _tokens(model: Any, encode: Encode, prompt: Prompt) -> list[list[int]]:
    texts = encode([prompt.text + answer for answer in prompt.answers])
    if not _shared(texts):
        raise ModelError(f"the tokenizer gives texts that begin alike no token in common: {prompt.text[:40]!r}")
    seen: dict[tuple[int, ...], str] = {}
    for text, answer in zip(texts, prompt.answers, strict=True):
        if (other := seen.setdefault(tuple(text), answer)) != answer:
            raise ModelError(
                f"the tokenizer cannot tell the answer {answer!r} from {other!r}: give one that has digits"
            )
    if (largest := max(map(max, texts))) >= model.cfg.d_vocab:
        raise ModelError(
            f"the tokenizer gives token {largest}, the model embeds {model.cfg.d_vocab}: put the tokenizer that the "
            f"model was trained with beside it"
        )
    if (longest := max(map(len, texts))) > model.cfg.n_ctx:
        raise ConfigError(
            f"a prompt of {longest} tokens goes beyond the {model.cfg.n_ctx} positions of the model: "
            f"choose shorter lengths or fewer examples"
        )
    return texts
