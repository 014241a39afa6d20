"""One context: every method at every budget, held against the oracle on queries that no fit has seen."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from analyses.currying.frontier.methods import EDIT, NULL, Way, plan, ways
from analyses.currying.nets.asking import fit_and_held, own_queries, without
from analyses.currying.nets.contexts import Case, mixed
from probes.currying.curried import Curried, curry
from probes.currying.objective import Objective
from probes.currying.oracle import Oracle
from probes.currying.report import compare
from toy_models.seeding import generator
from toy_models.tasks.in_deployment import InDeployment

SIBLING, WRONG = "sibling", "wrong task"
ORDER_STEPS = 1  # for every number of pairs, where their nested order is looked at


@dataclass
class Context:
    """A model with one context: its fit queries, those of other contexts, and held-out ones that none has seen."""

    model: object
    case: Case
    fit: Tensor
    others: dict[str, Tensor]
    held: Tensor
    oracle: Oracle = field(init=False)

    def __post_init__(self):
        self.oracle = Oracle(self.model, self.case.context)

    @classmethod
    def drawn(cls, model, task: InDeployment, config, source: str, seed: int, index: int) -> "Context":
        """The index-th context of a source, with own samples of the model behind it."""
        case, symbols = mixed(task, source, config.context_length, seed, index), task.switch
        sizes, length = (config.fit, config.held_out), config.query_length
        fit, held = fit_and_held(
            model, case.context, sizes, length, generator(seed, "frontier", source, index), d_symbols=symbols
        )
        others = {
            name: own_queries(model, x, config.fit, length, generator(seed, "frontier", source, index, name), symbols)
            for name, x in ((SIBLING, case.sibling), (WRONG, case.wrong))
        }
        return cls(model, case, fit, others, without(held, *others.values()))

    def objective(self, made: Curried) -> float:
        """What descent lessens, on all fit queries."""
        return Objective(self.oracle, self.fit, batch=len(self.fit)).total(made.model, made.reader)

    def made(self, way: Way, n: int, **options) -> Curried:
        """The context curried on the first n fit queries."""
        return curry(self.model, self.case.context, way.method, self.fit[:n], **way.options, **options)


def measure(context: Context, config, budgets: tuple[int, ...]) -> Iterator[dict]:
    """Rows of one context: what needs no descent once, the others at every budget that buys them a step."""
    least = config.budgets[0]
    for way in ways(config.pairs, config.ranks):
        if not way.rates:
            made = context.made(way, _affordable(way, context, least))
            yield _row(context, way, made, {"budget": least, "spent": made.token_forwards})
            continue
        for budget in budgets:
            found = _tuned(context, way, budget)
            if found is not None:
                made, told = found
                yield _row(context, way, made, {"budget": budget, **told})
    for name, x in ((SIBLING, context.case.sibling), (WRONG, context.case.wrong)):
        made = curry(context.model, x, "sink", context.others[name])
        way = Way(name, NULL, 1)
        yield _row(context, way, made, {"budget": least, "spent": made.token_forwards})


def _affordable(way: Way, context: Context, budget: int) -> int:
    """Fit queries of a method without steps: a line search looks at all of them some twenty times."""
    n, length = context.fit.shape
    looked = 24 * (length + 1) if way.method == "gradient" else 0
    return max(1, min(n, budget // looked)) if looked else n


def _tuned(context: Context, way: Way, budget: int) -> tuple[Curried, dict] | None:
    """The better of two step sizes on the fit queries, both paid from the budget; None where that buys no step."""
    bought = plan(way, budget, *context.fit.shape, context.oracle.text.shape[1])
    if bought is None:
        return None
    tried = {rate: context.made(way, bought.fit, steps=bought.steps, lr=rate, batch=bought.fit) for rate in way.rates}
    best = min(tried, key=lambda rate: context.objective(tried[rate]))
    spent = sum(made.token_forwards for made in tried.values())
    return tried[best], {"spent": spent, "rate": best, "steps": bought.steps}


def _row(context: Context, way: Way, made: Curried, told: dict) -> dict:
    report = compare(made, context.oracle, context.held)
    share = report.share_removed
    fitted = 0 if made.fit_queries is None else len(made.fit_queries)
    return {
        **{"method": way.label, "family": way.family, "r": way.r},
        **{"rate": float("nan"), "steps": 0, "fit_queries": fitted, **told},
        "kl": report.kl.item(),
        "baseline_kl": report.baseline_kl.item(),
        "share": float("nan") if share is None else share,
        "entity_error": report.entity_error.mean().item(),
        "objective": context.objective(made),
        "bytes": report.stored_bytes,
        "keys": made.reader.length + context.held.shape[1],
        "queries": len(context.held),
    }


def nested(context: Context, pairs: tuple[int, ...]) -> list[float]:
    """The objective on the queries fitted on, by number of pairs, with as many steps for each of them."""
    few = context.fit[: max(len(context.fit) // 4, 1)]
    goal, found = Objective(context.oracle, few, batch=len(few)), []
    for r in pairs:
        made = context.made(Way("kv_r", EDIT, r, {"pairs": r}), len(few), steps=ORDER_STEPS, batch=len(few))
        found.append(goal.total(made.model, made.reader))
    return found


def one_seed(job: tuple) -> tuple[list[dict], list[list[float]]]:
    """Rows of all contexts of a seed, and the nested order of pairs on the first of each source (source, pairs)."""
    config, seed = job
    torch.set_num_threads(1)
    model, task = config.net.trained(seed).model.to(config.device), config.net.task_of(seed)
    rows, order = [], []
    for source in config.sources:
        for index in range(config.contexts):
            context = Context.drawn(model, task, config, source, seed, index)
            budgets = config.budgets if index == 0 else config.budgets[:1]
            rows += [
                {"source": source, "context": index, "seed": seed, **row} for row in measure(context, config, budgets)
            ]
            if index == 0:
                order.append(nested(context, config.pairs))
    return rows, order
