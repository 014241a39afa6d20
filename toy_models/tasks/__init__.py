"""Tasks: each a frozen spec whose `sample(n, generator)` returns a `Batch`.  One file each."""

import pkgutil
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int

# One line per task.
NAMES = {
    "repeated_blocks": "toy_models.tasks.repeated_blocks:RepeatedBlocks",
    "fixed_period": "toy_models.tasks.fixed_period:FixedPeriod",
    "text": "toy_models.tasks.text:Text",
    "task_mixture": "toy_models.tasks.task_mixture:TaskMixture",
    "linear_regression": "toy_models.tasks.linear_regression:LinearRegression",
    "several_lookups": "toy_models.tasks.several_lookups:SeveralLookups",
    "needles": "toy_models.tasks.needles:Needles",
    "who_did_what": "toy_models.tasks.who_did_what:WhoDidWhat",
    "hidden_source": "toy_models.tasks.hidden_source:HiddenSource",
    "chain_pool": "toy_models.tasks.chain_pool:ChainPool",
    "in_deployment": "toy_models.tasks.in_deployment:InDeployment",
    "copy_end": "toy_models.tasks.copy_end:CopyEnd",
    "copy_text": "toy_models.tasks.copy_text:CopyText",
    "recall": "toy_models.tasks.recall:Recall",
    "an_bn": "toy_models.tasks.an_bn:AnBn",
    "parity": "toy_models.tasks.parity:Parity",
    "even_pairs": "toy_models.tasks.even_pairs:EvenPairs",
    "dyck": "toy_models.tasks.dyck:Dyck1",
    "majority": "toy_models.tasks.majority:Majority",
    "modular_addition": "toy_models.tasks.modular_addition:ModularAddition",
    "count_symbols": "toy_models.tasks.count_symbols:CountSymbols",
    "count_query": "toy_models.tasks.count_query:CountQuery",
    "running_parity": "toy_models.tasks.running_parity:RunningParity",
}


@dataclass(frozen=True)
class Batch:
    """What a model reads, what it should answer, and where the answer counts."""

    tokens: Int[torch.Tensor, "batch pos"]
    targets: Int[torch.Tensor, "batch pos"]
    scored: Bool[torch.Tensor, "batch pos"]

    def to(self, device) -> "Batch":
        """The same batch on another device."""
        return Batch(self.tokens.to(device), self.targets.to(device), self.scored.to(device))


@runtime_checkable
class Task(Protocol):
    """`d_vocab` tokens, at most `n_ctx` positions, and nothing else that a model needs to know."""

    d_vocab: int
    n_ctx: int

    def sample(self, n: int, generator: torch.Generator) -> Batch: ...


def find(name: str):
    """The spec class called `name`; ValueError lists the known ones."""
    if name not in NAMES:
        raise ValueError(f"unknown task {name!r}: choose one of {', '.join(NAMES)}")
    return pkgutil.resolve_name(NAMES[name])
