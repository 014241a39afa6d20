import pytest
import torch
from torch import nn

from probes import names
from probes import squashing as module
from probes.errors import ProbeInputError
from probes.position_law import position_law, random_position_law
from probes.squashing import LIPSCHITZ, constants, jacobian, path_bound, squashing
from tests.probes.clean_and_corrupt import MODELS, perturbed
from tests.probes.models import same, text, trace
from toy_models import Transformer, TransformerConfig, constructed
from toy_models.block import ACT_FN

BOUNDED = {
    "learned": {},
    "relu": {"act_fn": "relu", "normalization_type": "RMS"},
    "gqa rope": MODELS["gqa rope"],
    "silu": {"act_fn": "silu", "position": "alibi"},
    "window": {"window": 3, "act_fn": "gelu_new"},
    "no norm": {"normalization_type": None},
    "attention only": MODELS["attention only"],
}


def one_backward_pass_per_coordinate(model, tokens, frozen: bool, final_norm: bool) -> torch.Tensor:
    """The definition: every coordinate of y_n, differentiated by the embeddings of all tokens."""
    _, cache = model.run_with_cache(tokens)
    patterns = [names.pattern(layer) for layer in range(model.cfg.n_layers)]
    forced = [(name, lambda p, hook: cache[hook.name]) for name in patterns] if frozen else []
    x = model.W_E[tokens].detach().requires_grad_()
    with model.hooks(fwd_hooks=forced):
        y = model(residual=x, stop_at_layer=model.cfg.n_layers)
    y = (model.ln_final(y) if final_norm else y)[:, -1]
    rows = [torch.autograd.grad(y[:, o].sum(), x, retain_graph=True)[0] for o in range(y.shape[1])]
    return torch.stack(rows, 2)


def uniform_layers(n_layers: int, gain: float, d_model: int = 3, n: int = 12) -> Transformer:
    """x <- x + gain U x in every layer, with U uniform causal attention."""
    options = {"d_vocab": 9, "n_ctx": n, "d_mlp": 0, "normalization_type": None, "position": "none"}
    model = Transformer(
        TransformerConfig(n_layers=n_layers, n_heads=1, d_model=d_model, dtype=torch.float64, **options)
    )
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_Q.zero_()
            block.attn.W_V[0] = torch.eye(d_model, dtype=torch.float64)
            block.attn.W_O[0] = gain * torch.eye(d_model, dtype=torch.float64)
    return model


# Exactness ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("final_norm", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_it_equals_the_loop_of_backward_passes(name, frozen, final_norm):
    model, tokens = perturbed(**MODELS[name]), text(n=7, batch=2)
    expected = one_backward_pass_per_coordinate(model, tokens, frozen, final_norm)
    found = jacobian(model, tokens, frozen=frozen, final_norm=final_norm)
    assert found.shape == (2, 7, 12, 12)
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize(("rows", "written"), [(5, True), (1, True), (1, False)])
def test_however_many_rows_a_pass_takes_the_jacobian_is_the_same(any_model, frozen, rows, written, monkeypatch):
    tokens = text(n=7, batch=2)
    at_once = jacobian(any_model, tokens, frozen=frozen)
    per_row = module.PATTERNS_PER_ROW * 8 * tokens.numel() * 7 * any_model.cfg.n_heads
    monkeypatch.setattr(module, "BATCHED_BYTES", rows * per_row)
    monkeypatch.setattr(module, "WRITTEN_BYTES", per_row * any_model.cfg.n_layers if written else 0)
    found = jacobian(any_model, tokens, frozen=frozen)
    assert (found - at_once).abs().max() <= 200 * torch.finfo(found.dtype).eps * at_once.abs().max()


def test_through_the_unembedding_it_is_the_derivative_of_the_logits(any_model):
    tokens, start = text(n=6, batch=1), {}

    def enter(x, hook):
        start["x"] = x.detach().requires_grad_()
        return start["x"].clone()

    with any_model.hooks(fwd_hooks=[(names.resid_pre(0), enter)]):
        logits = any_model(tokens)[0, -1]
    expected = [torch.autograd.grad(logit, start["x"], retain_graph=True)[0][0] for logit in logits]
    found = torch.einsum("pod,ov->vpd", jacobian(any_model, tokens)[0], any_model.unembed.W_U.detach())
    expected = torch.stack(expected)
    assert (found - expected).abs().max() <= 200 * torch.finfo(found.dtype).eps * expected.abs().max()


