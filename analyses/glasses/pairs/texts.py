"""Texts that end in the token "1", at any length, and their pairs.

    ones          prompt 1 1 1 1 1 1
    digits        prompt 7 0 3 3 9 1          random digits
    separated     prompt 1 , 1 1 1 , 1 1      a separator after every k-th one
    alternating   prompt 1 0 1 0 1

A longer text of one seed begins as a shorter one does, its last token aside ("separated" and "alternating" keep the
phase at their end).  The pair of a text is the same text with its last token once more ("repeated"), or with another
token in the middle of its body ("middle", the control).  Source of the texts: Barbero et al. 2024, arXiv:2406.04267,
figure 5; the control is ours.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int

from toy_models.errors import ConfigError
from toy_models.seeding import generator

TEXTS = ("ones", "digits", "separated", "alternating")
SEPARATOR = 10  # in the vocabulary of our own models: digits stand before it, prompts are made of the rest


@dataclass(frozen=True, eq=False)
class Words:
    """Which token ids the texts are made of."""

    digits: Int[torch.Tensor, " 10"]
    separator: int
    prompt: Int[torch.Tensor, " p"]
    drawn: Int[torch.Tensor, " longest"]  # the random digits, 0 to 9
    every: int = 3


def own_words(d_vocab: int, prompt: int, longest: int, seed: int, every: int = 3) -> Words:
    """For a model of ours: ids 0 to 9 are digits, 10 separates, the prompt is drawn from the others.

    Raises:
        ConfigError: a vocabulary without room for them.
    """
    if d_vocab < SEPARATOR + 2:
        raise ConfigError(f"d_vocab={d_vocab} must be at least {SEPARATOR + 2}: ten digits, a separator and a prompt")
    head = torch.randint(SEPARATOR + 1, d_vocab, (prompt,), generator=generator(seed, "prompt"))
    return Words(torch.arange(10), SEPARATOR, head, _drawn(longest, seed), every)


def checkpoint_words(model, prompt: int, longest: int, seed: int, every: int = 3) -> Words:
    """For a checkpoint: "0" to "9" and "," of its tokenizer where it has them, else random ids; all different.

    The prompt is its start token, if it has one, and random ids.
    """
    start, digits, separator = model.cfg.bos_id, None, None
    if model.tokenizer is not None:
        found = [model.tokenizer.convert_tokens_to_ids(one) for one in "0123456789,"]
        if None not in found and len(set(found)) == len(found):
            digits, separator = found[:10], found[10]
    shuffled = torch.randperm(model.cfg.d_vocab, generator=generator(seed, "words")).tolist()
    if digits is None:
        shuffled = [token for token in shuffled if token != start]
        digits, separator, shuffled = shuffled[:10], shuffled[10], shuffled[11:]
    others = torch.tensor([token for token in shuffled if token not in {start, separator, *digits}])
    if not len(others):
        raise ConfigError(f"a vocabulary of {model.cfg.d_vocab} tokens has none left for a prompt: it needs 13 or more")
    head = others[torch.randint(len(others), (prompt,), generator=generator(seed, "prompt"))]
    if start is not None:
        head = torch.cat([torch.tensor([start]), head[1:]])
    return Words(torch.tensor(digits), separator, head, _drawn(longest, seed), every)


def _drawn(longest: int, seed: int) -> torch.Tensor:
    return torch.randint(10, (longest,), generator=generator(seed, "digits"))


def text(kind: str, n: int, words: Words) -> Int[torch.Tensor, "1 n"]:
    """The text of n tokens, its prompt among them.

    Raises:
        ConfigError: an unknown kind, or fewer than three tokens behind the prompt.
    """
    if kind not in TEXTS:
        raise ConfigError(f"unknown text {kind!r}: choose among {', '.join(TEXTS)}")
    size = n - len(words.prompt)
    if size < 3:
        raise ConfigError(
            f"a text of {n} tokens leaves {max(size, 0)} behind the prompt of {len(words.prompt)}: it needs at least 3"
        )
    from_end = torch.arange(size).flip(0)  # 0 is the last token
    one = words.digits[1].expand(size).clone()
    if kind == "digits":
        body = words.digits[words.drawn[:size]]
        body[-1] = words.digits[1]
    elif kind == "separated":
        body = one.masked_fill(from_end % (words.every + 1) == words.every - 1, words.separator)
    elif kind == "alternating":
        body = torch.where(from_end % 2 == 0, one, words.digits[0])
    else:
        body = one
    return torch.cat([words.prompt, body])[None]


def repeated(first: Int[torch.Tensor, "batch n"]) -> Int[torch.Tensor, "batch m"]:
    """The same texts with the last token once more."""
    return torch.cat([first, first[:, -1:]], dim=1)


def middle(first: Int[torch.Tensor, "batch n"], words: Words) -> Int[torch.Tensor, "batch n"]:
    """The same texts with another digit in the middle of the body: a 2, or a 3 where there was a 2."""
    other = first.clone()
    at = (len(words.prompt) + first.shape[1] - 1) // 2
    two, three = words.digits[2], words.digits[3]
    other[:, at] = torch.where(first[:, at] == two, three, two)
    return other
