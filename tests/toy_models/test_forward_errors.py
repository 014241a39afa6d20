"""What the forward pass refuses: one line, with the offending value and the remedy."""

import pytest
import torch

from toy_models import Transformer, TransformerConfig
from toy_models.errors import ConfigError, InputError
from toy_models.generation import KeyValueCache

OK = torch.tensor([[1, 2, 3], [4, 5, 6]])
STREAM = torch.zeros(2, 3, 12)


@pytest.fixture(scope="module")
def model():
    return Transformer(TransformerConfig(n_layers=2, n_heads=2, d_model=12, d_vocab=9, n_ctx=5))


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


REFUSED = {
    "float tokens": ((OK.float(),), {}, ["float32", "tokens.long()"]),
    "boolean tokens": ((OK > 2,), {}, ["bool"]),
    "complex tokens": ((OK + 0j,), {}, ["complex64"]),
    "a string": (("hello",), {}, ["'hello'", "tokenizer"]),
    "a number": ((7,), {}, ["7"]),
    "three axes": ((OK[None],), {}, ["(1, 2, 3)", "(batch, pos)"]),
    "no axis": ((torch.tensor(3),), {}, ["()"]),
    "no token": ((OK[:, :0],), {}, ["(2, 0)", "at least one"]),
    "token too large": ((OK + 3,), {}, ["token 9 ", "[0, 9)"]),
    "token negative": ((OK - 3,), {}, ["token -2 ", "[0, 9)"]),
    "beyond n_ctx": ((torch.zeros(1, 6, dtype=torch.long),), {}, ["6 positions", "n_ctx=5"]),
    "beyond the table": ((OK,), {"position_offset": 3}, ["position 5 ", "n_ctx=5"]),
    "beyond the table by tensor": ((OK,), {"position_offset": torch.tensor([0, 4])}, ["position 6 ", "n_ctx=5"]),
    "offsets of another batch": ((OK,), {"position_offset": torch.tensor([0, 1, 1])}, ["3", "2"]),
    "nothing": ((), {}, ["tokens", "residual"]),
    "residual too narrow": ((), {"residual": torch.zeros(2, 3, 7)}, ["(2, 3, 7)", "d_model=12"]),
    "mask of another length": ((OK,), {"attention_mask": torch.ones(2, 4).bool()}, ["(2, 4)", "key=3"]),
    "mask of another batch": ((OK,), {"attention_mask": torch.ones(1, 3).bool()}, ["(1, 3)", "batch=2"]),
    "unknown return type": ((OK,), {"return_type": "logit"}, ["'logit'", "logits, loss, both, None"]),
    "start without residual": ((OK,), {"start_at_layer": 1}, ["start_at_layer=1", "residual"]),
    "start after stop": ((), {"residual": STREAM, "start_at_layer": 2, "stop_at_layer": 1}, ["=2", "=1"]),
    "start too late": ((), {"residual": STREAM, "start_at_layer": 3}, ["start_at_layer=3", "<= 2"]),
    "start negative": ((), {"residual": STREAM, "start_at_layer": -1}, ["start_at_layer=-1"]),
    "stop too late": ((OK,), {"stop_at_layer": 3}, ["stop_at_layer=3", "<= 2"]),
    "stop too early": ((OK,), {"stop_at_layer": -3}, ["stop_at_layer=-3"]),
    "loss without tokens": ((), {"residual": STREAM, "return_type": "loss"}, ["tokens", "return_type='logits'"]),
    "both without tokens": ((), {"residual": STREAM, "return_type": "both"}, ["tokens"]),
    "loss of another length": ((OK[:, :2],), {"residual": STREAM, "return_type": "loss"}, ["(2, 2)", "(2, 3"]),
    "loss of unknown tokens": ((OK + 6,), {"residual": STREAM, "return_type": "loss"}, ["token 12 ", "[0, 9)"]),
    "loss of a single token": ((OK[:, :1],), {"return_type": "loss"}, ["1"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_line_with_its_value(model, case):
    args, kwargs, expected = REFUSED[case]
    message = refusal(model, *args, **kwargs)
    for part in expected:
        assert part in message
    assert torch.isfinite(model(OK)).all()


def test_a_loss_over_another_vocabulary_is_refused():
    narrow = Transformer(TransformerConfig(n_layers=1, n_heads=2, d_model=12, d_vocab=9, n_ctx=5, d_vocab_out=4))
    assert narrow(OK).shape == (2, 3, 4)
    for return_type in ("loss", "both"):
        message = refusal(narrow, OK, return_type=return_type)
        assert "d_vocab_out=4" in message
        assert "d_vocab=9" in message


def test_a_single_row_of_tokens_is_a_batch_of_one(model):
    assert torch.equal(model(OK[0]), model(OK[:1]))
    assert torch.equal(model([1, 2, 3]), model(OK[:1]))


def test_a_cache_of_another_batch_or_too_long_is_refused(model):
    past = KeyValueCache(2)
    model(OK, past=past)
    assert all(part in refusal(model, OK[:1, :1], past=past) for part in ("2", "1"))
    assert "n_ctx=5" in refusal(model, OK, past=past)
    assert "(2, 1)" in refusal(model, OK[:, :1], past=past, attention_mask=torch.ones(2, 1).bool())
    assert past.length == 3


def test_a_cache_that_lacks_the_later_layers_is_refused(model):
    """A pass that stopped early leaves no keys behind it; the next whole pass must not read them."""
    past = KeyValueCache(2)

    def stop_early_and_go_on():
        model(OK, past=past, stop_at_layer=1)
        model(OK[:, :1], past=past)

    refusal(stop_early_and_go_on)


@pytest.mark.parametrize(
    ("new_tokens", "options", "expected"),
    [
        (4, {}, ["3 tokens", "4 new", "n_ctx=5", "at most 3"]),
        (-3, {}, ["-3"]),
        (2, {"temperature": -1.0}, ["temperature=-1.0"]),
        (2, {"temperature": 1.0}, ["generator="]),
    ],
)
def test_generation_refuses_what_it_cannot_do(model, new_tokens, options, expected):
    message = refusal(model.generate, OK, new_tokens, **options)
    assert all(part in message for part in expected)


def test_tables_and_tokens_that_are_not_there_are_refused_by_name():
    model = Transformer(TransformerConfig(n_layers=1, n_heads=2, d_model=12, d_vocab=9, n_ctx=5, position="rope"))
    with pytest.raises(InputError, match=r"Rope\(base=10000.0, fraction=1.0.*\) has no table W_pos"):
        _ = model.W_pos
    assert "'the'" in refusal(model.to_single_token, "the")


def test_a_model_cannot_become_a_number_type_that_it_cannot_compute_in(model):
    message = refusal(Transformer(model.cfg).to, torch.float8_e4m3fn)
    assert "float8_e4m3fn" in message
    assert "bfloat16" in message


def test_an_unknown_backend_is_refused_and_the_old_one_stays(model):
    with pytest.raises(ConfigError, match="unknown attention backend 'flash': choose one of auto, reference, sdpa"):
        model.set_attention("flash")
    assert model.cfg.attention == "auto"
    assert all(block.attn.backend == "auto" for block in model.blocks)
