"""How well can weights do within an angle of the gradient?

    best share over dW with angle(dW, -gradient) <= theta,   share = 1 - KL(dW) / KL(0)

At theta = 0 this is a gradient step of the best length; at 90 degrees everything that does not go up.  A curve over
theta says what the cosine of one W' cannot, since W' is not unique: whether *some* good update lies near the gradient.

The set is a circular cone, and its nearest point is known, so the divergence is lowered by projected gradient descent
from the best of: the steps against the gradient, W' projected into the cone, the solution of the next smaller angle.
What is found is a lower bound, and on the queries it was found on it never falls with the angle.

Source: ours; projection onto a circular cone is standard (Bauschke 1996, Projection algorithms and monotone operators).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.currying.oracle import Oracle
from probes.currying.solving import kl
from probes.errors import ProbeInputError
from probes.locality import size, steps_against

FIRST = 0.03  # length of the first step of the search, over |W|


def project(
    x: Float[Tensor, " parameter"], axis: Float[Tensor, " parameter"], angle: float
) -> Float[Tensor, " parameter"]:
    """The point nearest to x of those within `angle` degrees of `axis`, which has length 1.

    Raises:
        ProbeInputError: an angle outside 0 to 90.
    """
    if not 0 <= angle <= 90:
        raise ProbeInputError(f"angle={angle:g} must lie in 0 to 90 degrees: beyond, updates may go up the gradient")
    theta = math.radians(angle)
    along = x @ axis
    aside = x - along * axis
    length = aside.norm()
    if length * math.cos(theta) <= along * math.sin(theta):
        return x
    reach = along * math.cos(theta) + length * math.sin(theta)
    if reach <= 0:
        return torch.zeros_like(x)
    return reach * (math.cos(theta) * axis + math.sin(theta) * aside / length)


def best_within(
    oracle: Oracle,
    queries: Int[Tensor, "batch query"],
    update: dict[str, Tensor],
    gradient: dict[str, Tensor],
    angles: Sequence[float],
    steps: int,
) -> list[dict[str, Tensor]]:
    """The best update found within each angle, in degrees, from the smallest angle up.

    Args:
        queries: what the divergence is lowered on; measure what was found on others.
        update: W' - W, one of the places to start from.
        gradient: by parameter name; nothing else is changed.
        steps: of descent per angle, each a forward and a backward pass over all queries.

    Raises:
        ProbeInputError: angles that fall or leave 0 to 90, or a gradient of zero.
    """
    if list(angles) != sorted(angles):
        raise ProbeInputError(f"angles={tuple(angles)} must rise: each starts from the one before")
    search = _Divergence(oracle, queries, list(gradient))
    rays = [search.flat(step) for step in steps_against(gradient, oracle.model)]
    axis = rays[0] / rays[0].norm()
    curried, found = search.flat(update), []
    best = min(rays, key=lambda ray: search(ray)[0])
    for angle in angles:
        starts = [best, project(curried, axis, angle)]
        best = _descend(search, min(starts, key=lambda start: search(start)[0]), axis, angle, steps)
        found.append(search.named(best))
    return found


def _descend(search: "_Divergence", x: Tensor, axis: Tensor, angle: float, steps: int) -> Tensor:
    """Projected gradient descent that only ever goes down."""
    value, slope = search(x)
    rate = FIRST * search.scale / slope.norm().clamp(min=torch.finfo(slope.dtype).tiny)
    for _ in range(steps):
        tried = project(x - rate * slope, axis, angle)
        now, then = search(tried)
        if now < value:
            x, value, slope, rate = tried, now, then, 1.5 * rate
        else:
            rate = rate / 3
    return x


class _Divergence:
    """KL(oracle || model + dW), nats, and its gradient, as functions of one long vector in float64."""

    def __init__(self, oracle: Oracle, queries: Tensor, names: Sequence[str]):
        self.oracle, self.queries, self.names = oracle, queries, names
        self.target = oracle.logits(queries)
        self.model = oracle.copy_of_model()
        self.model.requires_grad_(False)
        self.weights = [self.model.get_parameter(name).requires_grad_() for name in names]
        self.scale = size(oracle.model)
        self.base = [oracle.model.get_parameter(name).detach() for name in names]

    def flat(self, update: dict[str, Tensor]) -> Float[Tensor, " parameter"]:
        there = [update.get(name, torch.zeros_like(base)) for name, base in zip(self.names, self.base, strict=True)]
        return torch.cat([one.detach().double().flatten() for one in there])

    def named(self, x: Float[Tensor, " parameter"]) -> dict[str, Tensor]:
        parts = x.split([base.numel() for base in self.base])
        return {
            name: part.view_as(base).to(base) for name, part, base in zip(self.names, parts, self.base, strict=True)
        }

    def __call__(self, x: Float[Tensor, " parameter"]) -> tuple[float, Float[Tensor, " parameter"]]:
        with torch.no_grad():
            for weight, base, change in zip(self.weights, self.base, self.named(x).values(), strict=True):
                weight.copy_(base + change)
        with torch.enable_grad():
            value = kl(self.target, self.oracle.bare.read(self.model, self.queries)[0]).mean()
            slope = torch.autograd.grad(value, self.weights)
        return value.item(), torch.cat([one.double().flatten() for one in slope])
