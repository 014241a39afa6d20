"""Collapse against length: texts and pairs, the one head, rows against a plain forward pass, claims, refusals."""

import shutil
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from analyses.core import study
from analyses.core.claims import judge
from analyses.core.cli import main
from analyses.core.results import Result
from analyses.glasses import collapse_vs_length as subject
from analyses.glasses.pairs import models, one_head, texts
from probes.collapse import check_pair
from toy_models.errors import ConfigError

SMALL = {
    **{"shape.n_layers": 1, "shape.d_model": 16, "shape.n_heads": 2, "shape.n_ctx": 65},
    **{"lengths": (16, 24, 40, 64), "head_lengths": (8, 16, 32, 64, 128, 256), "seeds": (0,)},
}


@pytest.fixture
def serial(monkeypatch):
    monkeypatch.setattr(subject, "run_jobs", lambda function, jobs, label: [function(job) for job in jobs])


def small(**changes) -> subject.Config:
    return study.configure(subject.Config, {**SMALL, **changes})


# Texts ---------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.sampled_from(texts.TEXTS), st.integers(0, 12), st.integers(3, 40), st.integers(2, 5), st.integers(0, 99))
def test_a_text_has_its_prompt_ends_in_a_one_and_makes_both_pairs(kind, prompt, body, every, seed):
    words = texts.own_words(32, prompt, prompt + body, seed, every)
    first = texts.text(kind, prompt + body, words)
    assert first.shape == (1, prompt + body)
    assert torch.equal(first[0, :prompt], words.prompt)
    assert first[0, -1] == 1
    check_pair(first, texts.repeated(first), "repeated")
    if prompt + body > 4 or prompt == 0:
        check_pair(first, texts.middle(first, words), "middle")


def test_bodies_are_what_their_names_say():
    words = texts.own_words(32, 0, 12, 0)
    assert texts.text("ones", 5, words)[0].tolist() == [1] * 5
    assert texts.text("separated", 9, words)[0].tolist() == [1, 1, 10, 1, 1, 1, 10, 1, 1]
    assert texts.text("alternating", 6, words)[0].tolist() == [0, 1, 0, 1, 0, 1]
    longer, shorter = (texts.text("digits", n, words)[0].tolist() for n in (12, 8))
    assert longer[:7] == shorter[:7]
    assert set(texts.own_words(32, 500, 4, 0).prompt.tolist()) == set(range(11, 32))


