"""Every method of `probes.currying`, in the settings that `curry_one_context` tries."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from probes.currying.curried import NAMES, NULLS, method_called

# Settings beside the defaults; the first number is the r that the method is called by.
SETTINGS = {
    "kv_r": tuple({"pairs": r} for r in (1, 2, 5)),
    "lora": tuple({"rank": r} for r in (1, 4)),
}
NULL, EXACT, EDIT, FITTED, PREFIX, STEP = "null", "exact", "closed form", "descent", "learned pairs", "gradient"
FAMILIES = {
    **dict.fromkeys(NULLS, NULL),
    **dict.fromkeys(("kv", "token_patch"), EXACT),
    **dict.fromkeys(("lsq", "lora", "finetune"), FITTED),
    "kv_r": PREFIX,
    **dict.fromkeys(("gradient", "distill_gradient"), STEP),
}
LEFT_OUT = {"sink_r": "needs register tokens that the model was trained with; without them it is sink"}
OTHERS = "sink"  # by which a context of the same task, or of another, is put into weights
SHARED = ("sink", "lsq_o")  # methods whose W' of a sibling gives the context's own share


@dataclass(frozen=True)
class Setting:
    """A method with its options; `r` is its rank or number of pairs, 0 where it has none."""

    method: str
    options: dict[str, Any]
    r: int

    @property
    def label(self) -> str:
        """Its name in tables and figures: "kv_r 5"."""
        return f"{self.method} {self.r}" if self.method in SETTINGS else self.method

    @property
    def family(self) -> str:
        """What kind of method it is; a method that nobody has named here is a closed form."""
        return FAMILIES.get(self.method, EDIT)


def settings(steps: int, longest: int, chosen: tuple[str, ...] = ()) -> Iterator[Setting]:
    """Every method, in the order of `probes.currying.NAMES`.

    Args:
        steps: of descent, for each method that descends.
        longest: keys of BOS and context together: more pairs than that say no more.
        chosen: methods, all of them if empty.
    """
    for method in [name for name in NAMES if name not in LEFT_OUT and (not chosen or name in chosen)]:
        known = inspect.signature(method_called(method, {})).parameters
        for options in SETTINGS.get(method, ({},)):
            r = next(iter(options.values()), int(method == "sink"))
            if r <= longest:
                yield Setting(method, {**options, **({"steps": steps} if "steps" in known else {})}, r)
