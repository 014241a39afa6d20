"""The remedies: one entry each, what it changes of the model, of the texts or of the numbers, and who proposed it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from analyses.counting.remedies.marks import AT_TEST, TRAINED
from toy_models.normalisers.log_n import LogN
from toy_models.tasks import Task

EVERY = 3  # symbols between two separators, as in the source
WINDOW = 8  # tokens that a query sees
HARD = 1e-4  # what scores are divided by: all weight goes to the largest
GLASSES = "Barbero et al. 2024, arXiv:2406.04267"


@dataclass(frozen=True)
class Remedy:
    """Args: stage: TRAINED (a net of its own) or AT_TEST (the baseline's net, changed);  model: fields of its config,
    given the task that is trained;  task: fields of the task;  dtype: of weights and activations."""

    stage: str
    source: str
    model: Callable[[Task], dict[str, Any]] = lambda task: {}
    task: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"


def _log_n(learned: bool) -> Callable[[Task], dict[str, Any]]:
    """Softmax at the longest text of training, sharper beyond it."""
    return lambda task: {"normaliser": LogN(s=1 / math.log(task.n_ctx), learned=learned)}


def _options(**options: Any) -> Callable[[Task], dict[str, Any]]:
    return lambda task: options


REMEDIES = {
    "separators": Remedy(TRAINED, f"{GLASSES}, section 4", task={"separator": EVERY}),
    "alternating": Remedy(TRAINED, f"{GLASSES}, section 3", task={"alternating": True}),
    "scratchpad": Remedy(TRAINED, "Kim and Suzuki 2024, arXiv:2410.08633", task={"scratchpad": True}),
    "window": Remedy(TRAINED, f"{GLASSES}, appendix C.6", _options(window=WINDOW)),
    "log n": Remedy(TRAINED, "Nakanishi 2025, arXiv:2501.19399", _log_n(learned=True)),
    "off by one": Remedy(TRAINED, 'Miller 2023, "Attention is off by one"', _options(normaliser="off_by_one")),
    "gated": Remedy(TRAINED, "Qiu et al. 2025, arXiv:2505.06708", _options(gated_attention=True)),
    "entmax": Remedy(TRAINED, "Peters et al. 2019, arXiv:1905.05702", _options(normaliser="entmax15")),
    "ALiBi": Remedy(TRAINED, "Press et al. 2021, arXiv:2108.12409", _options(position="alibi")),
    "no position": Remedy(TRAINED, "Kazemnejad et al. 2023, arXiv:2305.19466", _options(position="none")),
    "window at test": Remedy(AT_TEST, f"{GLASSES}, appendix C.6", _options(window=WINDOW)),
    "log n at test": Remedy(AT_TEST, "Nakanishi 2025, arXiv:2501.19399", _log_n(learned=False)),
    "adaptive": Remedy(AT_TEST, "Velickovic et al. 2024, arXiv:2410.01104", _options(normaliser="adaptive")),
    "hard max": Remedy(AT_TEST, "what sharpening can do at most", _options(attn_scale=HARD)),
    "bfloat16": Remedy(AT_TEST, f"{GLASSES}, section 4: a harm", dtype="bfloat16"),
    "float64": Remedy(AT_TEST, f"{GLASSES}, section 4", dtype="float64"),
}
