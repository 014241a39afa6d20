"""Do the instruments read what is known to be there?

Every instrument on models whose answer is known: the induction circuit set by hand, alone and hidden among random
heads; single heads that trap an instrument; and random models, for what must hold of any.  The measured value
stands beside the closed form.  Seeds draw the texts, the random heads and models, and where the circuit is hidden.

Source: the closed forms in probes/theory, which name their own sources; the circuit is that of Elhage et al. 2021,
A Mathematical Framework for Transformer Circuits.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch

import toy_models
from analyses.core import calibration
from analyses.core.results import Result
from probes.ablation import PatternPreserving, Zero, ablate
from probes.attribution import attribution
from probes.circuits import composition, copying, matching, random_composition
from probes.contrast import logit_difference
from probes.in_context import in_context
from probes.logit_lens import logit_lens
from probes.patching import attribution_patch, patch
from probes.paths import path_patch
from toy_models.config import TransformerConfig
from toy_models.progress import progress
from toy_models.seeding import generator
from toy_models.tasks.repeated_blocks import RepeatedBlocks


@dataclass(frozen=True)
class Config:
    """Small enough that the quick profile differs in its seeds alone."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    device: str = "cpu"


QUICK = {"seeds": (0, 1)}
COLUMNS = calibration.COLUMNS

# The circuit and its texts: blocks of distinct tokens after a start token, and pairs of short texts.
V, N, D_MODEL, BETA = 16, 32, 80, 20.0  # vocabulary, context, width, sharpness
TEXTS, PERIOD, LATE = 8, 7, 29  # per seed, length of a block, and a position late in the text
N_PAIR = 6  # clean: BOS a b c d a, which asks for b; corrupt: another token for the first a

# Tolerances.  Sums of some hundred float64 terms of size up to BETA round by less than 1e-12; the layers of a random
# model multiply that, and 1e-10 is what a view on weights is allowed to change.
ROUNDING, LAYERS = 1e-12, 1e-10
# A match leaves at most BESIDE of the attention to n - 1 other keys; the second layer's share moves the logit.
BESIDE = (N - 1) * math.exp(-BETA)
# In a pair a weight of layer 1 is off by its own tail, and by what that of layer 0 does to its scores (2 BETA times
# it).  A recovery is a ratio whose two ends are differences of differences of two weights: 8 of these.
RECOVERY = 8 * (1 + 2 * BETA) * (N_PAIR - 1) * math.exp(-BETA)
# The squared score of random heads whose circuits spread over V directions or more scatters by sqrt(2) / V of its
# mean, the score by half as much: five times that for one of many pairs, four standard errors for a mean.
DRAWS, RMS = 256, D_MODEL**-0.5
ONE_PAIR, MEAN_PAIR = 5 * RMS / (math.sqrt(2) * V), 4 * RMS / (math.sqrt(2) * V) / DRAWS**0.5

