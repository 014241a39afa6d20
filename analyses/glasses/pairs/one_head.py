"""One head of random vectors, in float64: the cases whose answer is known or derived.

Queries, keys and values are standard normal, d = 64, and the scores q . k / 8.  The last token has one key and one
value however often it is repeated.  Two texts lie before it: "digits", a new random token at every place, and "ones",
ten random tokens and then copies of the last.  Without positions, with a_j = exp(s_j) over the n - 1 tokens before the
last, a the last one's, Z = sum a_j and S = sum a_j v_j,

    z = (S + a v) / (Z + a)      z* = (S + 2 a v) / (Z + 2 a)      z - z* = a / (Z + 2 a) (z - v)

so "ones" fall as 1/n^2 and "digits" as 1/n.  Source: Barbero et al. 2024, arXiv:2406.04267, figures 9 and 10, lemma
B.2, proposition B.4; the identity is derived in probes/theory/collapse.md.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float

from analyses.glasses.pairs.models import LEARNED, ROPE, SLOPES
from toy_models.attention import attend
from toy_models.positions.rope import Rope, RopeCode
from toy_models.seeding import generator

D_HEAD = 64
PREFIX = 10  # random tokens before the ones
CHANGED = 200  # logits that figure 9 perturbs
CHANGE = 0.1  # by at most so many nats
# 2 (e - 1) / (e + 1), proposition B.4: the 1-norm between the softmax of 1 0 1 0 ... and of 0 1 0 1 ...
ALTERNATED = 2 * math.tanh(0.5)
# n times the 1-norm in figure 9, for large n: 2 k (E exp(u) - 1) with u uniform in [0, CHANGE]
PERTURBED = 2 * CHANGED * (math.expm1(CHANGE) / CHANGE - 1)


@dataclass(frozen=True, eq=False)
class Head:
    """Vectors of one seed: of the last token (d,), and of the tokens before it (longest, d)."""

    q: Float[torch.Tensor, " d"]
    last_k: Float[torch.Tensor, " d"]
    last_v: Float[torch.Tensor, " d"]
    k: Float[torch.Tensor, "longest d"]
    v: Float[torch.Tensor, "longest d"]
    table: Float[torch.Tensor, "positions d"]  # learned positions, which queries and keys read


def head(seed: int, longest: int) -> Head:
    """Draw a head with room for texts of `longest` tokens; a longer one begins with the same vectors."""

    def normal(name: str, rows: int) -> torch.Tensor:
        # By rows of one draw each, so that the first rows are the same for every longest.
        stream = generator(seed, "one head", name)
        return torch.cat([torch.randn(min(256, rows - at), D_HEAD, generator=stream, dtype=torch.float64)
                          for at in range(0, rows, 256)])  # fmt: skip

    q, last_k, last_v = normal("last", 3)
    return Head(q, last_k, last_v, normal("k", longest), normal("v", longest), normal("table", longest + 1))


def tokens(made: Head, text: str, n: int) -> tuple[Float[torch.Tensor, "n d"], Float[torch.Tensor, "n d"]]:
    """Keys and values of a text of n tokens, "ones" or "digits"."""
    before = n - 1 if text == "digits" else min(PREFIX, n - 1)
    copies = n - before
    return tuple(
        torch.cat([drawn[:before], last.expand(copies, -1)])
        for drawn, last in ((made.k, made.last_k), (made.v, made.last_v))
    )


def mixed(made: Head, text: str, n: int, position: str, repeats: int = 0) -> Float[torch.Tensor, " d"]:
    """z of the last of n tokens, or of the same text with the last token `repeats` times more."""
    k, v = tokens(made, text, n)
    k = torch.cat([k, made.last_k.expand(repeats, -1)])
    v = torch.cat([v, made.last_v.expand(repeats, -1)])
    q, slopes, size = made.q[None], None, len(k)
    if position == LEARNED:
        q, k = q + made.table[size - 1], k + made.table[:size]
    q, k, v = (x[None, :, None] for x in (q, k, v))  # batch pos head d
    if position == ROPE:
        code, at = RopeCode(Rope(), D_HEAD), torch.arange(size)[None]
        q, k = code.rotation(at[:, -1:])(q), code.rotation(at)(k)
    elif position in SLOPES:
        slopes = torch.tensor([SLOPES[position]], dtype=torch.float64)
    return attend(q, k, v, alibi_slopes=slopes).z[0, 0, 0]


def identity(made: Head, text: str, n: int) -> Float[torch.Tensor, " d"]:
    """z - z* without positions, by the identity above, from the scores."""
    k, v = tokens(made, text, n)
    scores = k @ made.q / D_HEAD**0.5
    a = scores[-1].exp()
    weights = scores.softmax(0)
    share = a / (scores.exp().sum() + a)
    return share * (weights @ v - made.last_v)


def perturbed(seed: int, n: int, longest: int) -> tuple[Float[torch.Tensor, " n"], Float[torch.Tensor, " n"]]:
    """Figure 9: the softmax of logits uniform in [0, 1], and of the same with the first CHANGED raised."""
    stream = generator(seed, "perturbed")
    x = torch.rand(longest, generator=stream, dtype=torch.float64)[:n]
    change = CHANGE * torch.rand(CHANGED, generator=stream, dtype=torch.float64)
    y = x.clone()
    y[:CHANGED] += change[: min(n, CHANGED)]
    return x.softmax(0), y.softmax(0)


def alternated(n: int) -> tuple[Float[torch.Tensor, " n"], Float[torch.Tensor, " n"]]:
    """Proposition B.4: the softmax of 1 0 1 0 ..., and of 0 1 0 1 ...; n is even."""
    x = (torch.arange(n) % 2 == 0).double()
    return x.softmax(0), (1 - x).softmax(0)


def closed_form(made: Head, text: str, n: int) -> tuple[Float[torch.Tensor, " d"], Float[torch.Tensor, " d"]]:
    """z and z* without positions, for any n in the time of the prefix where the text is "ones"."""
    before = n - 1 if text == "digits" else min(PREFIX, n - 1)
    scores = made.k[:before] @ made.q / D_HEAD**0.5
    a, own = scores.exp(), (made.last_k @ made.q / D_HEAD**0.5).exp()
    total, summed = a.sum(), a @ made.v[:before]
    copies = n - before
    return tuple((summed + c * own * made.last_v) / (total + c * own) for c in (copies, copies + 1))
