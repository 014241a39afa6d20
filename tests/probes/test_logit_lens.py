import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from probes import names
from probes.errors import ProbeInputError
from probes.logit_lens import logit_lens, read_out
from tests.probes.models import HandWritten, ours, same, text, trace
from toy_models import Transformer, TransformerConfig, constructed
from toy_models.seeding import generator
from toy_models.tasks.repeated_blocks import RepeatedBlocks

OPTIONS = {
    "LN": {},
    "RMS, rope, grouped": {"normalization_type": "RMS", "position": "rope", "n_key_value_heads": 1},
    "no norm": {"normalization_type": None},
    "post-norm": {"norm_position": "post"},
    "bfloat16": {"dtype": "bfloat16"},
}
REPEATS = RepeatedBlocks(d_vocab=16, n_ctx=32, shortest=7, longest=7, held_out=())


# Calibration on a model whose layers are known ----------------------------------------------------


def test_the_induction_circuit_knows_nothing_before_its_second_layer_and_everything_after():
    """Nothing it reads out is written before: the logits are all zero, a uniform reading."""
    model, batch = constructed.induction_circuit(d_vocab=16, n_ctx=32).double(), REPEATS.sample(4, generator(0, "text"))
    found = logit_lens(model, batch.tokens, batch.targets)
    seen = batch.scored
    with torch.no_grad():
        entropy = Categorical(logits=model(batch.tokens)).entropy()
    for reading in (0, 1):
        assert (found.loss[reading] - math.log(16)).abs().max() <= 1e-14
        assert (found.probability[reading] - 1 / 16).abs().max() <= 1e-15
        assert found.rank[reading].max() == 0  # no token has a larger logit
        assert (found.divergence[reading] - (math.log(16) - entropy)).abs().max() <= 1e-13
    certain = math.log1p(15 * math.exp(-20))
    assert (found.loss[2][seen] - certain).abs().max() <= 1e-6
    assert found.rank[2][seen].max() == 0
    assert found.loss[2][~seen].min() > 1


def test_the_lens_reads_the_basis_of_the_unembedding_alone():
    """A known limit: turn the stream between the layers, and turn it back in the last block, and the early readings
    change while the model does not."""
    d_model, turn = 8, torch.linalg.qr(torch.randn(8, 8, generator=generator(3), dtype=torch.float64))[0]
    plain = Transformer(
        TransformerConfig(
            n_layers=1, n_heads=1, d_model=d_model, d_vocab=8, n_ctx=8, d_head=d_model, d_mlp=0, dtype="float64",
            normalization_type=None, position="none",
        )
    )  # fmt: skip
    with torch.no_grad():
        for weight in plain.parameters():
            weight.zero_()
        plain.W_E.copy_(turn)
        plain.W_U.copy_(5 * torch.eye(8))
        plain.blocks[0].attn.W_V[0] = torch.eye(8)
        plain.blocks[0].attn.W_O[0] = turn.T - torch.eye(8)  # on a text of one token the head sees just that
    found = logit_lens(plain, torch.tensor([[3]]), torch.tensor([[3]]))
    assert found.loss[1].item() == pytest.approx(math.log1p(7 * math.exp(-5)), abs=1e-12)
    assert found.loss[0].item() > 1
    assert found.divergence[0].item() > 1


# Agreement with the definitions -------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIONS)
def test_the_last_reading_is_the_models_own_output_bit_for_bit(name):
    model, tokens = ours(**OPTIONS[name]), text()
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens)
        assert torch.equal(read_out(model, cache[names.resid_post(2)]), logits)
        losses = model(tokens, return_type="loss", loss_per_token=True)
    found = logit_lens(model, tokens)
    assert found.divergence[-1].abs().max() == 0
    assert (found.loss[-1] - losses).abs().max() <= 1e-6 * losses.max()
    assert found.divergence[0].min() > 0