QUANTITIES = {
    ("circuits", "probes/theory/circuits.md"): (
        ("copying, induction head", "1", ROUNDING, "the constructed induction head's copying score is 1"),
        ("copying, W_U negated", "1", ROUNDING, "a head that copies in the stream scores -1 if W_U is negated"),
        ("copying, the same in d_model", "1", ROUNDING, "the score of its W_V W_O alone is still 1"),
        ("copying, head scaled by 1e-9", "1", ROUNDING, "a head scaled to next to nothing still scores 1"),
        ("its norm over that before", "1e-9", ROUNDING, "the norm of its circuit tells: 1e-9 of that before"),
        ("matching, through layer 0", "1", ROUNDING, "through the previous-token head it scores 1"),
    ),
    ("composition", "probes/theory/circuits.md"): (
        ("K, hidden pair", "1", ROUNDING, f"the circuit's heads among random ones have 1/sqrt({V}) = 0.25"),
        ("K, strongest of 16 pairs", "1", ROUNDING, "the strongest pair of all has no more, 0.25"),
        ("K, the 15 other pairs", "1", ONE_PAIR, f"each has what random heads have, 1/sqrt({D_MODEL}) = 0.112"),
        ("Q and V, hidden pair", "1", ROUNDING, "the circuit's heads do not compose through Q or V"),
        ("random pairs, r.m.s.", "1", MEAN_PAIR, f"over {DRAWS} random pairs it is 1/sqrt({D_MODEL}) = 0.112"),
    ),
    ("ablation", "probes/theory/ablation.md"): (
        ("loss, nothing ablated", "nats", ROUNDING, "the whole circuit is certain at every repeat"),
        ("loss, no previous-token head", "nats", ROUNDING, "without it the loss is the plateau of counting tokens"),
        ("same, later patterns kept", "nats", ROUNDING, "with later patterns kept the loss stays as it was"),
        ("loss, no induction head", "nats", ROUNDING, f"without it the loss is ln {V}"),
    ),
    ("in context", "probes/theory/in_context.md"): (
        ("whole circuit", "nats", ROUNDING, f"from BOS to a repeat the circuit's loss falls by {BETA:g}"),
        ("no induction head", "nats", ROUNDING, "without the induction head late and early cost the same"),
    ),
    ("patching", "probes/theory/patching.md"): (
        ("previous-token head, after a", "1", RECOVERY, "the previous-token head recovers 1 where it writes a"),
        ("previous-token head, elsewhere", "1", RECOVERY, "at any other position it recovers 0"),
        ("induction head, at the end", "1", RECOVERY, "the induction head recovers 1 at the last position"),
        ("induction head, elsewhere", "1", RECOVERY, "at any other position it recovers 0"),
    ),
    ("attribution patching", "probes/theory/patching.md"): (
        ("previous-token head, after a", "1", BETA * RECOVERY, f"a flat softmax promises {BETA:g}/{N_PAIR}, not 1"),
        ("last layer, random model", "nats", LAYERS, "where the model is linear it equals patching", "identity"),
    ),
    ("path patching", "probes/theory/paths.md"): (
        ("into the keys", "1", RECOVERY, "the path into the induction head's keys recovers 1"),
        ("into the queries", "1", RECOVERY, "the path into its queries recovers 0"),
        ("into the values", "1", RECOVERY, "the path into its values recovers 0"),
    ),
    ("logit attribution", "probes/theory/attribution.md"): (
        ("induction head, at a repeat", "logits", 2 * BETA * BESIDE, f"the induction head writes {BETA:g} at a repeat"),
        ("all other parts", "logits", ROUNDING, "no other part of the circuit writes any of it"),
        ("sum of parts, random model", "logits", LAYERS, "the parts of any model add up to the logit", "identity"),
    ),
    ("logit lens", "probes/theory/logit_lens.md"): (
        ("loss before the last layer", "nats", ROUNDING, f"the circuit says nothing before its last layer, ln {V}"),
        ("last reading, random model", "nats", LAYERS, "the last reading is the model's own output", "identity"),
    ),
    ("views", "toy_models/views.py: the same function"): (
        ("LayerNorm folded", "logits", LAYERS, "a folded LayerNorm gives the same logits", "identity"),
        ("RMSNorm folded", "logits", LAYERS, "a folded RMSNorm gives the same logits", "identity"),
        ("writing weights centred", "logits", LAYERS, "centred writing weights give the same logits", "identity"),
    ),
}
KNOWN = calibration.known(QUANTITIES)
CLAIMS = tuple(one.claim() for one in KNOWN)


@torch.no_grad()
def run(config: Config) -> Result:
    """Read every instrument at every seed."""
    readings = {}
    for seed in progress(config.seeds, "seeds"):
        readings[seed] = {key: pair for read in INSTRUMENTS for key, pair in read(config, seed).items()}
    told = {"device": config.device, "dtype": "float64"}
    return Result(calibration.table(KNOWN, readings), measured_with=told)


# Models and texts ---------------------------------------------------------------------------------


def _circuit(config: Config):
    from toy_models.constructed import induction_circuit

    return induction_circuit(V, N, BETA).double().to(config.device)


def _blocks(config: Config, seed: int):
    task = RepeatedBlocks(V, N, shortest=PERIOD, longest=PERIOD, held_out=())
    return task.sample(TEXTS, generator(seed, "calibration", "blocks")).to(config.device)


def _pair(config: Config, seed: int) -> tuple:
    """Clean and corrupt texts, and the metric that tells them apart: the logit of b over that of c."""
    draws = generator(seed, "calibration", "pair")
    drawn = [torch.randperm(V - 1, generator=draws)[:5] + 1 for _ in range(TEXTS)]
    a, b, c, d, other = torch.stack(drawn, 1).to(config.device)
    clean, corrupt = (torch.stack([0 * a, first, b, c, d, a], 1) for first in (a, other))
    return clean, corrupt, partial(logit_difference, correct=b, wrong=c)


