"""What do attention's row statistics cost, in time and in memory, beside attention alone?

Seven ways to the same attention (`analyses.attention.cost.variants`): torch's fused call alone (SDPA); a fused backend
of ours without and with every row statistic; SDPA twice, the second time with keys for values, which gives the mean
score, half of the entropy, and nothing else; and three that hold the pattern: the reference without and with
statistics, and TransformerLens's own.  Every repetition runs beside one of SDPA in the same process, in alternating
order, on one thread; peak memory is that of one call in a fresh process.  A second workload has a sliding window,
which SDPA needs a mask for.

On a GPU (`--set device=cuda --set backend=triton`) a repetition is the median of several calls on the device's clock
(`analyses.attention.cost.gpu`), torch's flash, cuDNN and math kernels are measured by name in place of SDPA twice, and
the arrays hold the time with statistics over that of the same kernel without, taken in turns, and the rate of a matrix
product of the same run.  What torch has no kernel for, or no memory, is named in run.json (`left_out`).

The arrays hold two identities of the statistics in float64: the entropy is the logsumexp less the mean score, and the
logarithm of sum p^2 is the logsumexp of doubled scores less twice that of the scores.  Both follow from
ln p_j = s_j - logsumexp; the second is the Renyi entropy of order 2 (Renyi 1961, On measures of entropy and
information).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata

import numpy as np
import pandas as pd

from analyses.attention.cost.identities import ENTROPY, RENYI, identities
from analyses.attention.cost.measure import one_thread, paired, peak_mb, warm
from analyses.attention.cost.rates import LENGTHS, MATMUL, OVER_OUTPUT_ONLY, over_fastest, over_output_only
from analyses.attention.cost.variants import (
    BY_NAME,
    CAUSAL,
    FUSED_STATISTICS,
    HOLD_THE_PATTERN,
    IN,
    IN_ON_A_GPU,
    MODEL,
    SDPA,
    VARIANTS,
    WINDOW,
    Case,
    installed,
)
from analyses.core.claims import Bound, Claim
from analyses.core.results import Result
from toy_models.attention import NAMES
from toy_models.errors import ConfigError

DTYPES = ("float32", "bfloat16", "float16", "float64")
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Config:
    """Args: n: queries, and keys;  n_eager: the longest for those that hold the n x n pattern;  n_window: lengths with
    a sliding window of `window` keys;  n_model: lengths for the model of two layers;  backend: what "fused" stands for,
    a backend with statistics;  seeds: one repetition each."""

    n: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384)
    n_eager: int = 4096
    n_window: tuple[int, ...] = (4096, 8192)
    window: int = 256
    n_model: tuple[int, ...] = (4096,)
    n_heads: int = 8
    d_head: int = 64
    backend: str = "tiled"
    dtype: str = "float32"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    device: str = "cpu"

    def __post_init__(self):
        for name in ("n", "seeds"):
            if not getattr(self, name):
                raise ConfigError(f"{name}={getattr(self, name)}: give one or more")
        for name in ("n", "n_eager", "n_window", "window", "n_model", "n_heads", "d_head"):
            value = getattr(self, name)
            sizes = value if isinstance(value, tuple) else (value,)
            if min(sizes, default=1) < 1 or len(set(sizes)) < len(sizes):
                raise ConfigError(f"{name}={value}: give sizes of 1 or more, each once")
        able = [name for name in NAMES if name != "sdpa"]
        for name, known in (("backend", able), ("dtype", DTYPES), ("device", DEVICES)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name}={getattr(self, name)}: choose one of {', '.join(known)}")


QUICK = {"n": (1024, 2048, 4096), "n_eager": 1024, "n_window": (4096,), "n_model": (), "seeds": (0, 1, 2)}

COLUMNS = {
    "workload": f"{CAUSAL}: each query sees all keys up to its own; {WINDOW}: the last `window` of them; {MODEL}: "
    "two layers of causal attention and MLPs",
    "variant": "what was called: " + "; ".join(VARIANTS) + "; on a GPU torch's kernels by name: " + "; ".join(BY_NAME),
    "n": "queries, and keys",
    "seed": "the repetition: of the inputs; an even one runs SDPA first",
    "cpu_s": "processor time of the call (s); on a GPU to send it",
    "wall_s": "elapsed time of the call (s); on a GPU the device's",
    "sdpa_cpu_s": "processor time of the SDPA call beside it (s); on a GPU to send it",
    "sdpa_wall_s": "elapsed time of the SDPA call beside it (s); on a GPU the device's",
    "ratio": "time of the call over that of SDPA beside it: processor time, on a GPU elapsed time",
    "peak_mb": "most memory held during a call, its outputs included (1e6 bytes); once per workload, variant, n",
}


def run(config: Config) -> Result:
    """Measure every case; say what could not run here.

    Raises:
        ConfigError: a GPU is asked for and there is none.
    """
    from toy_models.progress import progress

    gpu = _gpu(config)
    cases = _cases(config, IN_ON_A_GPU if gpu else IN)
    missing = {f"{case.workload}, {case.variant}" for case in cases if not installed(case.workload, case.variant)}
    cases = progress([case for case in cases if installed(case.workload, case.variant)], "cases")
    told = {"device": config.device, "dtype": config.dtype, "backend": sorted({config.backend, "reference", "sdpa"})}
    told |= {"gpu": gpu.name() if gpu else None, "not_installed": sorted(missing)}
    with one_thread():
        rows, arrays, more = _on_a_gpu(gpu, cases, config) if gpu else (_on_a_processor(cases, config), {}, {})
        arrays |= identities(config)
    return Result(pd.DataFrame(rows, columns=list(COLUMNS)), arrays, told | more)


def _gpu(config: Config):
    """The device to measure on, or None for a processor."""
    import torch

    from analyses.attention.cost.gpu import Gpu

    if torch.device(config.device).type != "cuda":
        return None
    if not torch.cuda.is_available():
        raise ConfigError(f"device={config.device}: torch sees no GPU here; set device=cpu")
    return Gpu()


def _cases(config: Config, workloads: dict[str, tuple[str, ...]]) -> list[Case]:
    """All that is asked for, the shortest first."""
    shape = {name: getattr(config, name) for name in ("window", "n_heads", "d_head", "backend", "dtype", "device")}
    lengths = {CAUSAL: config.n, WINDOW: config.n_window, MODEL: config.n_model}
    found = [
        Case(workload, variant, n, **shape)
        for workload, variants in workloads.items()
        for n in lengths[workload]
        for variant in variants
        if workload != CAUSAL or variant not in HOLD_THE_PATTERN or n <= config.n_eager
    ]
    return sorted(found, key=lambda case: case.n)


def _on_a_processor(cases: Iterable[Case], config: Config) -> list[dict]:
    rows = []
    for case in cases:
        what = {"workload": case.workload, "variant": case.variant, "n": case.n}
        peak = {"peak_mb": peak_mb(case)}
        warm(case)
        rows += [what | {"seed": seed} | paired(case, seed) | peak for seed in config.seeds]
    return rows


def _on_a_gpu(gpu, cases: Iterable[Case], config: Config) -> tuple[list[dict], dict[str, np.ndarray], dict]:
    """Rows; what the figure sets them against; and what to tell beside them."""
    from analyses.attention.cost.gpu import matmul_rate, measure

    done = measure(gpu, cases, config.seeds)
    tf32 = config.backend == "triton_tf32" and config.dtype == "float32"
    rates = [matmul_rate(gpu, seed, config.dtype, config.device, tf32) for seed in config.seeds]
    arrays = {MATMUL: np.array(rates)}
    if done.over_output_only:
        lengths = sorted(done.over_output_only)
        arrays |= {LENGTHS: np.array(lengths), OVER_OUTPUT_ONLY: np.array([done.over_output_only[n] for n in lengths])}
    told = {"left_out": done.left_out, "matmul": "tf32" if tf32 else config.dtype, "triton": _version("triton")}
    return done.rows, arrays, told


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _of(result: Result, variant: str, n: int) -> pd.DataFrame:
    """The repetitions of a causal variant at n tokens; where n was not measured, at the longest below it."""
    rows = result.table[(result.table.workload == CAUSAL) & (result.table.variant == variant)]
    return rows[rows.n == rows.n[rows.n <= n].max()]


def _ratio(n: int) -> Callable[[Result], list[float]]:
    return lambda result: [float(_of(result, FUSED_STATISTICS, n).ratio.median())]


def _memory(result: Result) -> list[float]:
    return _of(result, FUSED_STATISTICS, 8192).peak_mb.tolist()[:1]


def _memory_growth(result: Result) -> list[float]:
    whole = _of(result, FUSED_STATISTICS, 8192)
    half = _of(result, FUSED_STATISTICS, whole.n.max() // 2)
    twice = whole.n.max() == 2 * half.n.max()
    return [whole.peak_mb.max() / half.peak_mb.max()] if twice else []


def _control(result: Result) -> list[float]:
    rows = result.table[(result.table.workload == CAUSAL) & (result.table.variant == SDPA)]
    return [float(rows.ratio.median())]


def _on_gpu(result: Result) -> bool:
    return result.run["device"] == "cuda"


def _on_cpu(result: Result) -> bool:
    return not _on_gpu(result)


def _long(result: Result) -> int:
    """The longest text that the aims for a GPU speak of, or the shortest there is."""
    lengths = over_output_only(result).index
    return int(max([n for n in lengths if n <= AIMED_AT], default=lengths.min()))


def _over_the_same_kernel(result: Result) -> list[float]:
    return [float(over_output_only(result).loc[_long(result)].median())]


def _over_torchs_fastest(result: Result) -> list[float]:
    return [float(over_fastest(result, _long(result)).median())]


AIMED_AT = 16384  # tokens
SHORTER = "(a shorter run: at its longest)"
CLAIMS = (
    Claim(
        sentence="Entropy is logsumexp less mean score, row by row: largest error over u max|s|",
        kind="identity",
        source="ln p_j = s_j - logsumexp, averaged over p",
        expected=Bound(high=16.0),
        measure=lambda result: result.arrays[ENTROPY].tolist(),
    ),
    Claim(
        sentence="ln sum p^2 is logsumexp of doubled scores less twice the logsumexp: largest error over u max|s|",
        kind="identity",
        source="Renyi 1961, order 2: p_j^2 = exp(2 s_j - 2 logsumexp)",
        expected=Bound(high=16.0),
        measure=lambda result: result.arrays[RENYI].tolist(),
    ),
    Claim(
        sentence="Control: SDPA beside itself, median ratio over all lengths",
        kind="calibration",
        source="the same call twice",
        expected=Bound(0.9, 1.1),
        measure=_control,
    ),
    *(
        Claim(
            sentence=f"All row statistics over SDPA alone at {n} tokens, median of the repetitions {SHORTER}",
            kind="finding",
            source="this study",
            expected=Bound(high=1.5),
            measure=_ratio(n),
            speaks_of=_on_cpu,
        )
        for n in (4096, 8192)
    ),
    Claim(
        sentence=f"Memory with all row statistics at 8192 tokens on one thread, outputs included, MB {SHORTER}",
        kind="finding",
        source="this study",
        expected=Bound(high=48.0),
        measure=_memory,
        speaks_of=_on_cpu,
    ),
    Claim(
        sentence=f"That memory grows like n and not like n^2: from 4096 to 8192 tokens by a factor {SHORTER}",
        kind="finding",
        source="this study: 2 if like n, 4 if like n^2",
        expected=Bound(high=3.0),
        measure=_memory_growth,
        speaks_of=_on_cpu,
    ),
    *(
        Claim(
            sentence=f"On a GPU: all row statistics over {over} at {AIMED_AT} tokens, median {SHORTER}",
            kind="finding",
            source="this study's aim for H200-class GPUs, bfloat16, heads of 128",
            expected=Bound(high=high),
            measure=measure,
            speaks_of=_on_gpu,
        )
        for over, high, measure in (
            ("the same kernel without them", 1.10, _over_the_same_kernel),
            ("the fastest of torch's kernels", 1.15, _over_torchs_fastest),
        )
    ),
)
