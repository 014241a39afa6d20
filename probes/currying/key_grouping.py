"""`key_grouping`: the context shared out to the query's own keys, each of which takes in the context's copies of it.

One layer, no positions: scores depend on the two tokens alone, s(sigma, tau).  Let m_tau tokens of the context be of
type tau.  A key of type tau and those m_tau together have the score of one key with

    s*(sigma, tau) = log-sum-exp of 1 + m_tau equal scores = s(sigma, tau) + log(1 + m_tau)

and if the queries' types are independent there is u with q_sigma . u = scale for all sigma, and e with n_tau . e =
log(1 + m_tau) for what attention reads from tau, so that an edit of rank one has all these scores exactly:

    W_K += e u^T        u per key-value head, e the same for all

The output is still not the oracle's, where a type stands n_tau times in the query so far, for three reasons:

    multiplicity   every copy takes in the whole group: n (1 + m) terms where the oracle has n + m
    missing        a type of the context that the query has not shown yet, n = 0, has nobody to stand for it
    hard max       the largest of equal scores in place of their log-sum-exp is no change at all

`grouping_gap` measures each.  The two ways are equal where the query so far has every type of the context once.

Source: ours; theory/currying.md derives it.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.currying.curried import Fit
from probes.currying.oracle import LARGEST_GAP, PATTERN, SCORES, Oracle, require_softmax
from probes.currying.reading import check_queries
from probes.currying.stream import Stream
from probes.errors import ProbeInputError

SOLVED = 1e-6  # of the right side: what a linear system may leave and still count as solved


@dataclass(frozen=True)
class GroupingGap:
    """What the grouped keys get wrong, as total variation between two attentions over token types, 0 to 1.

    Args:
        types: every token of text, context and BOS, in order; `copies` how often each is in the context.
        shift: log(1 + copies).
        multiplicity: between n + m and n (1 + m), over the types that the query has shown.
        missing: the oracle's attention to types of the context that the query has not shown.
        hard_max: between the oracle and no change at all.
        total: between the oracle and grouped keys; at most multiplicity + missing.
    """

    types: Int[Tensor, " type"]
    copies: Int[Tensor, " type"]
    shift: Float[Tensor, " type"] = field(metadata={"unit": "nats"})
    multiplicity: Float[Tensor, "batch head query"] = field(metadata={"unit": "share"})
    missing: Float[Tensor, "batch head query"] = field(metadata={"unit": "share"})
    hard_max: Float[Tensor, "batch head query"] = field(metadata={"unit": "share"})
    total: Float[Tensor, "batch head query"] = field(metadata={"unit": "share"})


@dataclass(frozen=True)
class Table:
    """What attention does with every type of token, in float64; `asking` are the indices of the queries' types."""

    types: Int[Tensor, " type"]
    copies: Int[Tensor, " type"]
    asking: Int[Tensor, " asking"]
    read: Float[Tensor, "type d_model"]
    query: Float[Tensor, "type head d_head"]
    score: Float[Tensor, "head type type"]

    def index(self, tokens: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Where a token is among the types."""
        return torch.searchsorted(self.types, tokens)


@torch.no_grad()
def key_grouping(oracle: Oracle, queries: Int[Tensor, "batch query"]) -> Fit:
    """Group the context onto the keys of the query's own tokens.

    Raises:
        ProbeInputError: more than one layer; scores that depend on more than the two tokens; or types of tokens that
            are not independent, for what attention reads or for its queries.
    """
    table = _table(oracle, queries)
    model = oracle.model
    weight = model.get_parameter("blocks.0.attn.W_K")
    share = model.cfg.n_heads // len(weight)
    asked = table.query[table.asking].permute(1, 0, 2).unflatten(0, (-1, share)).flatten(1, 2)  # kv_head row d_head
    scale = asked.new_full((*asked.shape[:2], 1), model.cfg.attn_scale)
    u = _solved(asked, scale, f"the queries of {len(table.asking)} types of token", f"d_head={asked.shape[-1]}")
    e = _solved(
        table.read[None],
        table.copies.to(table.read).log1p()[None, :, None],
        f"what attention reads from {len(table.types)} types of token",
        f"d_model={table.read.shape[-1]}",
    )
    change = torch.einsum("d,he->hde", e[0, :, 0], u[..., 0])
    tokens = 2 * queries.numel() + len(queries) * oracle.bare.length + oracle.text.numel()
    return Fit({"blocks.0.attn.W_K": change.to(weight)}, stored=u.numel() + e.numel(), token_forwards=tokens)


@torch.no_grad()
def grouping_gap(oracle: Oracle, queries: Int[Tensor, "batch query"]) -> GroupingGap:
    """Measure the three reasons for which grouped keys miss the oracle, for every head and row.

    Nothing is edited: from the scores alone.  Types need not be independent.

    Raises:
        ProbeInputError: more than one layer, or scores that depend on more than the two tokens.
    """
    table = _table(oracle, queries)
    row = table.index(queries)
    seen = torch.nn.functional.one_hot(row, len(table.types)).cumsum(1)
    if oracle.bos_id is not None:
        seen[..., table.index(torch.tensor(oracle.bos_id))] += 1
    n, m = seen[:, None].double(), table.copies.double()  # batch 1 query type
    score = table.score[:, row].transpose(0, 1)  # batch head query type
    right = (score + (n + m).log()).softmax(-1)
    shown = (score + (n + m * (n > 0)).log()).softmax(-1)
    grouped = (score + n.log() + m.log1p()).softmax(-1)
    unchanged = (score + n.log()).softmax(-1)
    return GroupingGap(
        types=table.types,
        copies=table.copies,
        shift=m.log1p(),
        multiplicity=_total_variation(shown, grouped),
        missing=_total_variation(right, shown),
        hard_max=_total_variation(right, unchanged),
        total=_total_variation(right, grouped),
    )


def _table(oracle: Oracle, queries: Tensor) -> Table:
    """Every type of token alone through the layer; refused where that is not all that the scores depend on."""
    model = oracle.model
    if model.cfg.n_layers != 1:
        raise ProbeInputError(f"key_grouping is for one layer, and the model has {model.cfg.n_layers}: take sink or kv")
    check_queries(model, queries, oracle.text.shape[1])
    types, asking = torch.cat([oracle.text[0], queries.flatten()]).unique(), queries.unique()
    copies = (oracle.context[:, None] == types).sum(0)
    alone = Stream(model, types[:, None]).look(("attn.hook_q", "attn.hook_k"))
    query, key = (alone[f"attn.hook_{x}"][:, 0].double() for x in "qk")
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    score = torch.einsum("ahe,bhe->hab", query, key) / model.cfg.attn_scale
    table = Table(types, copies, torch.searchsorted(types, asking), alone["key_input"][:, 0].double(), query, score)
    _require_types_alone(oracle, queries, table)
    return table


def _require_types_alone(oracle: Oracle, queries: Tensor, table: Table) -> None:
    seen = oracle.stream(queries).look((SCORES, PATTERN))
    require_softmax(seen, 0)
    text = torch.cat([oracle.text.expand(len(queries), -1), queries], dim=1)
    row, column = table.index(queries), table.index(text)
    expected = table.score[:, row[:, :, None], column[:, None]].transpose(0, 1)  # batch head query key
    visible = torch.ones(expected.shape[-2:], dtype=torch.bool).tril(oracle.text.shape[1])
    gap = (seen[SCORES].double() - expected)[..., visible].abs().max().item()
    if not gap <= LARGEST_GAP * (1 + expected.abs().max().item()):
        raise ProbeInputError(
            f"key_grouping needs scores that depend on the two tokens alone, and they are off by {gap:.2g}: give a "
            f"model with position='none' and neither window, smeared keys, cap nor norm of queries; or take sink"
        )


def _solved(features: Tensor, target: Tensor, of: str, room: str) -> Float[Tensor, "kv_head feature 1"]:
    """The shortest exact solution.

    Raises:
        ProbeInputError: there is none.
    """
    found = torch.linalg.lstsq(features.cpu(), target.cpu(), driver="gelsd").solution.to(target)
    left = ((features @ found - target).abs().max() / target.abs().max()).item()
    if not left <= SOLVED:
        raise ProbeInputError(
            f"{of} are not independent in {room} (off by {left:.2g}), and rank one cannot shift their scores: "
            f"fit on queries with fewer types, or take sink"
        )
    return found


def _total_variation(p: Float[Tensor, "*rows type"], q: Float[Tensor, "*rows type"]) -> Float[Tensor, "*rows"]:
    return (p - q).abs().sum(-1) / 2