def _model(config: Config, seed: int, **options):
    size = {"d_vocab": V, "n_ctx": N, "dtype": "float64", "device": config.device}
    return toy_models.Transformer(TransformerConfig(**size, **options), seed=seed)


def _random(config: Config, seed: int, **options):
    """A model with random weights, gains and biases, none of which can be left out unnoticed."""
    model = _model(config, seed, **{"n_layers": 3, "n_heads": 4, "d_model": 24, "d_mlp": 32, **options})
    for name, weight in model.named_parameters():
        weight += 0.3 * torch.randn(weight.shape, generator=generator(seed, "calibration", name)).to(weight)
    return model


def _one_head(config: Config, circuit: torch.Tensor, sign: float = 1.0):
    """One head as wide as the stream, whose tokens are one-hot: W_V is all of `circuit`, W_U is +1 or -1."""
    size = {"n_layers": 1, "n_heads": 1, "d_model": V, "d_head": V, "d_mlp": 0}
    model, eye = _model(config, 0, **size, normalization_type=None), torch.eye(V)
    attn = model.blocks[0].attn
    for weight, value in ((model.W_E, eye), (attn.W_V[0], circuit), (attn.W_O[0], eye), (model.W_U, sign * eye)):
        weight.copy_(value)
    return model


def _hidden(config: Config, seed: int) -> tuple:
    """The circuit as one head of each layer, the three others random; and which heads it is."""
    circuit, n_heads = _circuit(config), 4
    size = {"n_layers": 2, "n_heads": n_heads, "d_model": D_MODEL, "d_head": N, "d_mlp": 0}
    model = _model(config, seed, **size, normalization_type=None, attn_scale=1.0, position="learned")
    heads = torch.randint(n_heads, (2,), generator=generator(seed, "calibration", "hidden")).tolist()
    for layer, head in enumerate(heads):
        for name in ("W_Q", "W_K", "W_V", "W_O"):
            getattr(model.blocks[layer].attn, name)[head] = getattr(circuit.blocks[layer].attn, name)[0]
    return model, heads


# Instruments: what they read, beside the known answer ---------------------------------------------


def _weights(config: Config, seed: int) -> calibration.Readings:
    found, through = copying(_circuit(config)), matching(_circuit(config), through=(0, 0))
    factor = torch.randn(V, 2 * V, generator=generator(seed, "calibration", "positive"), dtype=torch.float64)
    positive = factor @ factor.T  # every eigenvalue is positive: it copies
    whole, dead = (copying(_one_head(config, size * positive)) for size in (1.0, 1e-9))
    negated = copying(_one_head(config, positive, sign=-1.0))
    model, (first, second) = _hidden(config, seed)
    pairs = composition(model)
    by_key = pairs.k[0, :, 1]
    others = torch.ones_like(by_key, dtype=torch.bool)
    others[first, second] = False
    drawn = random_composition(D_MODEL, N, generator(seed, "calibration", "pairs"), draws=DRAWS)
    return {
        ("circuits", "copying, induction head"): (found.score[1], 1),
        ("circuits", "copying, W_U negated"): (negated.score, -1),
        ("circuits", "copying, the same in d_model"): (negated.d_model_score, 1),
        ("circuits", "copying, head scaled by 1e-9"): (dead.score, 1),
        ("circuits", "its norm over that before"): (1e9 * dead.output_norm / whole.output_norm, 1),
        ("circuits", "matching, through layer 0"): (through.score[1], 1),
        ("composition", "K, hidden pair"): (by_key[first, second], V**-0.5),
        ("composition", "K, strongest of 16 pairs"): (by_key.max(), V**-0.5),
        ("composition", "K, the 15 other pairs"): (by_key[others], RMS),
        ("composition", "Q and V, hidden pair"): (torch.stack([pairs.q, pairs.v])[:, 0, first, 1, second], 0),
        ("composition", "random pairs, r.m.s."): (math.sqrt(drawn.mean**2 + drawn.sd**2 * (DRAWS - 1) / DRAWS), RMS),
    }


