"""What is best in expectation: closed forms beside Monte Carlo, and tuned GD++ beside what models learned."""

from functools import partial

import numpy as np
import torch
from scipy.optimize import minimize

from analyses.core import calibration
from probes.gradient_steps import best_preconditioner, best_step, residual_factors
from toy_models.seeding import generator
from toy_models.tasks.linear_regression import LinearRegression

# A mean of thousands of draws is off by more than five of its standard errors once in two million times.
STANDARD_ERRORS = 5.0
NOISE = 0.5  # of the labels, where W x has a standard deviation of 0.9
# Ahn's theorem is for normal inputs; variances that spread over a factor of 16.
VARIANCES, N_ANISOTROPIC = (4.0, 2.0, 1.0, 0.5, 0.25), 20
# Number of examples -> gamma that recurrent layers learned, as published.
LEARNED = {10: 0.179, 25: 0.099, 50: 0.056, 100: 0.029}
GAMMA = 0.05  # published with two digits, and learned from a finite number of tasks
GD, PLUS = "gradient steps", "GD++"
DEPTHS = tuple(range(1, 9))

LOSS, BEST, DEEP = "expected loss", "best weights", "GD++, 2 tied steps"
THEORY = "probes/theory/gradient_steps.md"
AHN = "Ahn et al. 2023, arXiv:2306.00297, theorem 1"
APPENDIX = "von Oswald et al. 2022, arXiv:2212.07677, appendix A.10"
UNIT = "standard errors"

QUANTITIES = {
    (LOSS, THEORY): (
        ("one step, inputs of the code", UNIT, STANDARD_ERRORS, "Monte Carlo meets the closed form"),
        ("one step, inputs of the text", UNIT, STANDARD_ERRORS, "Monte Carlo meets the closed form"),
        ("one step, normal inputs", UNIT, STANDARD_ERRORS, "Monte Carlo meets the closed form"),
        ("one step, noisy labels", UNIT, STANDARD_ERRORS, "Monte Carlo meets the closed form"),
    ),
    (BEST, AHN): (
        ("rate, inputs of the code", UNIT, STANDARD_ERRORS, "least squares over tasks finds the closed form's rate"),
        ("every entry, anisotropic inputs", UNIT, STANDARD_ERRORS, "it finds the preconditioner of the theorem"),
        ("their loss, anisotropic inputs", UNIT, STANDARD_ERRORS, "and its loss"),
    ),
    (DEEP, APPENDIX): tuple(
        (f"best gamma over the learned, n = {n}", "1", GAMMA, f"it is the learned {gamma}", "replication")
        for n, gamma in LEARNED.items()
    ),
}
KNOWN = calibration.known(QUANTITIES)


def read(config, seed: int) -> tuple[calibration.Readings, np.ndarray]:
    """Every quantity of `KNOWN` at one seed of a study's config, and half-MSE of tuned steps, (kind, depth)."""
    draw = partial(generator, seed, "optima")
    tuned = {n: _tuned(_eigenvalues(LinearRegression(n_examples=n), config.tasks, draw), n, 2, True) for n in LEARNED}
    readings = {
        (DEEP, f"best gamma over the learned, n = {n}"): (gamma / LEARNED[n], 1.0) for n, (_, gamma, _) in tuned.items()
    }
    readings |= _expected(config, draw) | _best(config, draw)
    task = config.task
    values, factor = _eigenvalues(task, config.tasks, draw), task.moment(2) / 2
    depth = [[factor * _tuned(values, task.n_examples, k, plus)[2] for k in DEPTHS] for plus in (False, True)]
    return readings, np.array(depth)


def _scores(task: LinearRegression, n: int, generator: torch.Generator):
    """(1/n) sum_j y_j x_j, the query and the answer, of one output, float64."""
    batch = task.sample(n, generator).to(torch.float64)
    return (batch.y * batch.x).mean(1), batch.query, batch.answer[:, 0]


def _expected(config, draw) -> calibration.Readings:
    found = {}
    for name, inputs, noise in (
        ("inputs of the code", "code", 0.0),
        ("inputs of the text", "text", 0.0),
        ("normal inputs", "gaussian", 0.0),
        ("noisy labels", "code", NOISE),
    ):
        task = LinearRegression(inputs=inputs, noise=noise)
        best = best_step(task.d_in, task.n_examples, task.moment(2), task.moment(4), noise)
        score, query, answer = _scores(task, config.tasks, draw(name))
        errors = ((best.rate * score * query).sum(-1) - answer).square()
        found[LOSS, f"one step, {name}"] = (_standardised(errors, best.loss), 0.0)
    return found


def _best(config, draw) -> calibration.Readings:
    task = LinearRegression()
    rate = best_step(task.d_in, task.n_examples, task.moment(2), task.moment(4)).rate
    score, query, answer = _scores(task, config.tasks, draw("rate"))
    found, error = _least_squares((score * query).sum(-1, keepdim=True), answer)
    scales = tuple(variance**0.5 for variance in VARIANCES)
    task = LinearRegression(len(scales), n_examples=N_ANISOTROPIC, inputs="gaussian", scales=scales)
    best = best_preconditioner(torch.tensor(VARIANCES, dtype=torch.float64), N_ANISOTROPIC)
    score, query, answer = _scores(task, config.tasks, draw("anisotropic"))
    entries, errors = _least_squares((score[:, :, None] * query[:, None]).flatten(1), answer)
    losses = ((score * best.rates * query).sum(-1) - answer).square()
    return {
        (BEST, "rate, inputs of the code"): ((found - rate) / error, 0.0),
        (BEST, "every entry, anisotropic inputs"): ((entries - best.rates.diag().flatten()) / errors, 0.0),
        (BEST, "their loss, anisotropic inputs"): (_standardised(losses, best.loss), 0.0),
    }


def _standardised(values: torch.Tensor, expected: float) -> float:
    """How many standard errors the mean is off."""
    return ((values.mean() - expected) / (values.std() / len(values) ** 0.5)).item()


def _least_squares(features: torch.Tensor, answer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients, and standard errors that hold for errors of any kind (White's)."""
    inverse = torch.linalg.inv(features.T @ features)
    found = inverse @ (features.T @ answer)
    weighted = features * (answer - features @ found)[:, None]
    return found, (inverse @ (weighted.T @ weighted) @ inverse).diagonal().sqrt()


def _eigenvalues(task: LinearRegression, n: int, draw) -> torch.Tensor:
    """Of X^T X, (task, d_in)."""
    x = task.sample(n, draw("inputs", task.n_examples)).x.double()
    return torch.linalg.eigvalsh(x.mT @ x).clamp(min=0)


def _tuned(values: torch.Tensor, n: int, depth: int, plus: bool) -> tuple[float, float, float]:
    """Rate, gamma and the mean of sum r^2, of `depth` steps alike tuned together."""
    unit = values.mean().item()

    def loss(at: np.ndarray) -> float:
        rate, gamma = at[0] * n / unit, (at[1] / unit if plus else 0.0)
        return residual_factors(values, [rate] * depth, [gamma] * depth, n).square().sum(-1).mean().item()

    start = [0.5, 0.1] if plus else [0.5]
    best = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-9})
    return best.x[0] * n / unit, (best.x[1] / unit if plus else 0.0), best.fun
