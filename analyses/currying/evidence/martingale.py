"""The martingale test: does a predictor expect to be told anything by its own next word?

For texts x of n throws and one throw y asked behind them, with z drawn by the predictor itself where it stands,

    gap     |sum_z p(z | x, y) p(. | x, z, y) - p(. | x, y)|        total variation, 0 to 1; 0 for Bayes on dice
    move    sum_z p(z | x, y) |p(. | x, z, y) - p(. | x, y)|        what one more throw changes

The same for W': p(. | x, y) is T_{W'(x)}(y), and x, z is curried anew.  Order asks for less: the variance, over
orders of x, of p(. | x, y) should be 0 too.

Sources: Falck et al. 2024, arXiv:2406.00793; gaps by positions, and that order stops to matter without them, Chlon et
al. 2025, arXiv:2507.11768.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.currying.curried import curry
from probes.currying.reading import uniform_queries
from toy_models.tasks.hidden_source import BOS

# From texts (batch, pos), without BOS, and a throw behind each, (batch,), to probabilities of the next.
Predictor = Callable[[Tensor, Tensor], Tensor]


def gap_and_move(
    predict: Predictor, texts: Int[Tensor, "batch pos"], asked: Int[Tensor, " batch"], n_sides: int
) -> tuple[float, float]:
    """Both, mean over texts; z runs over all sides."""
    now = predict(texts, asked)
    sides = torch.arange(1, n_sides + 1)
    told = torch.cat([texts.repeat_interleave(n_sides, 0), sides.repeat(len(texts))[:, None]], 1)
    then = predict(told, asked.repeat_interleave(n_sides)).unflatten(0, (len(texts), n_sides))
    weight = now[:, 1:, None] / now[:, 1:].sum(1)[:, None, None]  # BOS, which no text has, left out
    gap = (weight * then).sum(1) - now
    return _variation(gap).mean().item(), (weight[..., 0] * _variation(then - now[:, None])).sum(1).mean().item()


def order_variance(
    predict: Predictor, texts: Int[Tensor, "batch pos"], asked: Int[Tensor, " batch"], orders: int, draw
) -> float:
    """Variance of a probability over orders of the text, mean over texts and sides."""
    shuffled = torch.stack([texts[:, torch.randperm(texts.shape[1], generator=draw)] for _ in range(orders)])
    said = torch.stack([predict(one, asked) for one in shuffled])
    return said.var(0).mean().item()


def exact(task) -> Predictor:
    """Bayes's rule."""
    return lambda texts, asked: task.predict(_text(texts, asked))[:, -1].exp()


def behind_text(model) -> Predictor:
    """The model with the text before it."""

    @torch.no_grad()
    def predict(texts: Tensor, asked: Tensor) -> Float[Tensor, "batch d_vocab"]:
        return model(_text(texts, asked))[:, -1].double().softmax(-1)

    return predict


def in_weights(model, queries: int, draw: torch.Generator) -> Predictor:
    """W' of the text, by sink, all on the same uniform queries: the throw is all that it reads."""
    fit = uniform_queries(model, queries, 3, draw)

    def predict(texts: Tensor, asked: Tensor) -> Float[Tensor, "batch d_vocab"]:
        made = (curry(model, text, "sink", fit) for text in texts)
        said = [one.logits(y[None, None])[0, -1] for one, y in zip(made, asked, strict=True)]
        return torch.stack(said).double().softmax(-1)

    return predict


def _text(texts: Tensor, asked: Tensor) -> Int[Tensor, "batch pos"]:
    return torch.cat([torch.full_like(asked[:, None], BOS), texts, asked[:, None]], 1)


def _variation(gap: Float[Tensor, "*rows d_vocab"]) -> Float[Tensor, " *rows"]:
    return gap.abs().sum(-1) / 2
