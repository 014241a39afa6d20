"""The repeated token: closed form against attention written out, rows of a small run, claims on made-up tables."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.core import study
from analyses.core.claims import judge
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.counting import repeated_token as subject
from analyses.counting.repeats import claims, copies, subjects
from toy_models import Transformer
from toy_models.config import TransformerConfig
from toy_models.seeding import generator
from toy_models.tasks.text import BOS, Text

SHAPE = TransformerConfig(
    **{"n_layers": 2, "n_heads": 2, "d_model": 16, "d_vocab": 257, "n_ctx": 50, "d_mlp": 16},
    **{"normalization_type": "RMS", "position": "none", "dtype": torch.float64},
)


@pytest.fixture
def text(tmp_path) -> Text:
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(range(97, 123)) * 40)
    return Text(n_ctx=16, path=str(path))


def net(position: str = "none") -> Transformer:
    return Transformer(replace(SHAPE, position=position), seed=0)


# The closed form -----------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("prefix", [[BOS], [BOS, 5, 9, 5]])
def test_weight_and_written_are_those_of_softmax_attention_written_out(prefix):
    model, token, k = net(), 7, 11
    attn = model.blocks[0].attn
    x = model.embed(torch.tensor([[*prefix, *[token] * k]]))[0]
    x = x / (x.square().mean(-1, keepdim=True) + model.cfg.eps).sqrt() * model.blocks[0].ln1.w
    weights, written = [], attn.b_O.clone()
    for head in range(2):
        q, key, v = (
            x @ W[head] + b[head] for W, b in ((attn.W_Q, attn.b_Q), (attn.W_K, attn.b_K), (attn.W_V, attn.b_V))
        )
        p = (q[-1] @ key.T / 8**0.5).softmax(-1)
        weights.append(p[: len(prefix)].sum().item())
        written += p @ v @ attn.W_O[head]
    found, out = copies.first_layer(model, torch.tensor(prefix), token, torch.tensor([k]))
    np.testing.assert_allclose(found[0], weights, rtol=0, atol=1e-13)
    torch.testing.assert_close(out[0], written, rtol=0, atol=1e-12)


def test_the_model_writes_what_the_closed_form_says_and_only_without_a_code():
    for position in ("none", "rope"):
        rows = list(copies.repeated(net(position), torch.tensor([BOS]), 7, (1, 4, 32), 1.0))
        for row in rows:
            assert (row["weight_off"] < 1e-13 and row["first_off"] < 1e-12) if position == "none" else True
            assert np.isnan(row["weight_theory"]) == (position != "none")
    weight = [row["weight"] for row in copies.repeated(net(), torch.tensor([BOS]), 7, (1, 4, 32), 1.0)]
    assert weight == sorted(weight, reverse=True)


@pytest.mark.parametrize("position", ["none", "rope", "alibi", "learned"])
def test_with_nothing_before_every_copy_is_the_lone_token_unless_the_stream_knows_its_place(position):
    rows = list(copies.repeated(net(position), torch.tensor([], dtype=torch.long), 7, (1, 2, 40), 1.0))
    for row in rows[1:]:
        assert (row["first_layer"] < 1e-12) == (row["last_layer"] < 1e-12) == (position != "learned")


def test_keys_are_those_of_the_last_layers_pattern():
    model, body = net(), torch.tensor([3, 3, 3, 3])
    found = copies.as_keys(model, torch.tensor([BOS]), body, 9)
    _, cache = model.run_with_cache(torch.tensor([[BOS, 3, 3, 3, 3, 9]]))
    row = cache["blocks.1.attn.hook_pattern"][0, :, -1].mean(0)
    assert found == {"first": pytest.approx(row[0].item()), "each": pytest.approx(row[2:5].mean().item())}


# Subjects and runs ---------------------------------------------------------------------------------


def test_windows_without_a_start_token_are_those_with_one_less_it(text):
    with_start, bare = (task.sample(5, generator(0, "data")) for task in (text, subjects.Bare(text)))
    assert torch.equal(bare.tokens, with_start.tokens[:, 1:])
    assert torch.equal(bare.targets, with_start.targets[:, 1:])
    assert bare.tokens.shape == (5, subjects.Bare(text).n_ctx)
    assert (bare.tokens != BOS).all()


def test_a_prefix_is_what_its_name_says(text):
    for start in (True, False):
        kinds = {kind: subjects.prefix(kind, start, text, 0).tolist() for kind in subjects.PREFIXES}
        assert kinds["none"] == []
        assert kinds["start token"] == [BOS] * start
        assert kinds["prompt"][: int(start)] == [BOS] * start
        assert bytes(kinds["prompt"][int(start) :]) in bytes(range(97, 123)) * 2


def small(text: Text, **changes) -> subject.Config:
    fixed = {"text.path": text.path, "text.n_ctx": 16, "train.steps": 2, "train.batch_size": 2, "seeds": (0,)}
    return study.configure(subject.Config, {**fixed, "copies": (1, 2, 4, 8, 16), "key_copies": (4, 16), **changes})


def test_every_model_prefix_and_copy_has_a_row_and_the_same_again(text):
    (rows, digest), (again, _) = (subject._measure_seed((small(text), 0)) for _ in range(2))
    table = pd.DataFrame(rows)
    assert list(table) == list(subject.COLUMNS)
    assert digest == text.text_digest
    pd.testing.assert_frame_equal(table, pd.DataFrame(again), check_exact=True)
    kinds = table.groupby(["position", "start"]).prefix.unique().map(len).to_dict()
    assert kinds == {("none", True): 3, ("none", False): 2, ("rope", True): 3, ("learned", True): 3}
    assert len(table) == 11 * 2 * 5
    assert (table["first"].notna() == table.k.isin((4, 16))).all()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"positions": ("alibi",)}, "no position code 'alibi': choose from none, rope, learned"),
        ({"copies": (2, 4, 16)}, r"copies=\(2, 4, 16\) must begin with 1 and hold key_copies=\(4, 16\)"),
        ({"key_copies": (2, 4)}, r"key_copies=\(2, 4\) must be two or more and rise, from 3 on"),
        ({"shape.n_ctx": 20}, "shape.n_ctx=20 must be at least 26"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(text, changes, complaint):
    with pytest.raises(WorkbenchError, match=complaint) as caught:
        small(text, **changes)
    assert "\n" not in str(caught.value)


# Claims --------------------------------------------------------------------------------------------


def made_up() -> Result:
    """Copies that draw near as 1/k, later once trained; nothing draws near with learned positions."""
    rows = []
    for position, start in (("none", True), ("rope", True), ("learned", True), ("none", False)):
        for prefix in ("none", "start token", "prompt"):
            for moment, odds in (("untrained", 1.0), ("trained", 1 / 16)):
                for seed in range(3):
                    for k in 2 ** np.arange(10):
                        apart = 0.5 if position == "learned" else 1e-15 if prefix == "none" else 1 / (1 + k * odds)
                        row = {"position": position, "start": start, "prefix": prefix, "moment": moment, "seed": seed}
                        row |= {
                            "k": int(k),
                            "first_layer": apart,
                            "last_layer": apart,
                            "size": 1.1,
                            "first_theory": apart,
                        }
                        row |= {"weight_off": 1e-16, "first_off": 1e-15, "first": np.nan, "each": np.nan}
                        rows.append(row | ({"first": 0.01, "each": 0.01} if k == 4 else {}))
    run = {"study": "repeated_token", "config_hash": "0" * 12, "profile": "full"}
    return Result(pd.DataFrame(rows), run=run)


def failing(result: Result) -> list[int]:
    verdicts = [judge("repeated_token", claim, result) for claim in subject.CLAIMS]
    return [at for at, verdict in enumerate(verdicts) if not verdict.holds]


def test_all_claims_hold_where_they_should():
    assert failing(made_up()) == []


@pytest.mark.parametrize(
    ("where", "column", "change", "expected"),
    [
        ({"position": "rope", "prefix": "none"}, "last_layer", lambda t: 1e-11, [0]),
        ({"position": "none", "seed": 1}, "weight_off", lambda t: 1e-11, [1]),
        ({"position": "none", "seed": 1}, "first_off", lambda t: 1e-9, [2]),
        ({"position": "none", "moment": "untrained", "prefix": "start token"}, "last_layer", lambda t: t.k**-0.4, [3]),
        ({"position": "rope", "moment": "untrained", "prefix": "start token"}, "last_layer", lambda t: 1.0, [4]),
        ({"position": "none", "moment": "trained", "prefix": "start token"}, "last_layer", lambda t: 0.9, [5, 7]),
        ({"position": "rope", "moment": "trained", "prefix": "start token"}, "last_layer", lambda t: 0.9, [6]),
        ({"position": "none", "moment": "trained", "prefix": "start token"}, "first_theory", lambda t: 1 / t.k, [7]),
        ({"position": "learned", "moment": "trained", "prefix": "start token"}, "last_layer", lambda t: 1 / t.k, [8]),
        ({"position": "none", "start": False, "k": 4, "seed": 2}, "first", lambda t: 0.02, [9]),
        ({"position": "learned", "moment": "trained", "seed": 2}, "size", lambda t: 40.0, [10]),
    ],
)
def test_another_law_fails_its_claim_and_no_other(where, column, change, expected):
    result = made_up()
    table = result.table
    here = np.logical_and.reduce([table[name] == value for name, value in where.items()])
    table.loc[here, column] = change(table[here].astype({"k": float}))
    assert failing(result) == expected


def test_the_half_way_copy_is_the_last_one_where_none_is():
    table = pd.DataFrame({"seed": [0] * 4 + [1] * 4, "k": [1, 2, 4, 8] * 2, "d": [1, 0.9, 0.5, 0.1, 1, 1, 0.9, 0.8]})
    assert claims.half_copies(table.sample(frac=1, random_state=0), "d").tolist() == [4, 8]
