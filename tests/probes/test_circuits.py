import math

import pytest
import torch
from transformer_lens.hook_points import HookPoint

import toy_models
from probes.circuits import composition, copying, eigenvalues, matching, ov_circuit, qk_circuit, random_composition
from probes.errors import ProbeInputError
from toy_models import Transformer, TransformerConfig, constructed
from toy_models.seeding import generator

VOCABULARY, N_CTX = 16, 32  # of the constructed circuits


def ours(**options) -> Transformer:
    """Random weights, gains and biases, float64; four heads on two key-value heads, fewer tokens than d_model."""
    size = {"n_layers": 3, "n_heads": 4, "n_key_value_heads": 2, "d_model": 20, "d_vocab": 13, "n_ctx": 8}
    model = Transformer(TransformerConfig(**{**size, "dtype": "float64", "d_mlp": 0, **options}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator(0, name), dtype=torch.float64))
    return model


def crowded_induction_circuit() -> Transformer:
    """The constructed circuit as heads (0, 2) and (1, 1) of a model whose six other heads are random and small."""
    circuit = constructed.induction_circuit(VOCABULARY, N_CTX)
    size = {name: getattr(circuit.cfg, name) for name in ("d_model", "d_vocab", "n_ctx", "d_head", "d_mlp")}
    options = {"n_layers": 2, "n_heads": 4, "normalization_type": None, "attn_scale": 1.0, "position": "learned"}
    model = Transformer(TransformerConfig(**size, **options))
    with torch.no_grad():
        model.W_E.copy_(circuit.W_E)
        model.W_U.copy_(circuit.W_U)
        for layer, head in ((0, 2), (1, 1)):
            for name in ("W_Q", "W_K", "W_V", "W_O"):
                getattr(model.blocks[layer].attn, name).mul_(0.1)
                getattr(model.blocks[layer].attn, name)[head] = getattr(circuit.blocks[layer].attn, name)[0]
    return model


@torch.no_grad()
def one_head(W_E: torch.Tensor, OV: torch.Tensor, W_U: torch.Tensor) -> Transformer:
    """One head as wide as the stream: W_V is the whole OV, W_O the identity."""
    n = len(W_E)
    size = {"n_layers": 1, "n_heads": 1, "d_model": n, "d_head": n, "d_vocab": n, "n_ctx": 4, "d_mlp": 0}
    model = Transformer(TransformerConfig(**size, normalization_type=None, dtype="float64"))
    for weight, value in ((model.W_E, W_E), (model.W_U, W_U), (model.blocks[0].attn.W_V[0], OV)):
        weight.copy_(value)
    model.blocks[0].attn.W_O[0] = torch.eye(n)
    return model


# Float64 oracles: every matrix multiplied out -----------------------------------------------------


def dense_fold(weight, norm, model, fold):
    """P diag(w) W with the centring matrix P written out."""
    if not (fold and hasattr(norm, "w")):
        return weight
    centre = torch.eye(len(norm.w), dtype=torch.float64)
    if model.cfg.normalization_type == "LN":
        centre = centre - 1 / len(norm.w)
    return centre @ torch.diag(norm.w.detach().double()) @ weight


