"""Head maps: every head of one model, one map per score, mean over seeds."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from analyses.core.results import Result
from figures import parts

NEEDS = ("head_scores",)
SHARES = {
    "prefix_matching": "induction\n(prefix matching)",
    "previous_token": "previous token",
    "duplicate_token": "duplicate token",
    "first_token": "first token",
    "diagonal": "diagonal",
}
SHARE, FRACTION = "share of attention", "fraction of ln n"
COLUMNS = 3
MAP, LAYER = 1.75, 0.13  # inches: the least height of a map, and of a layer in it


def draw(tables: Mapping[str, Result]) -> Figure:
    """Nine maps, layer by head: five shares of attention, the entropy twice, copying and its output norm."""
    result = tables["head_scores"]
    maps = [(name, title, SHARE, 0, 1) for name, title in SHARES.items()]
    maps += [
        ("entropy", "entropy", "nats", 0, None),
        ("relative_entropy", "relative entropy", FRACTION, 0, 1),
        ("copying", "copying score", "eigenvalue score", -1, 1),
        ("output_norm", "norm of the OV circuit", "logits", 0, None),
    ]
    n_layers = result.table.layer.nunique()
    height = max(MAP, 0.8 + LAYER * n_layers) * len(maps) / COLUMNS
    figure, axes = parts.sheet(len(maps) // COLUMNS, COLUMNS, height=height)
    for ax, (name, title, unit, low, high) in zip(axes.flat, maps, strict=True):
        parts.heat(ax, head_map(result, name).mean(0), unit, vmin=low, vmax=high)
        ax.set_title(title, fontsize="medium")
    for ax in axes[:, 0]:
        ax.set_ylabel("layer")
    for ax in axes[-1]:
        ax.set_xlabel("head")
    return figure


def head_map(result: Result, column: str) -> np.ndarray:
    """One column of the table as (seed, layer, head)."""
    ordered = result.table.sort_values(["seed", "layer", "head"])
    return ordered[column].to_numpy().reshape(ordered.seed.nunique(), ordered.layer.nunique(), -1)


def caption(tables: Mapping[str, Result]) -> str:
    """What was measured on what, how far seeds differ, and the strongest head of each share; all from the table."""
    result = tables["head_scores"]
    config, text = result.run["config"], result.run["text"]
    n = result.table.seed.nunique()
    start = "" if text["bos"] is None else " after a start token"
    spread = max(head_map(result, name).std(0).max() for name in SHARES)
    strongest = []
    for name, title in SHARES.items():
        mean = head_map(result, name).mean(0)
        layer, head = np.unravel_index(mean.argmax(), mean.shape)
        strongest.append(f"{' '.join(title.split())} {mean.max():.2f} at layer {layer}, head {head}")
    return (
        f"Every head of {_model_name(config['model'])} on repeated random tokens: blocks of {text['period']}, "
        f"{text['copies']} times{start}, {config['texts']} texts for each of {n} seeds. Maps show means over seeds; "
        f"the shares' standard deviation over seeds is at most {spread:.1g}. Strongest: {'; '.join(strongest)}. "
        f"Entropy is in nats and relative to that of uniform attention; the copying score of a head says little where "
        f"its norm is small, and grey marks one whose circuit is zero."
    )


def _model_name(model: str) -> str:
    ours = {"constructed": "the constructed induction circuit", "byte model": "two layers trained on real text"}
    return ours.get(model) or Path(model).name