def test_the_norms_are_those_of_the_jacobian():
    model, tokens = perturbed(), text(n=7, batch=2)
    found, exact = squashing(model, tokens), jacobian(model, tokens)
    values = torch.linalg.svdvals(exact)
    assert (found.spectral - values[..., 0]).abs().max() <= 1e-12 * values.max()
    assert (found.frobenius - values.square().sum(-1).sqrt()).abs().max() <= 1e-12 * values.max()


def test_a_text_is_measured_alone():
    model, tokens = perturbed(), text(n=7, batch=3)
    found = squashing(model, tokens[[2, 0, 1]]).spectral
    assert (found - squashing(model, tokens).spectral[[2, 0, 1]]).abs().max() <= 1e-12 * found.max()


def test_a_window_lets_nothing_through_from_beyond_its_reach():
    model = perturbed(window=3, position="rope", n_layers=2)
    found = squashing(model, text(n=10, batch=1)).spectral[0]
    assert found[: 9 - 2 * 2].max() == 0  # two layers, two positions back in each
    assert found[9 - 2 * 2 :].min() > 0


# Known answers and the bound ----------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize(("n_layers", "gain"), [(1, 1.0), (4, 1.0), (6, 0.3)])
def test_uniform_attention_follows_the_law_and_the_bound_is_attained(n_layers, gain, frozen):
    model, tokens = uniform_layers(n_layers, gain), text(n=12, batch=2)
    law = (1 + gain) ** n_layers * position_law(12, n_layers, gain / (1 + gain))
    found = squashing(model, tokens, frozen=frozen)
    assert (found.spectral - law).abs().max() <= 1e-12
    assert (found.frobenius - 3**0.5 * law).abs().max() <= 1e-12
    assert (path_bound(*constants(model, tokens)) - law).abs().max() <= 1e-12


def test_an_untrained_model_without_norms_follows_the_law_for_random_values():
    """Weights of standard deviation 0.8 / sqrt(d_model) make E[W W^T] = 0.64^2 for any heads; mean of 40 seeds."""
    size = {"n_layers": 3, "n_heads": 2, "d_model": 16, "d_vocab": 9, "n_ctx": 32}
    config = TransformerConfig(**size, d_mlp=0, normalization_type=None, position="none", dtype=torch.float64)
    found = [squashing(Transformer(config, seed=s), text(s, 1, 32), frozen=True).frobenius[0] for s in range(40)]
    squares = torch.stack(found).square() / 16
    off = (squares.mean(0) - random_position_law(32, [0.64] * 3).square()).abs()
    assert (off <= 5 * squares.std(0) / 40**0.5).all()


def test_with_the_constants_of_proposition_5_2_the_bound_is_the_law_at_one_half():
    """One for every norm and MLP but the last norm, whose b3 is 4^L."""
    pattern = torch.ones(9, 9, dtype=torch.float64).tril() / torch.arange(1, 10)[:, None]
    found = path_bound([pattern[None]] * 5, [1.0] * 5, 4.0**-5)
    assert (found[0] - position_law(9, 5)).abs().max() <= 1e-14


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", BOUNDED)
def test_with_weights_held_fixed_no_position_exceeds_the_bound(name, seed):
    model, tokens = perturbed(seed, **BOUNDED[name]), text(seed, n=12)
    found = squashing(model, tokens, frozen=True).spectral
    bound = path_bound(*constants(model, tokens))
    assert (found <= bound * (1 + 1e-12)).all()
    assert (bound <= 1e5 * found.amax()).all()  # of the order of what it bounds: no norm was left out


