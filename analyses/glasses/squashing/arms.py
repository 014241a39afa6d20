"""The arms of `squashing_vs_position`: each gives its rows, its curves over positions, and what run.json should say."""

import numpy as np
import torch
from scipy.stats import spearmanr

from analyses.glasses.squashing.constructed import VOCABULARY, averaging, known
from analyses.glasses.squashing.subjects import TRAINED, UNTRAINED, Checkpoint, Trained, premise_missed
from probes.position_law import limit_density, position_law, random_position_law
from probes.squashing import constants, jacobian, path_bound, squashing
from probes.weights import folded, head_weights, norm_gain
from toy_models.config import TransformerConfig
from toy_models.seeding import generator

UNIFORM, DEEP, WINDOW, SINK, STEEP = "uniform", "uniform, 16 tokens", "window", "sink", "steep scores"
RANDOM, EXACT = "random values", "exactness"
ARMS = (UNIFORM, DEEP, WINDOW, SINK, STEEP, RANDOM, UNTRAINED, TRAINED, EXACT)
DEEP_TOKENS, DEEP_LAYERS, STEEP_SLOPE = 16, (8, 16, 32, 64), 100.0
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-12}
ENTRIES = 0.64  # of W_V W_O at birth: the product of two matrices of standard deviation 0.8 / sqrt(d_model)
RANDOM_SIZE = {"n_heads": 4, "d_model": 64, "d_vocab": VOCABULARY, "d_mlp": 0}
EXACT_SIZE = {"n_layers": 4, "n_heads": 4, "d_model": 64, "d_vocab": VOCABULARY}


# Known answers ------------------------------------------------------------------------------------


def known_arms(config, seed: int):
    """Averaging models against their closed forms; and one whose scores stand on a steep slope."""
    rows, curves = [], {}
    n, gain = config.lengths[0], 1.0
    asked = [(UNIFORM, length, config.depth, {}) for length in config.lengths]
    asked += [(WINDOW, n, config.depth, {"window": config.window}), (SINK, n, config.depth, {"sink": config.sink})]
    asked += [(DEEP, DEEP_TOKENS, depth, {}) for depth in DEEP_LAYERS]
    for arm, length, depth, options in asked:
        model, tokens = averaging(length, depth, gain, **options), _tokens(length, seed)
        found, law = squashing(model, tokens, frozen=True).spectral[0], known(length, depth, gain, **options)
        row = _row(arm, seed, 0, length, depth, found) | _against(found, law)
        if arm == UNIFORM:
            row["limit_error"] = _limit_error(found / (1 + gain) ** depth, depth, gain / (1 + gain))
        if arm != DEEP:
            name = f"{arm}, {length} tokens"
            curves |= {f"{name}: measured (run, position)": _np(found), f"{name}: law (run, position)": _np(law)}
        rows.append(row)
    return [*rows, _steep(config, seed)], curves, {}


def _steep(config, seed: int) -> dict:
    n = config.lengths[0]
    model, tokens = averaging(n, config.depth, 1.0, slope=STEEP_SLOPE), _tokens(n, seed)
    fixed, through = (squashing(model, tokens, frozen=frozen).spectral[0] for frozen in (True, False))
    bound = path_bound(*constants(model, tokens))[0]
    return _row(STEEP, seed, 0, n, config.depth, fixed) | _beside(fixed, through, bound)


def exact_arm(config, seed: int):
    """Every entry of the Jacobian against one backward pass per coordinate, written out, in float64."""
    from toy_models import Transformer

    n = config.exact_tokens
    model = Transformer(TransformerConfig(**EXACT_SIZE, n_ctx=n, dtype=torch.float64), seed=seed)
    tokens = _tokens(n, seed)
    found = jacobian(model, tokens)[0]
    x = (model.W_E[tokens] + model.W_pos[:n]).detach().requires_grad_()
    end = x
    for block in model.blocks:
        end = block(end)
    y = model.ln_final(end)[0, -1]
    rows = [torch.autograd.grad(coordinate, x, retain_graph=True)[0][0] for coordinate in y]
    expected = torch.stack(rows, dim=1)
    error = (found - expected).abs().max() / expected.abs().max()
    row = {"arm": EXACT, "seed": seed, "text": 0, "n": n, "depth": model.cfg.n_layers, "loop_error": error.item()}
    return [row], {}, {}


# One seed's models --------------------------------------------------------------------------------