@pytest.mark.parametrize("name", ["LN", "RMS, rope, grouped", "no norm", "post-norm"])
def test_every_reading_follows_the_definitions(name):
    model, tokens = ours(**OPTIONS[name]), text()
    found = logit_lens(model, tokens, tokens.flip(1))
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens)
        for reading in range(4):
            resid = cache[names.resid_pre(0)] if reading == 0 else cache[names.resid_post(reading - 1)]
            read = model.unembed(model.ln_final(resid))
            p = read.softmax(-1).gather(-1, tokens.flip(1)[..., None])[..., 0]
            assert (found.probability[reading] - p).abs().max() <= 1e-13
            assert (found.loss[reading] + p.log()).abs().max() <= 1e-12
            divergence = kl_divergence(Categorical(logits=logits), Categorical(logits=read))
            assert (found.divergence[reading] - divergence).abs().max() <= 1e-12
            order = read.argsort(-1, descending=True).tolist()
            ranks = [
                [row.index(t) for row, t in zip(*pair, strict=True)]
                for pair in zip(order, tokens.flip(1).tolist(), strict=True)
            ]
            assert found.rank[reading].tolist() == ranks


def test_without_targets_each_position_is_asked_for_the_next_token():
    model, tokens = ours(), text()
    free, told = logit_lens(model, tokens), logit_lens(model, tokens, tokens.roll(-1, 1))
    for name in ("loss", "probability", "rank", "divergence"):
        assert torch.equal(getattr(free, name), getattr(told, name)[:, :, :-1])


def test_a_token_ruled_out_by_both_distributions_costs_nothing():
    model = ours()
    with torch.no_grad():
        model.b_U[4] = -torch.inf
    found = logit_lens(model, text(), torch.zeros(3, 12, dtype=torch.long))
    assert found.divergence.isfinite().all()
    assert found.divergence[-1].abs().max() == 0


# Any hooked model ---------------------------------------------------------------------------------


def test_it_reads_any_model_and_ends_at_the_models_own_losses(any_model):
    tokens = text()
    found = logit_lens(any_model, tokens)
    assert found.loss.shape == (any_model.cfg.n_layers + 1, 3, 11)
    with torch.no_grad():
        expected = -any_model(tokens)[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    assert (found.loss[-1] - expected).abs().max() <= 1e-6
    assert found.divergence[-1].abs().max() == 0
    assert found.divergence[0].mean() > 1e-4


def test_it_leaves_the_model_and_the_text_as_it_found_them(any_model):
    before, tokens = trace(any_model), text()
    first = logit_lens(any_model, tokens)
    assert same(before, trace(any_model))
    assert torch.equal(tokens, text())
    assert not first.loss.requires_grad
    assert torch.equal(first.loss, logit_lens(any_model, tokens).loss)


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "targets", "message"),
    [
        (text(n=1), None, "1 token has no next one"),
        (text(), text(n=11), r"targets have shape \(3, 11\): one per token is needed, \(3, 12\)"),
        (text(), text() + 9, r"must lie in \[0, 9\)"),
    ],
)
def test_targets_that_do_not_fit_are_refused_by_their_value(tokens, targets, message):
    with pytest.raises(ProbeInputError, match=message):
        logit_lens(ours(), tokens, targets)


def test_a_text_of_another_vocabulary_is_refused_by_its_token(any_model):
    if hasattr(any_model.cfg, "d_vocab"):  # the hand-written one does not tell
        with pytest.raises(ProbeInputError, match=r"token -1 must lie in \[0, (9|23)\)"):
            logit_lens(any_model, torch.tensor([[1, -1, 2]]))


def test_a_model_whose_logits_leave_another_way_is_refused():
    class Capped(HandWritten):
        def forward(self, tokens):
            return 2 * torch.tanh(super().forward(tokens) / 2)

    with pytest.raises(ProbeInputError, match="off the model's own logits by"):
        logit_lens(Capped(), text())


@pytest.mark.parametrize("name", ["ln_final", "unembed"])
def test_a_model_without_the_module_is_refused_by_the_name_looked_for(name):
    model = HandWritten()
    resid = torch.zeros(1, 2, 8)
    delattr(model, name)
    with pytest.raises(ProbeInputError, match=f"the model has no module {name}"):
        read_out(model, resid)


def test_a_model_without_the_hook_is_refused_with_the_nearest_names():
    model = HandWritten()
    model.blocks[1].hook_resid_post = torch.nn.Identity()
    model.setup()
    with pytest.raises(
        ProbeInputError, match=r"no hook blocks\.1\.hook_resid_post: the nearest are blocks\.\d\.hook_resid"
    ):
        logit_lens(model, text())
