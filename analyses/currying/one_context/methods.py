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
ALL = "all"  # of the methods, asked for by one word
# What a checkpoint of the size of GPT-2 small goes through in minutes: the others descend, or solve for every token.
OF_DIRECTORY = ("kv", "sink", "lsq_o", *NULLS)
NOT_ASKED = f"not run on a checkpoint unless asked for, by --set methods={ALL} or by its name there"
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


def chosen(methods: tuple[str, ...], directory: bool) -> tuple[str, ...]:
    """The methods that a config asks for: those it names; all of them for "all", or for none if it trains its model;
    of a directory otherwise those that take minutes."""
    if ALL in methods or not (methods or directory):
        return tuple(NAMES)
    return methods or OF_DIRECTORY


def left_out(methods: tuple[str, ...], directory: bool) -> dict[str, str]:
    """What nobody excluded and is not run all the same, and why."""
    found = dict(LEFT_OUT)
    if directory and not methods:
        found |= {name: NOT_ASKED for name in NAMES if name not in (*OF_DIRECTORY, *LEFT_OUT)}
    return found


def settings(steps: int, longest: int, methods: tuple[str, ...] = ()) -> Iterator[Setting]:
    """The settings of every method, in the order of `probes.currying.NAMES`.

    Args:
        steps: of descent, for each method that descends.
        longest: keys of BOS and context together: more pairs than that say no more.
        methods: which; all of them if empty.
    """
    for method in [name for name in NAMES if name not in LEFT_OUT and (not methods or name in methods)]:
        known = inspect.signature(method_called(method, {})).parameters
        for options in SETTINGS.get(method, ({},)):
            r = next(iter(options.values()), int(method == "sink"))
            if r <= longest:
                yield Setting(method, {**options, **({"steps": steps} if "steps" in known else {})}, r)
