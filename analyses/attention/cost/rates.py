"""What the table of a run on a GPU says beside its columns: operations per second, and ratios of paired times."""

import pandas as pd

from analyses.core.results import Result

SDPA, STATISTICS = "SDPA", "fused + statistics"
TORCH_KERNELS = (SDPA, "SDPA flash", "SDPA cuDNN", "SDPA math")
MATMUL = "matmul TFLOP/s (seed)"
LENGTHS = "with statistics over output only: tokens (length)"
OVER_OUTPUT_ONLY = "with statistics over output only: time (length, seed)"


def causal_flops(n: int, n_heads: int, d_head: int) -> float:
    """Operations of one forward pass of causal attention: q k^T and p v, each of n^2 / 2 pairs, a product and a sum
    per number of a head."""
    return 2 * 2 * n**2 / 2 * d_head * n_heads


def causal(result: Result, variant: str) -> pd.DataFrame:
    """The rows of a variant of causal attention, with `tflops`: 1e12 operations of the attention per second."""
    table, config = result.table, result.run["config"]
    rows = table[(table.workload == "causal") & (table.variant == variant)].sort_values(["n", "seed"])
    operations = causal_flops(rows.n.astype(float), config["n_heads"], config["d_head"])
    return rows.assign(tflops=operations / rows.wall_s / 1e12)


def fastest_of_torch(result: Result, n: int) -> str:
    """Which of torch's kernels has the least median time over SDPA beside it at n tokens."""
    found = {variant: causal(result, variant) for variant in TORCH_KERNELS}
    medians = {variant: rows[rows.n == n].ratio.median() for variant, rows in found.items() if (rows.n == n).any()}
    return min(medians, key=medians.get)


def over_fastest(result: Result, n: int) -> pd.Series:
    """Time with every statistic over that of torch's fastest kernel at n tokens, by seed; each was timed beside SDPA,
    and what the device did to that call it did to both."""
    ours, torchs = (causal(result, variant) for variant in (STATISTICS, fastest_of_torch(result, n)))
    ours, torchs = (rows[rows.n == n].set_index("seed").ratio for rows in (ours, torchs))
    return ours / torchs


def over_output_only(result: Result) -> pd.DataFrame:
    """Time with every statistic over that of the same kernel without, taken in turns: a row per length `n`, a column
    per repetition."""
    return pd.DataFrame(result.arrays[OVER_OUTPUT_ONLY], index=pd.Index(result.arrays[LENGTHS], name="n"))