# One head ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["ones", "digits"])
def test_one_head_is_softmax_attention_written_out(text):
    made = one_head.head(0, 64)
    k, v = one_head.tokens(made, text, 40)
    z = (k @ made.q / 8).softmax(0) @ v
    torch.testing.assert_close(one_head.mixed(made, text, 40, models.NONE), z, rtol=0, atol=1e-13)
    after = one_head.mixed(made, text, 40, models.NONE, 1)
    torch.testing.assert_close(z - after, one_head.identity(made, text, 40), rtol=0, atol=1e-13)
    for found, expected in zip(one_head.closed_form(made, text, 40), (z, after), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    slope = torch.arange(39, -1, -1).double() / 2
    steep = (k @ made.q / 8 - slope).softmax(0) @ v
    torch.testing.assert_close(one_head.mixed(made, text, 40, models.STEEP), steep, rtol=0, atol=1e-13)


def test_a_longer_head_begins_with_the_same_vectors():
    short, long = one_head.head(3, 300), one_head.head(3, 700)
    assert torch.equal(short.k, long.k[:300])
    assert torch.equal(short.q, long.q)
    assert torch.equal(one_head.perturbed(0, 300, 700)[0], one_head.perturbed(0, 300, 700)[0])


def test_the_constants_are_those_of_their_definitions():
    assert pytest.approx(2 * (np.e - 1) / (np.e + 1), rel=1e-14) == one_head.ALTERNATED
    u = (np.arange(10**6) + 0.5) / 10**7  # midpoints of [0, 0.1]
    assert pytest.approx(400 * (np.exp(u).mean() - 1), rel=1e-9) == one_head.PERTURBED


# Rows ----------------------------------------------------------------------------------------------


def test_a_models_row_is_the_distance_behind_its_final_norm(serial):
    config = small()
    result = subject.run(config)
    assert list(result.table) == list(subject.COLUMNS)
    model = models.random_model(config.shape, models.ROPE, 0)
    words = texts.own_words(32, config.prompt, 64, 0)
    first = texts.text("digits", 40, words)
    with torch.no_grad():
        streams = [model(tokens, stop_at_layer=1)[:, -1:] for tokens in (first, texts.repeated(first))]
        x, y = (model.ln_final(stream)[0, 0] for stream in streams)
        one, two = model(first)[0, -1], model(texts.repeated(first))[0, -1]
    apart = x - y
    (row,) = subject_rows(result, case="model", position="rope", text="digits", pair="repeated", length=40)
    assert row["l1"] == pytest.approx(apart.abs().sum().item(), rel=1e-9)
    assert row["l2"] == pytest.approx(apart.norm().item(), rel=1e-9)
    assert row["linf"] == pytest.approx(apart.abs().max().item(), rel=1e-9)
    assert row["logit_distance"] == pytest.approx((one - two).abs().max().item(), rel=1e-9)
    assert row["same_answer"] == float(one.argmax() == two.argmax())
    assert row["head_low"] <= row["head_mean"] <= row["head_high"]
    (plain,) = subject_rows(result, case="doubled, no mask", position="none")
    assert plain["linf"] < 1e-12


def subject_rows(result: Result, **where) -> list[dict]:
    table = result.table
    for column, value in where.items():
        table = table[table[column] == value]
    return table.to_dict("records")


def test_every_model_text_pair_and_length_has_a_row_and_the_same_again(serial):
    one, again = subject.run(small()), subject.run(small())
    pd.testing.assert_frame_equal(one.table, again.table, check_exact=True)
    table = one.table[one.table.case == "model"]
    assert len(table) == len(table.drop_duplicates(["position", "text", "pair", "length"])) == 5 * 4 * 2 * 4
    assert table.drop(columns=["theory", "off"]).notna().all(axis=None)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bare"])
def test_a_checkpoint_is_measured_beside_its_untrained_twin(kind, request, tmp_path, serial):
    directory = request.getfixturevalue(f"{'llama' if kind == 'bare' else kind}_directory")
    if kind == "bare":
        directory = shutil.copytree(directory, tmp_path / "bare", ignore=shutil.ignore_patterns("*token*"))
    config = small(model=str(directory), lengths=(9, 16, 24), prompt=4, positions=("none",))
    table = subject.run(config).table
    assert config.files is not None
    for name in (models.CHECKPOINT, models.TWIN):
        rows = table[table.position == name]
        assert len(rows) == 3 * 2 * 4
        assert rows.linf.gt(0).all()


def test_a_checkpoints_words_are_all_different_and_known(llama_directory):
    model = models.open_checkpoint(str(llama_directory), 20, "cpu")
    words = texts.checkpoint_words(model, 6, 20, 0)
    tokens = [words.separator, *words.digits.tolist()]
    assert len(set(tokens)) == 11
    assert words.prompt[0] == model.cfg.bos_id
    assert not set(words.prompt[1:].tolist()) & {*tokens, model.cfg.bos_id}


# Claims --------------------------------------------------------------------------------------------

REFUTED = {7, 9, 14}  # steep ALiBi, unrelated position vectors, untrained separators


def made_up() -> Result:
    """Power laws of the length for which every claim comes out as it should, the refuted ones refuted."""
    powers = {"none": -1.0, "rope": -0.5, "alibi 1/2": 0.0, "alibi 1/256": -0.9, "learned": 0.0}
    rows = []
    for seed, n in product((0, 1), [2**power for power in range(3, 16)]):
        where = {"seed": seed, "length": n}
        for position, power in powers.items():
            for text in ("ones", "digits"):
                power_here = power - (text == "ones")
                row = {"case": "one head", "position": position, "text": text, "pair": "repeated", "off": 1e-15}
                rows.append(where | row | {"l1": 5 * n**power_here})
        row = {"case": "weights", "position": "none", "pair": "other logits"}
        rows.append(where | row | {"text": "alternating logits", "l1": 0.9, "theory": 0.9})
        rows.append(where | row | {"text": "perturbed prefix", "l1": 20.5 / n})
        middle = {"ones": -1.0, "digits": -1.0, "separated": -1.0}
        for text, power in {"ones": -2.0, "digits": -1.0, "separated": -1.0}.items():
            for pair, slope in (("repeated", power), ("middle", middle[text])):
                row = {"case": "model", "position": "none", "text": text, "pair": pair}
                rows.append(where | row | {name: n**slope for name in ("l1", "linf", "relative")})
    for seed, case, position in product((0, 1), ("doubled, no mask", "doubled, causal mask"), powers):
        plain = case == "doubled, no mask" and position == "none"
        row = {"case": case, "position": position, "pair": "doubled", "text": "digits", "seed": seed, "length": 16}
        rows.append(row | {"linf": 1e-15 if plain else 0.5, "relative": 1e-15 if plain else 0.5})
    run = {"study": "collapse_vs_length", "config_hash": "0" * 12, "profile": "full"}
    return Result(pd.DataFrame(rows), run=run)


def failing(result: Result) -> set[int]:
    verdicts = [judge("collapse_vs_length", claim, result) for claim in subject.CLAIMS]
    return {at for at, verdict in enumerate(verdicts) if not verdict.holds}


def test_the_laws_give_the_verdicts_that_theory_gives():
    assert failing(made_up()) == REFUTED
    assert all(subject.CLAIMS[at].explanation and subject.CLAIMS[at].source_verdict for at in REFUTED)
    assert subject.CLAIMS[7].source_verdict == "not reproduced; premise not met"


@pytest.mark.parametrize(
    ("claims", "case", "position", "text", "change"),
    [
        ({0, 1}, "weights", "none", "perturbed prefix", lambda n: n**-0.8),
        ({2}, "weights", "none", "alternating logits", lambda n: 1.0),
        ({4}, "one head", "none", "ones", lambda n: n**-1.5),
        ({5}, "one head", "none", "digits", lambda n: n**-0.5),
        ({6}, "one head", "rope", "digits", lambda n: n**-1.0),
        ({8}, "one head", "alibi 1/256", "digits", lambda n: 1.0),
        ({12, 13, 15}, "model", "none", "ones", lambda n: n**-0.9),
        ({16}, "model", "none", "digits", lambda n: n**-0.4),
    ],
)
def test_another_law_fails_its_claims(claims, case, position, text, change):
    result = made_up()
    table = result.table
    here = (table.case == case) & (table.position == position) & (table.text == text) & (table.pair != "middle")
    for column in ("l1", "linf", "relative"):
        table.loc[here, column] = change(table.length[here].astype(float))
    assert failing(result) == REFUTED | claims


def test_a_wrong_identity_or_an_unbroken_doubling_fails():
    for claim, column, where in ((3, "off", "one head"), (10, "linf", "doubled, no mask")):
        result = made_up()
        result.table.loc[(result.table.case == where) & (result.table.position == "none"), column] = 1e-11
        assert failing(result) == REFUTED | {claim}
    result = made_up()
    result.table.loc[(result.table.case == "doubled, causal mask") & (result.table.seed == 1), "relative"] = 1e-4
    assert failing(result) == REFUTED | {11}


# Refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": (16, 32, 65)}, r"go beyond n_ctx=65: the second text of a pair has 66 tokens"),
        ({"lengths": (12, 32, 64)}, r"from prompt \+ 3 = 13 on"),
        ({"positions": ("alibi",)}, "unknown position 'alibi': choose among none, rope"),
        ({"texts": ("twos",)}, "unknown text 'twos': choose among ones"),
        ({"separate_every": 1}, "separate_every=1 must be 2 or more"),
        ({"head_lengths": (8, 16, 31, 64)}, "four or more even lengths"),
        ({"files": "0" * 12}, "files=000000000000 is not the sum of None"),
    ],
)
def test_impossible_configs_are_refused_in_one_line(changes, message):
    with pytest.raises(Exception, match=message) as caught:
        small(**changes)
    assert "\n" not in str(caught.value)


def test_a_checkpoints_table_of_positions_bounds_the_lengths(gpt2_directory, serial):
    with pytest.raises(ConfigError, match="texts of 33 tokens go beyond the n_ctx=32 positions"):
        subject.run(small(model=str(gpt2_directory), lengths=(16, 24, 32), positions=("none",)))


def test_a_pair_of_unequal_prefix_is_one_line_on_the_command_line(monkeypatch, tmp_path, serial):
    monkeypatch.setattr(texts, "repeated", lambda first: torch.cat([first, first[:, -1:]], 1).flip(1))
    settings = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    found = CliRunner().invoke(main, ["run", "collapse_vs_length", *settings, "--results", str(tmp_path)])
    assert found.exit_code == 2
    (line,) = [line for line in found.output.splitlines() if line.startswith("workbench:")]
    assert "a repeated pair needs the same prefix" in line