def _ablations(config: Config, seed: int) -> calibration.Readings:
    model, batch = _circuit(config), _blocks(config, seed)
    counts = torch.nn.functional.one_hot(batch.tokens, V).cumsum(1)
    logits = BETA * counts.double() / torch.arange(1, N + 1, device=counts.device)[:, None]
    counting = logits.logsumexp(-1) - logits.gather(-1, batch.targets[..., None])[..., 0]
    without = partial(ablate, model, batch.tokens, targets=batch.targets)
    previous, kept = (without([(0, 0)], how) for how in (Zero(), PatternPreserving(batch.tokens)))
    induction = without([(1, 0)], Zero())
    certain, at = math.log1p((V - 1) * math.exp(-BETA)), batch.scored  # one logit is BETA, the others are 0
    gains = [in_context(losses, 0, LATE).per_sequence for losses in (previous.before, induction.after)]
    return {
        ("ablation", "loss, nothing ablated"): (previous.before[at], certain),
        ("ablation", "loss, no previous-token head"): (previous.after[at], counting[at]),
        ("ablation", "same, later patterns kept"): (kept.after[at], certain),
        ("ablation", "loss, no induction head"): (induction.after, math.log(V)),
        ("in context", "whole circuit"): (gains[0], -BETA),
        ("in context", "no induction head"): (gains[1], 0),
    }


def _patches(config: Config, seed: int) -> calibration.Readings:
    pair, circuit = _pair(config, seed), _circuit(config)
    recovery, promised = patch(circuit, *pair).recovery[..., 0], attribution_patch(circuit, *pair).recovery[..., 0]
    linear = _random(config, seed, d_mlp=0, normalization_type=None)
    exact, estimate = (measure(linear, *pair).effect[:, -1] for measure in (patch, attribution_patch))
    arrived = {letter: path_patch(circuit, *pair, (0, 0), [(1, 0, letter)]).recovery for letter in "kqv"}
    return {
        ("patching", "previous-token head, after a"): (recovery[0, 2], 1),
        ("patching", "previous-token head, elsewhere"): (recovery[0, [0, 1, 3, 4, 5]], 0),
        ("patching", "induction head, at the end"): (recovery[1, -1], 1),
        ("patching", "induction head, elsewhere"): (recovery[1, :-1], 0),
        ("attribution patching", "previous-token head, after a"): (promised[0, 2], BETA / N_PAIR),
        ("attribution patching", "last layer, random model"): (estimate, exact),
        ("path patching", "into the keys"): (arrived["k"], 1),
        ("path patching", "into the queries"): (arrived["q"], 0),
        ("path patching", "into the values"): (arrived["v"], 0),
    }


def _readouts(config: Config, seed: int) -> calibration.Readings:
    model, batch, repeats = _circuit(config), _blocks(config, seed), range(PERIOD + 1, N)
    split = attribution(model, batch.tokens, batch.targets[:, PERIOD + 1 :], positions=repeats)
    head, parts = [part.label for part in split.parts].index("L1H0"), split.contributions
    random = _random(config, seed)
    every = attribution(random, batch.tokens, batch.targets, positions=range(N))
    logits = random(batch.tokens)
    said = logits.gather(-1, batch.targets[..., None])[..., 0]
    lens, last = (logit_lens(one, batch.tokens, batch.targets).loss for one in (model, random))
    return {
        ("logit attribution", "induction head, at a repeat"): (parts[head], BETA),
        ("logit attribution", "all other parts"): (torch.cat([parts[:head], parts[head + 1 :]]), 0),
        ("logit attribution", "sum of parts, random model"): (every.contributions.sum(0), said),
        ("logit lens", "loss before the last layer"): (lens[:-1], math.log(V)),
        ("logit lens", "last reading, random model"): (last[-1], logits.logsumexp(-1) - said),
    }


def _views(config: Config, seed: int) -> calibration.Readings:
    from toy_models.views import centre_writing_weights, fold_layer_norm

    tokens, normed = _blocks(config, seed).tokens, _random(config, seed)
    rms = _random(config, seed, normalization_type="RMS")
    return {
        ("views", "LayerNorm folded"): (fold_layer_norm(normed)(tokens), normed(tokens)),
        ("views", "RMSNorm folded"): (fold_layer_norm(rms)(tokens), rms(tokens)),
        ("views", "writing weights centred"): (centre_writing_weights(normed)(tokens), normed(tokens)),
    }


INSTRUMENTS = (_weights, _ablations, _patches, _readouts, _views)