@torch.no_grad()
def dense_heads(model, fold):
    """Per layer and head: W_Q W_K^T and W_V W_O in d_model space."""
    layers = []
    for block in model.blocks:
        attn, heads = block.attn, []
        share = len(attn.W_Q) // len(attn.W_K)
        for head in range(len(attn.W_Q)):
            read = attn.W_Q[head], attn.W_K[head // share], attn.W_V[head // share]
            q, k, v = (dense_fold(weight.double(), block.ln1, model, fold) for weight in read)
            heads.append((q @ k.T, v @ attn.W_O[head].double()))
        layers.append(heads)
    return layers


def dense_score(circuit):
    found = torch.linalg.eigvals(circuit)
    return (found.real.sum() / found.abs().sum()).item()


MODELS = [("LN", True), ("LN", False), ("RMS", True), (None, False)]


@pytest.mark.parametrize(("norm", "fold"), MODELS)
def test_copying_is_that_of_the_circuit_multiplied_out(norm, fold):
    model = ours(normalization_type=norm)
    found = copying(model, fold=fold)
    W_U = dense_fold(model.unembed.W_U.detach(), model.ln_final, model, fold)
    for layer, heads in enumerate(dense_heads(model, fold)):
        circuit = ov_circuit(model, layer, fold=fold)
        for head, (_, ov) in enumerate(heads):
            full = model.W_E.detach() @ ov @ W_U
            assert found.score[layer, head].item() == pytest.approx(dense_score(full), abs=1e-9)
            assert found.d_model_score[layer, head].item() == pytest.approx(dense_score(ov), abs=1e-9)
            assert found.output_norm[layer, head].item() == pytest.approx(full.norm().item(), rel=1e-12)
            torch.testing.assert_close(circuit.left[head] @ circuit.right[head], full, atol=1e-12, rtol=1e-12)
        assert circuit.folded is fold
    assert found.folded is fold


@pytest.mark.parametrize(("norm", "fold"), MODELS)
@pytest.mark.parametrize("through", [None, (1, 3)])
def test_matching_is_that_of_the_circuit_multiplied_out(norm, fold, through):
    model = ours(normalization_type=norm)
    found, dense = matching(model, fold=fold, through=through), dense_heads(model, fold)
    W_E = model.W_E.detach()
    moved = torch.eye(20, dtype=torch.float64) if through is None else dense[through[0]][through[1]][1]
    for layer, heads in enumerate(dense):
        for head, (qk, _) in enumerate(heads):
            full, score = W_E @ qk @ (W_E @ moved).T, found.score[layer, head].item()
            if through is not None and layer <= through[0]:
                assert math.isnan(score)
                continue
            assert score == pytest.approx(dense_score(full), abs=1e-9)
            assert found.d_model_score[layer, head].item() == pytest.approx(dense_score(qk @ moved.T), abs=1e-9)
            assert found.circuit_norm[layer, head].item() == pytest.approx(full.norm().item(), rel=1e-12)
            if through is None:
                circuit = qk_circuit(model, layer, fold=fold)
                torch.testing.assert_close(circuit.left[head] @ circuit.right[head], full, atol=1e-12, rtol=1e-12)
    assert found.folded is fold


@pytest.mark.parametrize(("norm", "fold"), MODELS)
@pytest.mark.parametrize("d_head", [5, 24])  # narrower and wider than the stream
def test_composition_is_that_of_the_products_multiplied_out(norm, fold, d_head):
    model = ours(normalization_type=norm, d_head=d_head)
    found, dense = composition(model, fold=fold), dense_heads(model, fold)
    for early in range(3):
        for late in range(3):
            for one, (_, written) in enumerate(dense[early]):
                for two, (qk, ov) in enumerate(dense[late]):
                    for scores, read in ((found.q, qk), (found.k, qk.T), (found.v, ov)):
                        score = scores[early, one, late, two].item()
                        if early >= late:
                            assert math.isnan(score)
                        else:
                            expected = (written @ read).norm() / (written.norm() * read.norm())
                            assert score == pytest.approx(expected.item(), abs=1e-12)
    assert found.folded is fold
    assert found.random_rms == 20**-0.5


def test_a_circuits_eigenvalues_are_those_of_the_full_matrix_that_are_not_zero():
    circuit = ov_circuit(ours(), 1)
    for head, found in enumerate(eigenvalues(circuit)):
        full = torch.linalg.eigvals(circuit.left[head] @ circuit.right[head])
        largest = full[full.abs().argsort(descending=True)][: len(found)]
        assert sorted(found.abs().tolist()) == pytest.approx(sorted(largest.abs().tolist()), abs=1e-9)
        assert found.sum().real.item() == pytest.approx(full.sum().real.item(), abs=1e-9)


# Calibration on weights set by hand ---------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
def test_the_induction_circuit_copies_and_its_negative_anti_copies(sign):
    model = constructed.induction_circuit()
    with torch.no_grad():
        model.blocks[1].attn.W_O.mul_(sign)
    found = copying(model)
    assert found.score[1, 0].item() == pytest.approx(sign, abs=1e-12)
    assert found.output_norm[1, 0].item() == pytest.approx(constructed.SHARPNESS * VOCABULARY**0.5, rel=1e-12)
    assert found.output_norm[0, 0] == 0  # its head of layer 0 writes where the unembedding does not look
    assert found.score[0, 0].isnan()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_induction_circuit_matches_through_its_previous_token_head(sign):
    model = constructed.induction_circuit()
    with torch.no_grad():
        model.blocks[1].attn.W_Q.mul_(sign)
    assert matching(model, through=(0, 0)).score[1, 0].item() == pytest.approx(sign, abs=1e-12)
    assert matching(model).circuit_norm[1, 0] == 0  # on the tokens themselves it has no opinion


def test_the_full_circuit_may_have_the_opposite_sign_of_the_d_model_one():
    eye = torch.eye(5, dtype=torch.float64)
    found = copying(one_head(W_E=eye, OV=eye, W_U=-eye))
    assert found.d_model_score.item() == pytest.approx(1)
    assert found.score.item() == pytest.approx(-1)


def test_a_dead_head_scores_one_and_its_norm_gives_it_away():
    eye = torch.eye(5, dtype=torch.float64)
    alive, dead = (copying(one_head(W_E=eye, OV=size * eye, W_U=eye)) for size in (1.0, 1e-9))
    assert alive.score.item() == pytest.approx(1)
    assert dead.score.item() == pytest.approx(1)
    assert dead.output_norm.item() == pytest.approx(1e-9 * alive.output_norm.item(), rel=1e-12)
    assert copying(one_head(W_E=eye, OV=0 * eye, W_U=eye)).score.isnan().all()


@pytest.mark.parametrize("n", [3, 4, 7])
def test_a_cyclic_shift_of_the_vocabulary_neither_copies_nor_avoids(n):
    eye = torch.eye(n, dtype=torch.float64)
    found = copying(one_head(W_E=eye, OV=eye.roll(1, 0), W_U=eye))
    assert found.score.item() == pytest.approx(0, abs=1e-12)  # the n-th roots of unity add up to zero
    assert found.output_norm.item() == pytest.approx(n**0.5)


def test_composition_singles_out_the_constructed_previous_token_head():
    found = composition(crowded_induction_circuit())
    by_key = found.k[0, :, 1]
    # |OV| = sqrt(V), |QK| = s sqrt(V), and their product is s on V tokens: s sqrt(V) / (s V).
    assert by_key[2, 1].item() == pytest.approx(VOCABULARY**-0.5, rel=1e-6)
    assert by_key.flatten().topk(2).values[1] < 0.6 * by_key[2, 1]
    assert found.q[0, 2, 1, 1] == 0
    assert found.v[0, 2, 1, 1] == 0


@pytest.mark.parametrize("letter", ["q", "k", "v"])
def test_each_score_hears_its_own_input_alone_and_on_the_side_that_is_read(letter):
    model = constructed.induction_circuit()
    attn, token, previous = model.blocks[1].attn, torch.arange(VOCABULARY), VOCABULARY + N_CTX
    with torch.no_grad():
        for name in ("W_Q", "W_K", "W_V"):
            getattr(attn, name).zero_()
            # Block `previous` holds what layer 0 wrote; it reads, but does not write, the tokens.
            getattr(attn, name)[0, (previous if name[-1].lower() == letter else 0) + token, token] = 1.0
    for name in "qkv":
        expected = VOCABULARY**-0.5 if name == letter else 0
        assert getattr(composition(model), name)[0, 0, 1, 0].item() == pytest.approx(expected)


@pytest.mark.parametrize(("d_model", "d_head"), [(16, 4), (64, 16), (8, 12)])
def test_random_heads_compose_by_one_over_the_root_of_d_model(d_model, d_head):
    draws = 400
    found = random_composition(d_model, d_head, generator(0, "draws"), draws=draws)
    second_moment = found.mean**2 + found.sd**2 * (draws - 1) / draws
    # d(score^2) = 2 score d(score), so the standard error of the mean square is about 2 mean sd / sqrt(draws).
    assert second_moment == pytest.approx(1 / d_model, abs=4 * 2 * found.mean * found.sd / draws**0.5)
    again = random_composition(d_model, d_head, generator(0, "draws"), draws=draws)
    assert again == found


# Any model, left as it was ------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_bridges_agree_with_the_oracle(family, request):
    bridge = toy_models.load(request.getfixturevalue(f"{family}_directory"))
    fold = family == "llama"
    found, pairs = copying(bridge, fold=fold), composition(bridge, fold=fold)
    W_U = dense_fold(bridge.unembed.W_U.detach().double(), bridge.ln_final, bridge, fold)
    dense = dense_heads(bridge, fold)
    for layer, heads in enumerate(dense):
        for head, (_, ov) in enumerate(heads):
            full = bridge.W_E.detach().double() @ ov @ W_U
            assert found.score[layer, head].item() == pytest.approx(dense_score(full), abs=1e-9)
    written, read = dense[0][1][1], dense[1][0][0].T
    expected = (written @ read).norm() / (written.norm() * read.norm())
    assert pairs.k[0, 1, 1, 0].item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("family", ["ours", "gpt2", "llama"])
def test_it_leaves_the_model_as_it_found_it(family, request):
    model = ours() if family == "ours" else toy_models.load(request.getfixturevalue(f"{family}_directory"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = [len(p._forward_hooks) for p in model.modules() if isinstance(p, HookPoint)]
    for found in (copying(model, fold=True), matching(model, fold=True), composition(model, fold=True)):
        assert not any(value.requires_grad for value in vars(found).values() if isinstance(value, torch.Tensor))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [len(p._forward_hooks) for p in model.modules() if isinstance(p, HookPoint)] == hooks
    assert all(p.grad is None for p in model.parameters())


def test_folding_says_so_only_where_there_was_a_norm():
    bare, after = ours(normalization_type=None), ours(norm_position="post")
    for model in (bare, after):
        assert not copying(model, fold=True).folded
        assert not composition(model, fold=True).folded
        assert torch.equal(copying(model, fold=True).score, copying(model).score)


# Refusals -----------------------------------------------------------------------------------------


def test_what_has_no_answer_is_refused():
    with pytest.raises(ProbeInputError, match="reads 13 tokens and says 7"):
        copying(ours(d_vocab_out=7))
    with pytest.raises(ProbeInputError, match="the model has 1 layer"):
        composition(ours(n_layers=1))
    with pytest.raises(ProbeInputError, match=r"head=4 must lie in \[0, 4\)"):
        matching(ours(), through=(0, 4))
    with pytest.raises(ProbeInputError, match=r"layer=3 must lie in \[0, 3\)"):
        ov_circuit(ours(), 3)
    with pytest.raises(ProbeInputError, match="draws=1 must be at least 2"):
        random_composition(4, 2, generator(0), draws=1)
    for probe in (copying, matching, composition):
        with pytest.raises(ProbeInputError, match="looked for"):
            probe(torch.nn.Linear(2, 2))
