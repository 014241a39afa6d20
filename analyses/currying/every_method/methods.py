"""The methods that `curry_vs_method` holds against each other, and what each is called."""

from dataclasses import dataclass, field
from typing import Any

NULL, EXACT, EDIT, FITTED, PREFIX, STEP = "null", "exact", "closed form", "descent", "learned pairs", "gradient"
NONE, WRONG, UNIFORM = "none", "wrong task", "sink, uniform queries"
PAIRS = (1, 2, 5)


@dataclass(frozen=True)
class Setting:
    """A method with its options.  Args: r: rank or number of pairs, 0 where it has neither;  descends: whether it
    takes a number of steps;  uniform: fitted on uniform tokens in place of the model's own samples;  shared: whether
    the same is done to a sibling context."""

    label: str
    method: str
    family: str
    r: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    descends: bool = False
    uniform: bool = False
    shared: bool = True


SETTINGS = (
    Setting("kv", "kv", EXACT, shared=False),
    Setting("sink", "sink", EDIT, 1),
    Setting(UNIFORM, "sink", EDIT, 1, uniform=True, shared=False),
    Setting("lsq_o", "lsq_o", EDIT),
    Setting("shared_patch", "shared_patch", EDIT),
    *(Setting(f"lora {rank}", "lora", FITTED, rank, {"rank": rank}, descends=True) for rank in (1, 4)),
    Setting("lsq", "lsq", FITTED, descends=True),
    Setting("finetune", "finetune", FITTED, descends=True),
    Setting("gradient", "gradient", STEP),
    Setting("distill_gradient", "distill_gradient", STEP),
    Setting(NONE, NONE, NULL, shared=False),
    Setting("bias", "bias", NULL),
    Setting("steer", "steer", NULL),
    Setting("bigram_shift", "bigram_shift", NULL),
)
