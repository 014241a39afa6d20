"""Patching: which activation of a clean run, put into a corrupted one, brings the answer back?

A clean text and a corrupted one of the same length differ in what the answer depends on.  With m a number
that a metric reads off the logits (a logit difference, in nats) and a the place of one activation,

    effect(a)    m of the corrupted run in which a holds its clean value          in the units of m
    recovery(a)  (effect(a) - m(corrupt)) / (m(clean) - m(corrupt))               0: as corrupt, 1: as clean
    estimate(a)  m(corrupt) + (a_clean - a_corrupt) . dm/da at the corrupt run    in the units of m

`recovery` is a share of means over the texts; it may leave [0, 1].  `attribution_patch` estimates every
place from one gradient; it is exact where m is linear in the activation.

Sources: Meng et al. 2022, arXiv:2202.05262, section 2.1 (causal tracing); Wang et al. 2022, arXiv:2211.00593,
section 3; Syed et al. 2023, arXiv:2310.10348, section 3 (attribution patching).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import reduce
from jaxtyping import Float, Int

from probes.contrast import Metric, check_texts, ends, recovered, score, within
from probes.errors import ProbeInputError
from probes.model import HookedModel, cached, nearest

# Rows times positions of one batched pass: enough to hide the cost of a call, and small beside the caches.
TOKENS_PER_PASS = 1024


class Site(NamedTuple):
    """A hook of every block, and the sum over its activation that leaves one number per place."""

    hook: str
    sum: str


SITES = {
    "z": Site("attn.hook_z", "batch pos head d -> batch pos head"),
    "head": Site("attn.hook_z", "batch pos head d -> batch head"),
    "pattern": Site("attn.hook_pattern", "batch head query key -> batch head"),
    "resid_pre": Site("hook_resid_pre", "batch pos d -> batch pos"),
    "resid_mid": Site("hook_resid_mid", "batch pos d -> batch pos"),
    "resid_post": Site("hook_resid_post", "batch pos d -> batch pos"),
    "attn_out": Site("hook_attn_out", "batch pos d -> batch pos"),
    "mlp_out": Site("hook_mlp_out", "batch pos d -> batch pos"),
}
WHOLE = ("head", "pattern")  # patched at all positions at once


class Place(NamedTuple):
    """Where one patch is made; None stands for everywhere."""

    pos: int | None
    head: int | None


# A site's places are (pos, head), (pos) or (head).
Effects = Float[torch.Tensor, "batch layer *place"]
Shares = Float[torch.Tensor, "layer *place"]


@dataclass(frozen=True)
class Patching:
    """The metric after every patch, per text, and the share that it recovers.

    `reused`: each patch ran from its own layer and position on; otherwise whole texts through the whole model.
    """

    effect: Effects
    recovery: Shares
    clean: Float[torch.Tensor, " batch"]
    corrupt: Float[torch.Tensor, " batch"]
    reused: bool


@dataclass(frozen=True)
class AttributionPatching:
    """First-order estimates of `Patching.effect` and `Patching.recovery`, in the same shapes."""

    effect: Effects
    recovery: Shares
    clean: Float[torch.Tensor, " batch"]
    corrupt: Float[torch.Tensor, " batch"]


@torch.no_grad()
def patch(
    model: HookedModel,
    clean: Int[torch.Tensor, "batch pos"],
    corrupt: Int[torch.Tensor, "batch pos"],
    metric: Metric,
    site: str = "z",
    *,
    positions: Sequence[int] | None = None,
) -> Patching:
    """Put each activation of a site, one at a time, from the clean run into the corrupted run.

    Args:
        metric: one number per text, from the logits (batch, pos, d_vocab) of a whole run; for example
            `partial(logit_difference, correct=..., wrong=...)`.
        site: "z", every head's output at every position;  "head", at all positions at once;  "pattern", a head's
            whole pattern;  "resid_pre", "resid_mid", "resid_post", "attn_out" or "mlp_out", the vector at every
            position.
        positions: those to patch where the site has them, all unless given; negative ones count from the end.

    A patch changes nothing before its layer, nor, in a causal model, before its position.  A model that can enter
    at a layer and go on from a cache (it has `empty_cache()`, and takes `past`, `residual`, `start_at_layer` and
    `stop_at_layer`) runs from there alone, unless other hooks listen to it.  Any other model runs whole, in batches.

    Raises:
        ProbeInputError: texts of different shape, an unknown site, a position outside the text, a model without
            the hook, a metric that is not one number per text or does not tell clean from corrupt.
    """
    check_texts(clean, corrupt)
    n = clean.shape[1]
    names = hook_names(model, site)
    if positions is not None and (site in WHOLE or not len(positions)):
        raise ProbeInputError(f"positions={positions} with site={site!r}: give some, and only where a site has them")
    positions = [within("position", p, n, negative=True) for p in (range(n) if positions is None else positions)]
    logits, source = cached(model, clean, names)
    reused = _can_reuse(model)
    run = _Remainder(model, corrupt) if reused else _WholePass(model, corrupt)
    apart = ends(metric, logits, run.logits)
    effects = []
    for layer, name in enumerate(names):
        places, shape = _places(site, source[name], positions)
        found = {i: score(metric, logits) for i, logits in run(layer, name, source[name], places)}
        effects.append(torch.stack([found[i] for i in range(len(places))], 1).unflatten(1, shape))
    effect = torch.stack(effects, 1)
    return Patching(effect, recovered(effect, *apart), *apart, reused)


def attribution_patch(
    model: HookedModel,
    clean: Int[torch.Tensor, "batch pos"],
    corrupt: Int[torch.Tensor, "batch pos"],
    metric: Metric,
    site: str = "z",
) -> AttributionPatching:
    """Estimate every patch of a site at once, from two forward passes and one backward pass.

    The gradient is that of the corrupted run.  The weights get none, and may be frozen.

    Raises:
        ProbeInputError: as `patch`; also a metric without a gradient, such as a count of right answers.
    """
    check_texts(clean, corrupt)
    names = hook_names(model, site)
    clean_logits, source = cached(model, clean, names)
    values, shifts = {}, {}

    def attach(name):
        def hook_fn(x, hook):  # adding a leaf of zeros gives the gradient at x, whatever the weights require
            values[name], shifts[name] = x.detach(), torch.zeros_like(x, requires_grad=True)
            return x + shifts[name]

        return name, hook_fn

    with torch.enable_grad():
        with model.hooks(fwd_hooks=[attach(name) for name in names]):
            logits = model(corrupt)
        apart = ends(metric, clean_logits, logits)
        if not apart[1].requires_grad:
            raise ProbeInputError("the metric has no gradient with respect to the logits: try logit_difference")
        gradients = torch.autograd.grad(apart[1].sum(), [shifts[name] for name in names])
    apart = tuple(end.detach() for end in apart)
    estimates = [
        reduce(((source[name] - values[name]) * gradient).to(apart[1].dtype), SITES[site].sum, "sum")
        for name, gradient in zip(names, gradients, strict=True)
    ]
    change = torch.stack(estimates, 1)
    effect = change + apart[1].reshape(-1, *[1] * (change.ndim - 1))
    return AttributionPatching(effect, recovered(effect, *apart), *apart)


def hook_names(model: HookedModel, site: str) -> list[str]:
    """The hook of a site in every layer."""
    if site not in SITES:
        raise ProbeInputError(f"unknown site {site!r}: the nearest are {nearest(site, SITES, cutoff=0.0)}")
    return [f"blocks.{layer}.{SITES[site].hook}" for layer in range(model.cfg.n_layers)]


def _places(site: str, value: torch.Tensor, positions: list[int]) -> tuple[list[Place], tuple[int, ...]]:
    """The places of a site in one layer, and the shape that their results take."""
    if site in WHOLE:
        heads = range(value.shape[1 if site == "pattern" else 2])
        return [Place(None, head) for head in heads], (len(heads),)
    if site == "z":
        heads = range(value.shape[2])
        return [Place(p, head) for p in positions for head in heads], (len(positions), len(heads))
    return [Place(p, None) for p in positions], (len(positions),)


# Two ways to run the patches of one layer: each yields (number of the place, logits of the whole text) -------------


class _WholePass:
    """Whole texts through the whole model, several patches in one batch.  Any hooked model will do."""

    def __init__(self, model: HookedModel, corrupt: torch.Tensor):
        self.model, self.corrupt = model, corrupt
        self.logits = model(corrupt)

    def __call__(self, layer: int, name: str, source: torch.Tensor, places: list[Place]):
        batch, n = self.corrupt.shape
        for group in _groups([0] * len(places), batch, n):
            put = _put(name, source, [places[i] for i in group])
            with self.model.hooks(fwd_hooks=[(name, put)]):
                logits = self.model(self.corrupt.repeat(len(group), 1))
            yield from zip(group, logits.unflatten(0, (-1, batch)), strict=True)


class _Remainder:
    """From the layer and position of the patch on, with the corrupted run's stream, keys and values before it.

    Within its own block a patch of z, or of anything after it, stays at its position: one pass of that block
    with all positions patched holds the outcome of each.
    """

    def __init__(self, model: HookedModel, corrupt: torch.Tensor):
        self.model, self.corrupt, self.past = model, corrupt, model.empty_cache()
        last = model.cfg.n_layers - 1
        names = [*hook_names(model, "resid_pre"), *hook_names(model, "resid_post")[last:]]
        self.logits, cache = model.run_with_cache(corrupt, past=self.past, names_filter=names)
        self.streams = [cache[name] for name in names]  # before each layer, and after the last

    def __call__(self, layer: int, name: str, source: torch.Tensor, places: list[Place]):
        batch, n = self.corrupt.shape
        enter, changed = self._changed(layer, name, source, places)
        for group in _groups([place.pos or 0 for place in places], batch, n):
            first = min(places[i].pos or 0 for i in group)
            stream = self.streams[enter][:, first:].repeat(len(group), 1, 1, 1)
            for row, (pos, head) in zip(stream, (places[i] for i in group), strict=True):
                if pos is None:
                    row[:] = changed[head]
                else:
                    row[:, pos - first] = changed[head][:, pos]
            tail = self._run(stream.flatten(0, 1), enter, first, past=self.past.prefix(first, len(group)))
            for i, end in zip(group, tail.unflatten(0, (-1, batch)), strict=True):
                yield i, torch.cat([self.logits[:, :first], end], 1)

    def _changed(self, layer, name, source, places) -> tuple[int, dict[int | None, torch.Tensor]]:
        """The first layer that a patch alters the stream before, and that stream for every head patched."""
        if name.endswith("hook_resid_pre"):
            return layer, {None: source}
        batch, n = self.corrupt.shape
        heads, changed = list(dict.fromkeys(place.head for place in places)), {}
        for group in _groups([0] * len(heads), batch, n):
            put = _put(name, source, [Place(None, heads[i]) for i in group])
            with self.model.hooks(fwd_hooks=[(name, put)]):
                stream = self.streams[layer].repeat(len(group), 1, 1)
                stream = self._run(stream, layer, 0, stop_at_layer=layer + 1)
            changed.update(zip((heads[i] for i in group), stream.unflatten(0, (-1, batch)), strict=True))
        return layer + 1, changed

    def _run(self, stream: torch.Tensor, layer: int, first: int, **options):
        if layer:
            return self.model(residual=stream, start_at_layer=layer, **options)
        # A residual that enters at layer 0 stands for the token embedding alone: the stream is put in by a hook.
        tokens = self.corrupt[:, first:].repeat(len(stream) // len(self.corrupt), 1)
        with self.model.hooks(fwd_hooks=[(hook_names(self.model, "resid_pre")[0], lambda x, hook: stream)]):
            return self.model(tokens, **options)


def _can_reuse(model: HookedModel) -> bool:
    """Hooks of others may count on whole texts, so they get them."""
    able = callable(getattr(model, "empty_cache", None)) and getattr(model.cfg, "causal", True)
    return able and not any(point.fwd_hooks for point in model.hook_dict.values())


def _put(name: str, source: torch.Tensor, places: list[Place]) -> Callable:
    """A hook that puts the clean value into one place of each copy of the batch."""

    def put(x, hook):
        x = x.unflatten(0, (len(places), -1)).clone()
        for copy, (pos, head) in zip(x, places, strict=True):
            at = slice(None) if pos is None else pos
            where = (head,) if name.endswith("hook_pattern") else (at, head)[: copy.ndim - 2]  # a stream has no heads
            copy[(slice(None), *where)] = source[(slice(None), *where)]
        return x.flatten(0, 1)

    return put


def _groups(firsts: list[int], batch: int, n: int) -> Iterator[list[int]]:
    """Patches to run as one batch, latest first: each runs from the earliest of its group on."""
    group = []
    for i in sorted(range(len(firsts)), key=lambda i: -firsts[i]):
        if group and (len(group) + 1) * batch * (n - firsts[i]) > TOKENS_PER_PASS:
            yield group
            group = []
        group.append(i)
    if group:
        yield group
