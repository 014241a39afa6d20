"""The figure of the assay can be read, draws what the table holds, and computes its caption."""

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.counting import assay as subject
from figures.draw import figure_for

LENGTHS = (2, 4, 8, 16, 32)
QUESTIONS = ["ones", "ones, commas", "bits", "bits, commas", "sum", "word", "last", "last, commas", "first",
             "first, commas"]  # fmt: skip
TASK = {"shortest": 2, "longest": 8, "longest_sum": 16, "separate": 3}


def reach(question: str, seed: int) -> float:
    """Up to which length a question is answered."""
    kind = question.removesuffix(subject.COMMAS)
    if kind == "word":
        return 4 if seed else np.nan
    return {"ones": 8, "bits": 4, "sum": 16}.get(kind, 32)


def result(seeds: int = 5, questions=QUESTIONS, distance: float = 1.0, **config) -> Result:
    rows = []
    for seed in range(seeds):
        for question in questions:
            counting = question.split(",")[0] in subject.FAMILIES["counting"]
            for length in LENGTHS:
                for arm, right in (
                    ("trained", float(length <= reach(question, seed))),
                    ("untrained", 0.5 - counting / 2),
                ):
                    rows.append(
                        {"arm": arm, "question": question, "family": "counting" if counting else "copying"}
                        | {"seed": seed, "length": length, "right": right}
                        | {"candidates": 2 * length + 1 if counting else 2}
                    )
    stops = [[[reach(q, seed) for q in questions], [np.nan] * len(questions)] for seed in range(seeds)]
    apart = np.array([[[distance / n for n in LENGTHS]] * 2] * seeds)
    arrays = {
        "stops (seed, arm, question)": np.array(stops),
        "distance (seed, arm, length)": apart,
        "identical (seed, arm, length)": (apart < 0.05).astype(float),
    }
    told = {"model": {"n_layers": 2}, "task": TASK, "lengths": list(LENGTHS), "texts": 4, "examples": 0, **config}
    run = {"study": "assay", "config_hash": "0" * 12, "profile": "full", "config": told, "questions": list(questions)}
    return Result(pd.DataFrame(rows), arrays, run=run)


def drawn(measured: Result):
    return figure_for("assay", {"assay": measured})


@pytest.mark.parametrize(
    "changes", [{}, {"seeds": 1, "model": "path/to/gpt2"}, {"seeds": 1, "questions": ["sum", "last"]}], ids=str
)
def test_every_text_can_be_read(legible, changes):
    legible(drawn(result(**changes)))


def test_a_point_a_seed_stands_where_it_stops_and_none_stands_apart():
    ax = drawn(result()).axes[2]
    points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if len(line.get_xdata()) == 1]
    assert len(points) == 2 * 5 * len(QUESTIONS)
    row = QUESTIONS.index("word")
    word = sorted(x for x, y in points if abs(y - row + 0.15) < 0.13)
    assert word == [1, 4, 4, 4, 4]  # half the shortest length is none
    assert ax.get_xticklabels()[0].get_text() == "none"


def test_the_lines_are_the_table_and_a_checkpoint_has_no_longest_length_in_training():
    ax = drawn(result()).axes[0]
    lines = {tuple(np.asarray(line.get_ydata(), float)) for line in ax.lines}
    assert (1.0, 1.0, 1.0, 0.0, 0.0) in lines  # ones, up to 8
    assert any(line == pytest.approx([1 / (2 * n + 1) for n in LENGTHS]) for line in lines if len(line) == 5)  # chance
    dashed = [line for line in ax.lines if list(line.get_xdata()) == [8, 8]]
    assert len(dashed) == 1
    assert not [line for line in drawn(result(model="gpt2")).axes[0].lines if list(line.get_xdata()) == [8, 8]]


def test_tokens_that_bfloat16_cannot_tell_apart_are_crossed_and_equal_ones_stay_in_the_picture():
    measured = result(distance=1.0)
    measured.arrays["distance (seed, arm, length)"][0, 0, -1] = 0
    ax = drawn(measured).axes[3]
    crosses = [line for line in ax.lines if line.get_marker() == "x"]
    assert len(crosses) == 2 * 5  # 1/32 alone is below 0.05
    assert min(line.get_ydata()[0] for line in crosses) == pytest.approx(1 / 64)


def test_the_caption_says_what_was_measured():
    told = subject.caption({"assay": result()})
    assert told.startswith(
        "A transformer of 2 layers trained on prompts of 2 to 8 digits or words, and on sums of up to"
    )
    assert "ones 8; ones, commas 8; bits 4" in told
    assert "word 4 and none in 1 of 5 seeds" in told
    assert "untrained 0.00 of counts and 0.50 of copies" in told
    assert "differ by 0.5 at n = 2 and 0.031 at n = 32" in told
    assert "(crosses) in 5 of 25 pairs" in told
    mine = subject.caption({"assay": result(1, model="path/to/gpt2", examples=2)})
    assert mine.startswith("gpt2 and a twin with random weights, 2 solved examples before each prompt; 1 seed")
