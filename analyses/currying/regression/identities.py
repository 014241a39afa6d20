"""What must be equal: machines set by hand, a context on one side and a change of weights on the other.

Every seed draws weights, contexts and queries.  T(x, y) is the machine with the context in front of the query, T' the
same machine with W' and the query alone.
"""

from functools import partial

import torch

from analyses.core import calibration
from probes.gradient_steps import gradient_steps, in_context_update, nearest_cubic
from toy_models.seeding import generator
from toy_models.tasks.linear_regression import LinearRegression

# Sums of some ten products of numbers near 1, a few layers of them: float64 rounds by less than 1e-13.
ROUNDING = 1e-12
D_IN, D_OUT, N, N_QUERIES = 5, 2, 8, 16
RATE = 1.5
RATES, GAMMAS = (1.5, 1.2, 0.9), (0.05, 0.03, 0.04)  # of three layers; inputs in (-1, 1), so that steps are no trifle
# Of one lone query's 20000 draws: r - error * t, with r and t the squared error and the squared target of a draw, has
# a standard deviation of 0.1 of E t. Five standard errors of its mean.
N_LONE = 20000
CUBIC = 5 * 0.1 / N_LONE**0.5

STEP, SLOW, SINK, CUBE = "gradient-step layers", "slow weights", "sink tokens", "no constant coordinate"
OTHERS = "other machines"
UNPROJECTED, LONE = "step in all of W_V: error", "nearest map: relative squared error"
THEORY = "probes/theory/gradient_steps.md"
VON_OSWALD = "von Oswald et al. 2022, arXiv:2212.07677, proposition 1"

QUANTITIES = {
    (STEP, VON_OSWALD): (
        ("1 layer, 1 step", "1", ROUNDING, "the answer is that of one gradient step", "identity"),
        ("3 layers, 3 steps", "1", ROUNDING, "three layers are three steps", "identity"),
        ("3 layers: the examples", "1", ROUNDING, "every example's y has lost what the steps added to W", "identity"),
        ("3 layers of GD++", "1", ROUNDING, "with moving inputs they are three steps of GD++", "identity"),
        ("moved inputs, then a step", "1", ROUNDING, "W' is the gradient times A A, A = I - gamma X^T X", "identity"),
    ),
    (SLOW, THEORY): (
        ("Q1: projected gradient step", "1", ROUNDING, "T' with one step in the slow weights is T(x, y)", "identity"),
        ("Q2: closed-form W'", "1", ROUNDING, "T' with W + M is T(x, y)", "identity"),
        ("Q1 and Q2: the same W'", "1", ROUNDING, "both change the same weights by the same", "identity"),
        (UNPROJECTED, "1", ROUNDING, "without the projection it is off by the mean residual, exactly", "identity"),
        ("two contexts, head 0 as it was", "1", ROUNDING, "T'(x2, y) is T(x1 x2, y)", "identity"),
        ("two contexts, head 0 follows: gap", "1", ROUNDING, "it is off by -(rate/n) M_1 X_2^T X_2", "identity"),
    ),
    (SINK, THEORY): (
        ("1 sink, 1 head: what is missing", "1", ROUNDING, "one sink carries the leading singular pair", "identity"),
        ("2 sinks, 1 head", "1", ROUNDING, "two sinks carry rank 2, all there is", "identity"),
        ("1 sink, 2 heads", "1", ROUNDING, "so do two heads on one sink", "identity"),
    ),
    (CUBE, THEORY): (
        (LONE, "1", CUBIC, f"for inputs in (-1, 1) and d = {D_IN} it is 4/45", "calibration"),
    ),
    (OTHERS, THEORY): (
        ("two-input linear model", "1", ROUNDING, "one slice of its weights takes the context's place", "identity"),
        ("two-input: two contexts", "1", ROUNDING, "one after the other add up", "identity"),
        ("recurrent: start token's column", "1", ROUNDING, "all later states are those with the context", "identity"),
        ("softmax, constant queries", "1", ROUNDING, "a key's score is the same for every query", "identity"),
    ),
}  # fmt: skip
KNOWN = calibration.known(QUANTITIES)