def model_arms(config, seed: int):
    """Random values without norms, and the model before and after training, on the seed's own texts."""
    subjects = Checkpoint(config) if isinstance(config.model, str) else Trained(config)
    rows, curves = _random(config, seed)
    texts, missed = subjects.texts(seed).to(config.device), premise_missed(subjects.shape)
    for arm in (UNTRAINED, TRAINED):
        model = subjects.model(arm, seed)
        fixed, through = (squashing(model, texts, frozen=frozen).spectral.cpu() for frozen in (True, False))
        bound = path_bound(*constants(model, texts)).cpu() if missed is None else None
        for i in range(len(texts)):
            row = _row(arm, seed, i, texts.shape[1], subjects.shape.n_layers, fixed[i], through[i])
            rows.append(row | _beside(fixed[i], through[i], None if bound is None else bound[i]))
        of_arm = {"weights fixed": fixed, "through the softmax": through}
        of_arm |= {} if bound is None else {"bound": bound}
        if arm == UNTRAINED:
            of_arm["law of random values"] = random_position_law(texts.shape[1], _gains(model, texts))[None]
        curves |= {f"{arm}: {name} (run, text, position)": _np(curve) for name, curve in of_arm.items()}
    return rows, curves, subjects.told() | {"bound": "theorem 5.1" if missed is None else f"none: {missed}"}


def _random(config, seed: int):
    from toy_models import Transformer

    n, depth = config.task.n_ctx, config.depth
    options = {"n_ctx": n, "normalization_type": None, "position": "none"}
    model = Transformer(TransformerConfig(n_layers=depth, **RANDOM_SIZE, **options), seed=seed)
    tokens = _tokens(n, seed)
    fixed = squashing(model, tokens, frozen=True)
    found = fixed.frobenius[0].double() / model.cfg.d_model**0.5
    law, identity = random_position_law(n, [ENTRIES] * depth), _identity_law(n, depth, ENTRIES)
    row = _row(RANDOM, seed, 0, n, depth, found)
    row["random_ratio"] = (found / law).square().mean().sqrt().item()
    row["identity_ratio"] = (found / identity).min().item()
    row |= _held(fixed.spectral[0], path_bound(*constants(model, tokens))[0])
    curves = {"measured": found, "law of random values": law, "law of identity values": identity}
    return [row], {f"{RANDOM}: {name} (run, position)": _np(curve) for name, curve in curves.items()}


def _identity_law(n: int, depth: int, gain: float) -> torch.Tensor:
    return (1 + gain) ** depth * position_law(n, depth, gain / (1 + gain))


@torch.no_grad()
def _gains(model, texts) -> list[float]:
    """Per layer, how much larger attention's values are than the stream: of W_V W_O, summed over heads that at step 0
    attend alike, behind the norm at the median position.  MLPs act on all paths alike."""
    kind = norm_gain(model, 0).kind
    scales = [f"blocks.{layer}.ln1.hook_scale" for layer in range(model.cfg.n_layers)] if kind else []
    cache = model.run_with_cache(texts, names_filter=scales)[1]
    gains = []
    for layer in range(model.cfg.n_layers):
        weights = head_weights(model, layer)
        whole = (folded(weights.W_V, norm_gain(model, layer)) @ weights.W_O).sum(0)
        size = torch.linalg.matrix_norm(whole).item() / model.cfg.d_model**0.5
        gains.append(size / (cache[scales[layer]].median().item() if kind else 1.0))
    return gains


# Numbers of one curve -----------------------------------------------------------------------------


def _tokens(n: int, seed: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (1, n), generator=generator(seed, "tokens", n))


def _row(arm: str, seed: int, text: int, n: int, depth: int, fixed, through=None) -> dict:
    place = {"arm": arm, "seed": seed, "text": text, "n": n, "depth": depth}
    late = fixed if through is None else through
    shares = {
        "first": fixed[0] / fixed.sum(),
        "last": fixed[-1] / fixed.sum(),
        "late": late[-(n // 8) :].sum() / late.sum(),
    }
    return place | {name: value.item() for name, value in shares.items()}


def _against(found, law) -> dict[str, float]:
    reached = law > 0
    errors = {"law_error": (found[reached] / law[reached] - 1).abs().max().item()}
    errors["law_first"] = (law[0] / law.sum()).item()
    return errors if reached.all() else errors | {"beyond": found[~reached].max().item()}


def _limit_error(found, depth: int, share: float) -> float:
    """A position is half a token further than its number, the best reading of i / n; the last one is the atom's."""
    n = len(found)
    x = (torch.arange(n - 1) + 0.5).double() / n
    ratio = n * found[:-1] / limit_density(x, depth, share)
    return (ratio[x >= 1 / 20] - 1).abs().max().item()


def _held(fixed, bound) -> dict[str, float]:
    ratio = fixed / bound
    return {"held": (ratio <= 1 + ROUNDING[fixed.dtype]).double().mean().item(), "furthest": ratio.max().item()}


def _beside(fixed, through, bound) -> dict[str, float]:
    found = {"softmax_path": (through / fixed).median().item()}
    if bound is None:
        return found
    found["above"] = (through > bound * (1 + ROUNDING[fixed.dtype])).double().mean().item()
    found["furthest_above"] = (through / bound).max().item()
    found["rank"] = float(spearmanr(bound, through).statistic)
    return found | _held(fixed, bound)


def _np(curve: torch.Tensor) -> np.ndarray:
    return curve.numpy()
