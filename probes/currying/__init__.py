"""Currying: a context x as effective weights W', so that T_{W'}(y) is close to T_W(x, y) for every query y.

    curried = curry(model, context, method="sink", queries=fit_queries)      # same class; takes y alone
    report = compare(curried, Oracle(model, context), held_out_queries)      # CurryReport

`curried.NAMES` lists the methods, a function each; `NULLS` those that any method has to beat.  Contexts are (context,)
and queries (batch, query) token ids, both without BOS.  The model handed in is never changed: its weights and hooks
after a call are those before.  theory/currying.md has the formulas, and what is exact.
"""

from probes.currying.curried import NAMES, NULLS, Curried, Fit, compose, curry, interpolate
from probes.currying.oracle import Oracle
from probes.currying.reading import uniform_queries
from probes.currying.report import CurryReport, compare

__all__ = [
    "NAMES",
    "NULLS",
    "Curried",
    "CurryReport",
    "Fit",
    "Oracle",
    "compare",
    "compose",
    "curry",
    "interpolate",
    "uniform_queries",
]