@pytest.mark.parametrize("name", ["learned", "relu", "gqa rope"])
def test_the_constants_are_those_of_the_theory_note(name):
    """Written out once more: singular values of full matrices, and the scales from the stream."""
    model, tokens = perturbed(**BOUNDED[name]), text(n=6, batch=2)
    _, cache = model.run_with_cache(tokens)
    centred, share = model.cfg.normalization_type == "LN", model.cfg.n_heads // model.cfg.n_key_value_heads

    def scale(x):
        return (x.var(-1, correction=0) if centred else x.square().mean(-1)).add(model.cfg.eps).sqrt()

    def size(matrix):  # of a matrix that reads the stream, which LN has centred
        return torch.linalg.svdvals(matrix - matrix.mean(0) if centred else matrix)[0]

    found = constants(model, tokens)
    for layer, block in enumerate(model.blocks):
        attn, mlp = block.attn, block.mlp
        ov = [size(block.ln1.w[:, None] * attn.W_V[h // share] @ attn.W_O[h]) for h in range(model.cfg.n_heads)]
        pattern, before = cache[names.pattern(layer)], cache[names.resid_pre(layer)]
        mixed = sum(value * pattern[:, h] for h, value in enumerate(ov)) / scale(before)[:, None]
        assert (found.mixing[layer] - mixed).abs().max() <= 1e-12 * mixed.max()
        slope = torch.linalg.svdvals(block.ln2.w[:, None] * mlp.W_in)[0] * torch.linalg.svdvals(mlp.W_out)[0]
        grown = LIPSCHITZ[model.cfg.act_fn] * slope / scale(cache[f"blocks.{layer}.hook_resid_mid"])
        assert (found.growth[layer] - grown).abs().max() <= 1e-12 * grown.max()
    final = model.ln_final.w.abs().max() / scale(cache[names.resid_post(2)][:, -1])
    assert (found.final - final).abs().max() <= 1e-12 * final.max()


def test_through_the_softmax_a_position_may_exceed_it():
    """Uniform weights whose scores stand on a steep slope: the value of a key says how much it is attended to."""
    model, tokens = constructed.uniform_head().double(), text(n=6, batch=1)
    unused = model.cfg.d_vocab + model.cfg.n_ctx  # a coordinate in which no embedding has anything
    with torch.no_grad():
        model.blocks[0].attn.b_Q[0, 0] = 100.0
        model.blocks[0].attn.W_K[0, unused, 0] = 1.0
    bound = path_bound(*constants(model, tokens))
    assert (squashing(model, tokens, frozen=True).spectral <= bound * (1 + 1e-12)).all()
    assert (squashing(model, tokens).spectral > 2 * bound).any()


@pytest.mark.parametrize("name", LIPSCHITZ)
def test_the_largest_slope_of_an_activation_is_known_to_five_digits(name):
    x = torch.linspace(-6, 6, 200_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(ACT_FN[name](x).sum(), x)
    assert LIPSCHITZ[name] - 1e-5 <= slope.abs().max().item() <= LIPSCHITZ[name]


def test_gpt2_has_a_bound(gpt2_directory):
    import toy_models

    model, tokens = toy_models.load(gpt2_directory), text(n=10)
    bound = path_bound(*constants(model, tokens))
    assert (squashing(model, tokens, frozen=True).spectral <= bound * (1 + 1e-5)).all()


# No trace, and refusals ---------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [True, False])
def test_it_leaves_the_model_as_it_found_it(any_model, frozen):
    before, tokens = trace(any_model), text(n=6)
    first = squashing(any_model, tokens, frozen=frozen)
    assert same(before, trace(any_model))
    assert torch.equal(tokens, text(n=6))
    assert not first.spectral.requires_grad
    assert torch.equal(first.frobenius, squashing(any_model, tokens, frozen=frozen).frobenius)


def test_it_works_where_gradients_are_off():
    with torch.no_grad():
        assert squashing(perturbed(), text()).spectral.min() > 0


def test_a_model_without_the_hook_is_refused_by_its_name():
    model = perturbed()
    model.blocks[0].hook_resid_pre = nn.Identity()
    model.setup()
    with pytest.raises(ProbeInputError, match=r"no hook blocks\.0\.hook_resid_pre"):
        squashing(model, text())


def test_a_token_outside_the_vocabulary_is_refused():
    with pytest.raises(ProbeInputError, match=r"token 9 must lie in \[0, 9\)"):
        squashing(perturbed(), torch.tensor([[1, 9]]))


def test_no_token_and_no_layer_are_refused():
    with pytest.raises(ProbeInputError, match=r"tokens have shape \(2, 0\): give at least one text of one token"):
        squashing(perturbed(), text(n=0, batch=2))
    for measure in (squashing, constants):
        with pytest.raises(ProbeInputError, match=r"no hook blocks\.0\."):
            measure(perturbed(n_layers=0), text())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm_position": "post"}, "norm_position='post': the bound is for blocks"),
        ({"parallel_attn_mlp": True}, "parallel_attn_mlp=True: the bound is for blocks"),
        ({"use_normalization_before_and_after": True}, "use_normalization_before_and_after=True: the bound is for"),
        ({"gated_attention": True}, "gated_attention=True: the bound is for blocks"),
        ({"gated_mlp": True}, "layer 0 has a gated MLP"),
    ],
)
def test_a_model_that_the_bound_is_not_for_is_refused(options, message):
    with pytest.raises(ProbeInputError, match=message):
        constants(perturbed(**options), text())


def test_a_bound_wants_both_constants_of_every_layer():
    with pytest.raises(ProbeInputError, match="2 mixing and 1 growth"):
        path_bound([torch.eye(3)[None]] * 2, [0.0])
