"""Slow references in float64: plain Python loops over numbers, one line per line of a definition.

They are the specification that the probes are held to, so nothing here is vectorised.  Patterns and
tokens are nested lists (`tensor.tolist()`): pattern[batch][head][query][key], tokens[batch][pos].
"""

import math

import numpy as np


def prefix_matching(pattern: list, tokens: list, shift: int = 1) -> list[float]:
    """Per head: mean over queries of the mass on every j <= i with t_{j-shift} = t_i."""

    def after_the_same_token(text, i):
        return [j for j in range(shift, i + 1) if text[j - shift] == text[i]]

    return _mean_mass(pattern, tokens, after_the_same_token)


def duplicate_token(pattern: list, tokens: list) -> list[float]:
    """Per head: mean over queries of the mass on every j < i with t_j = t_i."""

    def the_same_token(text, i):
        return [j for j in range(i) if text[j] == text[i]]

    return _mean_mass(pattern, tokens, the_same_token)


def previous_token(pattern: list) -> list[float]:
    """Per head: mean over queries i >= 1 of A[i, i-1]."""
    n = len(pattern[0][0])
    return [_mean([rows[head][i][i - 1] for rows in pattern for i in range(1, n)]) for head in range(len(pattern[0]))]


def entropy(row: list[float]) -> float:
    """-sum p ln p in nats, where 0 ln 0 = 0."""
    return -math.fsum(p * math.log(p) for p in row if p > 0)


def peak(row: list[float]) -> float:
    """The largest weight."""
    return max(row)


def sum_squares(row: list[float]) -> float:
    """sum p^2, the inverse of the number of keys in use."""
    return math.fsum(p * p for p in row)


def attention(q, k, v, *, scale, causal=True, window=None, alibi_slopes=None, score_cap=None, key_padding=None,
              sink_logit=None, bias=None, targets=None):  # fmt: skip
    """z and every row statistic by name, as arrays, and "largest", the largest |score|; inputs are numpy arrays.

    One row after another, in the widest floats that numpy has: float64 itself is judged by this.
    """
    (batch, n_query, heads, _), n_key = q.shape, k.shape[1]
    q, k, v = (x.astype(np.longdouble) for x in (q, k, v))
    per_row = ("logsumexp", "entropy", "peak", "sum_squares", "mean_distance", "sink_mass", "self_mass")
    per_row += ("previous_mass", "target_mass", "unassigned_mass")
    found = {name: np.zeros((batch, heads, n_query), np.longdouble) for name in per_row}
    found |= {"z": np.zeros((*q.shape[:3], v.shape[-1]), np.longdouble), "largest": 1.0}
    found["received_mass"] = np.zeros((batch, heads, n_key), np.longdouble)
    for b, h, i in np.ndindex(batch, heads, n_query):
        at, group = i + n_key - n_query, h // (heads // k.shape[2])
        keys = [j for j in range(n_key) if key_padding is None or key_padding[b, j]]
        keys = [j for j in keys if not (causal and j > at) and (window is None or abs(at - j) < window)]
        scores = [scale * (q[b, i, h] * k[b, j, group]).sum() for j in keys]
        if score_cap is not None:
            scores = [score_cap * np.tanh(s / score_cap) for s in scores]
        if alibi_slopes is not None:
            scores = [s - np.longdouble(alibi_slopes[h]) * abs(at - j) for s, j in zip(scores, keys, strict=True)]
        if bias is not None:
            scores = [s + np.longdouble(bias[h, i, j]) for s, j in zip(scores, keys, strict=True)]
        all_scores = scores + ([] if sink_logit is None else [np.longdouble(sink_logit[h])])
        row = (b, h, i)
        if not all_scores:
            found["logsumexp"][row] = -np.inf
            continue
        found["largest"] = max(found["largest"], *(abs(s) for s in all_scores))
        top = max(all_scores)
        total = sum(np.exp(s - top) for s in all_scores)
        found["logsumexp"][row] = top + np.log(total)
        every = [np.exp(s - top) / total for s in all_scores]
        p = dict(zip(keys, every, strict=False))  # not the virtual key, which comes last
        found["entropy"][row] = -sum(x * np.log(x) for x in every if x > 0)
        found["peak"][row], found["sum_squares"][row] = max(every), sum(x * x for x in every)
        found["mean_distance"][row] = sum(x * (at - j) for j, x in p.items())
        for name, key in (("sink_mass", 0), ("self_mass", at), ("previous_mass", at - 1)):
            found[name][row] = p.get(key, 0)
        if targets is not None:
            found["target_mass"][row] = p.get(int(targets[b, h, i]), 0)
        if sink_logit is not None:
            found["unassigned_mass"][row] = every[-1]
        for j, x in p.items():
            found["z"][b, i, h] += x * v[b, j, group]
            found["received_mass"][b, h, j] += x
    return found


def _mean_mass(pattern: list, tokens: list, keys_of) -> list[float]:
    """Queries without a key that counts are left out."""
    scores = []
    for head in range(len(pattern[0])):
        masses = []
        for text, heads in zip(tokens, pattern, strict=True):
            for i, row in enumerate(heads[head]):
                if keys := keys_of(text, i):
                    masses.append(math.fsum(row[j] for j in keys))
        scores.append(_mean(masses))
    return scores


def _mean(numbers: list[float]) -> float:
    return math.fsum(numbers) / len(numbers)