def read(seed: int) -> calibration.Readings:
    """Every quantity of `KNOWN` at one seed."""
    draw = partial(generator, seed, "exact")
    return {**_steps(draw), **_slow(draw), **_sinks(draw), **_cubic(draw), **_others(draw, seed)}


def _normal(draw, name: str, *shape: int):
    return torch.randn(*shape, generator=draw(name), dtype=torch.float64)


def _examples(draw, name: str, n: int = N):
    """(n, d_in) in (-1, 1), and labels of any kind: the identities ask nothing of them."""
    return 2 * torch.rand(n, D_IN, generator=draw(name), dtype=torch.float64) - 1, _normal(draw, name + " y", n, D_OUT)


@torch.no_grad()
def _steps(draw) -> calibration.Readings:
    from toy_models.linear_machines import gradient_descent

    task = LinearRegression(D_IN, D_OUT, N, inputs="text")
    batch, weight = task.sample(N_QUERIES, draw("batch")).to(torch.float64), _normal(draw, "weight", D_OUT, D_IN)
    tokens = batch.tokens.clone()
    tokens[:, -1, D_IN:] = -batch.query @ weight.T

    def layers(rates, gammas=(), start=weight):
        model = gradient_descent(D_IN, D_OUT, N, rates, gammas, start)
        said = {"residual": batch.tokens if start is None else tokens, "attention_mask": batch.examples}
        return model(**said), model(**said, stop_at_layer=len(rates))

    def steps(rates, gammas=(), start=weight):
        return gradient_steps(batch.x, batch.y, rates, gammas, start)

    def answer(maps):
        return torch.einsum("boi,bi->bo", maps, batch.query)

    examples = batch.y - batch.x @ (steps(RATES) - weight).mT
    shrink = torch.eye(D_IN) - GAMMAS[0] * batch.x.mT @ batch.x
    moved = in_context_update(batch.x, batch.y, torch.zeros_like(weight), RATE) @ shrink @ shrink
    return {
        (STEP, "1 layer, 1 step"): (layers([RATE])[0][:, -1], answer(steps([RATE]))),
        (STEP, "3 layers, 3 steps"): (layers(RATES)[0][:, -1], answer(steps(RATES))),
        (STEP, "3 layers: the examples"): (layers(RATES)[1][:, :-1, D_IN:], examples),
        (STEP, "3 layers of GD++"): (layers(RATES, GAMMAS, None)[0][:, -1], answer(steps(RATES, GAMMAS, None))),
        (STEP, "moved inputs, then a step"): (
            layers((0.0, RATE), (GAMMAS[0], 0.0), None)[0][:, -1],
            answer(moved),
        ),
    }


def _slow(draw) -> calibration.Readings:
    from toy_models.linear_machines import asked, examples, slow_slot, slow_weights

    (x, y), (x2, y2) = _examples(draw, "first"), _examples(draw, "second", N - 2)
    weight, query = _normal(draw, "slow", D_OUT, D_IN), _normal(draw, "query", N_QUERIES, D_IN)

    def machine():
        return slow_weights(weight, RATE, N, n_ctx=2 * N + 1)

    def entity(model, *context):
        """The query's token after the layer: all of its coordinates."""
        tokens = [one.expand(N_QUERIES, -1, -1) for one in context]
        with torch.no_grad():
            return model(residual=torch.cat([*tokens, asked(query, D_OUT)], 1), stop_at_layer=1)[:, -1]

    def edited(change):
        model = machine()
        with torch.no_grad():
            slow_slot(model).add_(change)
        return model

    first, second, target = examples(x, y), examples(x2, y2), entity(machine(), examples(x, y))
    gradient = _gradient(machine(), asked(x, D_OUT), y)
    projected = _projected(gradient)
    update = in_context_update(x, y, weight, RATE)
    curried = edited(update.T)
    unprojected = machine()
    with torch.no_grad():
        unprojected.blocks[0].attn.W_V[1] -= RATE * gradient[1]
    answer_at = slice(2 * D_IN, 2 * D_IN + D_OUT)
    residual = RATE * (y - x @ weight.T).mean(0)
    follows = edited(update.T)
    with torch.no_grad():
        follows.blocks[0].attn.W_V[0, :D_IN, :D_OUT] -= update.T
    both = entity(machine(), first, second)
    gap = -RATE / N * update @ x2.T @ x2
    return {
        (SLOW, "Q1: projected gradient step"): (entity(edited(-RATE * projected)), target),
        (SLOW, "Q2: closed-form W'"): (entity(curried), target),
        (SLOW, "Q1 and Q2: the same W'"): (-RATE * projected, update.T),
        (SLOW, UNPROJECTED): ((entity(unprojected) - target).abs().max(), residual.abs().max()),
        (SLOW, "two contexts, head 0 as it was"): (entity(curried, second), both),
        (SLOW, "two contexts, head 0 follows: gap"): ((entity(follows, second) - both)[:, answer_at], query @ gap.T),
    }


