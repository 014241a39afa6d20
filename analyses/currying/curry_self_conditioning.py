"""Does a model that writes move its own W', and does it settle?

From a start of a few tokens a transformer trained on a mixture of hidden sources writes, and after every token its
text is curried anew by sink: how far do the weights move, and how far what they say to the same queries, samples of
the model behind the start?  Beside it stands what the same model says with the text before the queries, the posterior
of Bayes's rule over the sources, and the untrained model; and texts that the model did not write: more of the true
source, and another source, which is evidence.

Bayes's rule does not expect its own text to bring evidence: what it believes is a martingale, so that it settles and
its steps are orthogonal, their squares adding up to the square of the whole way.  An average over t tokens moves by
1 / t with one more.

Sources: the study is this project's; martingales converge: Doob 1953; predictors in context as martingales, Falck et
al. 2024, arXiv:2406.00793.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from analyses.core.claims import Bound, Claim
from analyses.core.errors import WorkbenchError
from analyses.core.results import Result
from analyses.core.sweep import run_jobs
from analyses.currying.nets.asking import fit_and_held, own_queries
from analyses.currying.nets.trained import Mixture
from analyses.currying.writing.moving import behind_text, by_bayes, expected_gap, in_weights, moves
from toy_models.errors import ConfigError
from toy_models.seeding import generator

OWN, TRUE, OTHER = "own", "true source", "other source"
EDITED, WITH, BAYES, BORN = "W'", "with text", "Bayes", "W', untrained"
DIE = "biased die"
SAMPLES = 64  # of the model's writing, of which the first without BOS and the word is taken
WHICH_OTHER = {"chain": DIE, "biased": "chain 0", "fair": "chain 0", "copy": DIE}


@dataclass(frozen=True)
class Config:
    """Args: net: what is trained;  sources: of the start, and of the true text behind it;  start: tokens of it;
    written: tokens behind it;  paths: texts of each kind, a source;  queries: to fit on, and held out;  query_length:
    tokens of each."""

    net: Mixture = field(default_factory=Mixture)
    sources: tuple[str, ...] = ("chain 0", DIE, "copy 2")
    start: int = 4
    written: int = 16
    paths: int = 2
    queries: tuple[int, int] = (48, 32)
    query_length: int = 12
    seeds: tuple[int, ...] = (10, 11, 12, 13, 14, 15, 16, 17)  # settings were chosen on seeds 0 to 3

    def __post_init__(self):
        known = [one for one in self.net.task.sources if one.split()[0] in WHICH_OTHER]
        if odd := sorted(set(self.sources) - set(known)):
            raise ConfigError(f"sources: {odd[0]!r} must be one of {', '.join(known)}")
        if not {"chain 0", DIE} <= set(self.sources):
            raise ConfigError(f"sources={self.sources} must have chain 0 and {DIE}, which the claims are about")
        if min(self.start, self.paths) < 1 or self.written < 8:
            raise ConfigError(
                f"start={self.start} and paths={self.paths} must be 1 or more and written={self.written} 8 or more"
            )
        room = 1 + self.start + self.written + self.query_length
        if room > self.net.model.n_ctx:
            raise ConfigError(
                f"BOS, start={self.start}, written={self.written} and query_length={self.query_length} make {room} "
                f"positions, beyond net.model.n_ctx={self.net.model.n_ctx}: shorten one"
            )


QUICK = {"paths": 1, "queries": (40, 24), "seeds": (0,)}

COLUMNS = {
    "source": "of the start",
    "text": f"who wrote what follows: {OWN}, {TRUE} or {OTHER}",
    "path": "which text of this kind",
    "seed": "of training, texts and queries",
    "predictor": f"{EDITED} (sink), {WITH} before the queries, {BAYES} (posterior), or {BORN}",
    "t": "tokens written before the one that is added",
    "kl": "KL(after || before), nats, mean over rows of the same queries; for Bayes of the posterior over sources",
    "squared": "|p after - p before|^2, mean over rows (probabilities)",
    "from_start": "|p after - p of the start|^2, mean over rows (probabilities)",
    "weight_step": "|W' after - W' before| / |W|, over the matrices that change; nan for what has no weights",
}


def run(config: Config) -> Result:
    """Train every seed's model or find its checkpoint, and let it write."""
    done = run_jobs(_seed, [(config, seed) for seed in config.seeds], label="seeds")
    rows = [{"seed": seed, **row} for seed, (rows, _) in zip(config.seeds, done, strict=True) for row in rows]
    arrays = {"Bayes's expected gap (seed)": np.array([gap for _, gap in done])}
    return Result(pd.DataFrame(rows, columns=list(COLUMNS)), arrays, {"device": "cpu"})


def _seed(job: tuple[Config, int]) -> tuple[list[dict], float]:
    """Rows of one seed; what Bayes expects to learn, largest of all texts."""
    config, seed = job
    run, task = config.net.trained(seed), config.net.task_of(seed)
    born, rows, worst = run.at(0), [], 0.0
    for source in config.sources:
        for path in range(config.paths):
            texts = _texts(config, seed, run.model, task, source, path)
            start, draw = texts[TRUE][: config.start], generator(seed, "asked", source, path)
            fit, held = fit_and_held(run.model, start, config.queries, config.query_length, draw, task.switch)
            for text, whole in texts.items():
                grown = [whole[: config.start + t] for t in range(config.written + 1)]
                said = {EDITED: in_weights(run.model, grown, fit, held), WITH: (behind_text(run.model, grown, held),)}
                said[BAYES] = (by_bayes(task, grown),)
                if text == OWN:
                    said[BORN] = in_weights(born, grown, fit, held)
                    worst = max(worst, expected_gap(task, grown))
                at = {"source": source, "text": text, "path": path}
                rows += [{**at, "predictor": who, **row} for who, found in said.items() for row in moves(*found)]
    return rows, worst


