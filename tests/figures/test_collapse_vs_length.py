"""The figure of collapse against length can be read, draws what the table holds, and its caption is computed."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from analyses.core.results import Result
from figures.draw import figure_for
from figures.glasses import collapse_vs_length as subject

POWERS = {"none": -1.0, "rope": -0.5, "alibi 1/2": 0.0, "alibi 1/256": -0.8, "learned": 0.1}


def result(seeds: tuple[int, ...] = (3, 5), longest: int = 10, checkpoint: bool = False) -> Result:
    rows, known = [], POWERS | ({"checkpoint": -0.7, "its untrained twin": -0.9} if checkpoint else {})
    for seed, n in product(seeds, [2**power for power in range(4, longest + 1)]):
        where, wobble = {"seed": seed, "length": n}, 1 + 0.1 * seed
        for position, text in product(POWERS, ("ones", "digits")):
            row = {"case": "one head", "position": position, "text": text, "pair": "repeated", "identical": 0.5}
            rows.append(where | row | {"l1": wobble * 8 * n ** (POWERS[position] - (text == "ones"))})
        row = {"case": "weights", "position": "none", "pair": "other logits"}
        rows.append(where | row | {"text": "alternating logits", "l1": 0.924, "theory": 0.924})
        rows.append(where | row | {"text": "perturbed prefix", "l1": 20.5 / n, "theory": 20.7 / n})
        for position, text, pair in product(known, ("ones", "digits", "separated"), ("repeated", "middle")):
            power = known[position] - (text == "ones" and pair == "repeated")
            row = {"case": "model", "position": position, "text": text, "pair": pair, "identical": 0.25}
            rows.append(where | row | {name: wobble * float(n) ** power for name in ("linf", "relative")})
        for case, position in product(("doubled, no mask", "doubled, causal mask"), ("none", "rope")):
            plain = case == "doubled, no mask" and position == "none"
            row = {"case": case, "position": position, "pair": "doubled", "text": "digits"}
            rows.append(where | row | {"linf": 3e-15 if plain else 1.5})
    config = {"shape": {"n_layers": 4, "d_model": 64}, "prompt": 10}
    run = {"study": "collapse_vs_length", "config_hash": "0" * 12, "profile": "full", "config": config}
    return Result(pd.DataFrame(rows).sample(frac=1, random_state=0), run=run)


def drawn(measured: Result):
    return figure_for("collapse_vs_length", {"collapse_vs_length": measured})


@pytest.mark.parametrize(
    "options", [{}, {"seeds": (0,)}, {"longest": 8}, {"longest": 15}, {"checkpoint": True}], ids=str
)
def test_the_figure_can_be_read(options, legible):
    legible(drawn(result(**options)))


def test_geometric_means_and_every_seed_are_drawn():
    measured = result()
    figure = drawn(measured)
    lines = {line.get_label(): line for line in figure.axes[3].lines}
    rows = measured.table[(measured.table.case == "model") & (measured.table.text == "digits")]
    rows = rows[(rows.position == "rope") & (rows.pair == "repeated")]
    mean = np.exp(np.log(rows.linf).groupby(rows.length).mean())
    np.testing.assert_allclose(lines["rope"].get_ydata(), mean)
    thin = [line for line in figure.axes[3].lines if line.get_linewidth() == 0.5]
    assert len(thin) == 2 * len(POWERS)
    shares = [line.get_ydata() for line in figure.axes[5].lines if line.get_linewidth() == 1.8]
    lengths = 2.0 ** np.arange(4, 11)
    np.testing.assert_allclose(shares[0], 1 / lengths)
    np.testing.assert_allclose(shares[1], np.ones(7))


def test_theory_is_drawn_beside_the_one_head_and_the_weights():
    axes = drawn(result()).axes
    for ax, labels in ((axes[0], {"$n^{-1}$", "$n^{-1/2}$", "$n^{-2}$"}), (axes[1], {"$20.7/n$", "$2(e-1)/(e+1)$"})):
        assert labels <= {text.get_text() for text in ax.texts}


def test_the_caption_is_computed_from_the_table():
    told = subject.caption({"collapse_vs_length": result()})
    assert "2 seeds (thin)" in told
    assert "n times the change of the weights ends at 20.5" in told
    assert f"At 1024 tokens ones are {np.sqrt(1.3 * 1.5) * 1024.0**-2:.0e} apart" in told
    assert "25% and 25% of the coordinates" in told
    assert "differ by 3e-15 nats without mask and positions, by 1.5 or more" in told
    assert "checkpoint" not in told
    assert "The checkpoint (black) goes from" in subject.caption({"collapse_vs_length": result(checkpoint=True)})