def _gradient(model, tokens, y):
    """d L / d W_V of L = sum_j |T(x_j) - y_j|^2 / (2 n), every x_j a lone query: (head, d_model, d_head)."""
    loss = (model(residual=tokens)[:, 0] - y).square().sum(-1).mean() / 2
    return torch.autograd.grad(loss, model.blocks[0].attn.W_V)[0]


def _projected(gradient):
    """The projection P: the part of a gradient that lies where `slow_weights` keeps W."""
    return gradient[1, D_IN : 2 * D_IN, :D_OUT]


@torch.no_grad()
def _sinks(draw) -> calibration.Readings:
    from toy_models.linear_machines import sinks, with_sinks

    x, y = _examples(draw, "sinks")
    update = in_context_update(x, y, torch.zeros(D_OUT, D_IN, dtype=torch.float64), RATE)
    basis = torch.eye(D_IN, dtype=torch.float64)

    def carried(n_sinks: int, n_heads: int):
        model = sinks(update, n_sinks, n_heads)
        return model(residual=with_sinks(model, basis))[:, -1].T

    sizes = torch.linalg.svdvals(update)
    return {
        (SINK, "1 sink, 1 head: what is missing"): (
            (carried(1, 1) - update).norm() / update.norm(),
            sizes[1] / sizes.norm(),
        ),
        (SINK, "2 sinks, 1 head"): (carried(2, 1), update),
        (SINK, "1 sink, 2 heads"): (carried(1, 2), update),
    }


@torch.no_grad()
def _cubic(draw) -> calibration.Readings:
    from toy_models.linear_machines import cubic

    inputs = LinearRegression(D_IN, inputs="text")
    best = nearest_cubic(D_IN, *(inputs.moment(order) for order in (2, 4, 6)))
    update = _normal(draw, "update", D_OUT, D_IN)
    x = 2 * torch.rand(N_LONE, D_IN, generator=draw("lone"), dtype=torch.float64) - 1
    model = cubic(update, best.own, best.others)
    heard, target = model(residual=torch.nn.functional.pad(x, (0, D_OUT))[:, None])[:, 0], x @ update.T
    return {(CUBE, LONE): ((heard - target).square().sum() / target.square().sum(), best.error)}


@torch.no_grad()
def _others(draw, seed: int) -> calibration.Readings:
    from toy_models.constructed import constant_queries
    from toy_models.two_inputs import Bilinear, Recurrent

    two, x, x2 = Bilinear(_normal(draw, "two", 3, 1 + 4, 6)), _normal(draw, "x", 4), _normal(draw, "x2", 4)
    y = _normal(draw, "y", N_QUERIES, 6)
    net, texts = Recurrent(seed=seed), torch.randint(1, 8, (N_QUERIES, 20), generator=draw("texts"))
    context = texts[0]
    after = net(torch.cat([context.expand(N_QUERIES, -1), texts], 1))[:, len(context) :]
    softmax, name = constant_queries(seed=seed), "blocks.1.attn.hook_attn_scores"
    scores = softmax.run_with_cache(texts, names_filter=name)[1][name]
    last = scores[:, :, -1:, :].expand_as(scores)
    seen = ~scores.isneginf()
    return {
        (OTHERS, "two-input linear model"): (two.curried(x)(y), two(y, x)),
        (OTHERS, "two-input: two contexts"): (two.curried(x).curried(x2)(y), two(y, x + x2)),
        (OTHERS, "recurrent: start token's column"): (net.curried(context)(texts), after),
        (OTHERS, "softmax, constant queries"): (scores[seen], last[seen]),
    }