def _texts(config: Config, seed: int, model, task, source: str, path: int) -> dict[str, torch.Tensor]:
    """Texts that begin alike, by who wrote what follows."""
    length = config.start + config.written
    true = task.text(source, 1, length, generator(seed, "text", source, path))[0]
    start, stranger = true[: config.start], WHICH_OTHER[source.split()[0]]
    draw = generator(seed, "own", source, path)
    own = own_queries(model, start, SAMPLES, config.written, draw, task.switch)
    if not len(own):
        raise WorkbenchError(
            f"none of {SAMPLES} texts of written={config.written} tokens is free of BOS and the word: train the net "
            f"longer, or set written lower"
        )
    other = task.text(stranger, 1, config.written, generator(seed, "other", source, path))[0]
    return {OWN: torch.cat([start, own[0]]), TRUE: true, OTHER: torch.cat([start, other])}


# Claims -------------------------------------------------------------------------------------------

ENDS = 4  # tokens at either end that are held against each other
GUESS = "this project: Bayes's rule settles, and the model is near it"


def _sums(result: Result, column: str, text: str, who: str = EDITED, source: str | None = None) -> pd.Series:
    """The sum over steps, paths and sources, by seed."""
    table = result.table[(result.table.text == text) & (result.table.predictor == who)]
    table = table if source is None else table[table.source == source]
    return table.groupby("seed")[column].sum()


def _settles(source: str) -> Callable[[Result], list[float]]:
    """KL of the last steps over that of the first, own text."""

    def measured(result: Result) -> list[float]:
        table = result.table
        table = table[(table.text == OWN) & (table.predictor == EDITED) & (table.source == source)]
        last = table[table.t > table.t.max() - ENDS].groupby("seed").kl.sum()
        return (last / table[table.t < ENDS].groupby("seed").kl.sum()).tolist()

    return measured


def _against(text: str, who: str = EDITED) -> Callable[[Result], list[float]]:
    """KL of all steps on another text, over that on the model's own; chain and die, where another source is news."""

    def measured(result: Result) -> list[float]:
        found = [sum(_sums(result, "kl", one, who, source) for source in ("chain 0", DIE)) for one in (text, OWN)]
        return (found[0] / found[1]).tolist()

    return measured


def slope(table: pd.DataFrame, start: int) -> float:
    """Of ln weight_step over ln of the tokens read, BOS and the new one included, by least squares on all steps."""
    return float(np.polyfit(np.log(table.t + start + 2), np.log(table.weight_step), 1)[0])


def _die_slope(result: Result) -> list[float]:
    table, start = result.table, result.run["config"]["start"]
    table = table[(table.text == OWN) & (table.predictor == EDITED) & (table.source == DIE)]
    return [slope(one, start) for _, one in table.groupby("seed")]


def _adds_up(who: str) -> Callable[[Result], list[float]]:
    """Sum of squared steps over the squared way, own text, all sources."""

    def measured(result: Result) -> list[float]:
        table = result.table[(result.table.text == OWN) & (result.table.predictor == who)]
        way = table[table.t == table.t.max()].groupby("seed").from_start.sum()
        return (table.groupby("seed").squared.sum() / way).tolist()

    return measured


def _beyond_bayes(result: Result) -> list[float]:
    return (_sums(result, "kl", OWN) / _sums(result, "kl", OWN, WITH)).tolist()


CLAIMS = (
    Claim("Bayes's rule expects its own next symbol to teach it nothing: largest change of a posterior in expectation",
          "calibration", "the posterior is a martingale; float64 rounding", Bound(high=1e-12),
          lambda result: result.arrays["Bayes's expected gap (seed)"].tolist()),
    Claim("On its own text from a die W' settles: KL of the last 4 steps over that of the first 4", "finding", GUESS,
          Bound(high=0.5), _settles(DIE), every=False,
          explanation="W' settles, by less: the fit of every text errs by as much at the end as at the start."),
    Claim("On its own text from a chain W' settles: KL of the last 4 steps over that of the first 4", "finding", GUESS,
          Bound(high=0.5), _settles("chain 0"), every=False,
          explanation="W' settles, by less: the fit of every text errs by as much at the end as at the start."),
    Claim("Another source moves W' more than the model's own text: KL of all steps over that of its own", "finding",
          "this project: evidence arrives", Bound(low=2.0), _against(OTHER), every=False,
          explanation="A start of a few tokens leaves the source open, so that the model's own text is news as well."),
    Claim("So it moves Bayes's posterior", "finding", "the exact predictor: evidence arrives", Bound(low=1.0),
          _against(OTHER, BAYES), every=False),
    Claim("The true source moves W' as the model's own text does: KL of all steps over that of its own", "finding",
          "this project: a model that knows the source writes it", Bound(0.5, 2.0), _against(TRUE), every=False),
    Claim("On dice the weights move as an average does, by 1 / t: slope of ln step over ln t", "finding",
          "an average over t tokens moves by 1 / t", Bound(-1.3, -0.7), _die_slope, every=False,
          explanation="The weights move by about as much at every token: most of it lies where the queries leave keys "
          "and directions free, and outputs settle while it goes on."),
    Claim("The steps of W' on the model's own text are orthogonal: sum of squared steps over the squared way",
          "finding", "increments of a martingale", Bound(0.67, 1.5), _adds_up(EDITED), every=False,
          explanation="Every token also shakes the fit: steps that are taken back add to the squares and not to the "
          "way."),
    Claim("W' moves no more than the model with the text before it: KL of all steps over the model's, own text",
          "finding", "this project: W' is read off what the model does", Bound(high=1.2), _beyond_bayes, every=False),
)  # fmt: skip
