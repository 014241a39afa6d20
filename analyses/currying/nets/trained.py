"""The models whose contexts are curried: one for a mixture of sources, one for every size of a pool of chains.

Both are transformers of two layers with two heads of 24 and rotary positions.  Every seed has sources, weights and
batches of its own.  A study says which it takes by having one of these in its config, so that studies share trainings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from analyses.core.results import trainings
from toy_models.checkpoints import RunConfig, TrainedRun, train_or_load
from toy_models.config import TransformerConfig
from toy_models.tasks.chain_pool import ChainPool
from toy_models.tasks.hidden_source import BOS
from toy_models.tasks.in_deployment import InDeployment
from toy_models.train import TrainConfig


def _transformer(task: Any) -> TransformerConfig:
    return TransformerConfig(
        **{"n_layers": 2, "n_heads": 2, "d_model": 48, "d_mlp": 96, "d_vocab": task.d_vocab, "n_ctx": task.n_ctx},
        **{"position": "rope", "normalization_type": "RMS", "bos_id": BOS},
    )


@dataclass(frozen=True)
class Mixture:
    """A model for chains, dice, copied words and the word "in deployment", with an exact predictor.

    Args: task, model, train: as in RunConfig; `task.source_seed` is added to the seed.
    """

    task: InDeployment = field(default_factory=InDeployment)
    model: TransformerConfig = field(default_factory=lambda: _transformer(InDeployment()))
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=1400, batch_size=64, lr=5e-3))

    def task_of(self, seed: int) -> InDeployment:
        """The mixture with this seed's chains and dice."""
        return replace(self.task, source_seed=self.task.source_seed + seed)

    def trained(self, seed: int) -> TrainedRun:
        """The trained run of a seed: read, or trained."""
        return _run(self, self.task_of(seed), seed)


@dataclass(frozen=True)
class Pools:
    """A model for every number of chains, all with the same number of updates.

    Args: task: its n_chains is replaced;  model, train: as in RunConfig.
    """

    task: ChainPool = field(default_factory=lambda: ChainPool(n_ctx=49))
    model: TransformerConfig = field(default_factory=lambda: _transformer(ChainPool(n_ctx=49)))
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=1600, batch_size=64, lr=5e-3, checkpoint_every=200)
    )

    def task_of(self, n_chains: int, seed: int) -> ChainPool:
        """The pool of this size with this seed's chains; 0 is a fresh chain for every text."""
        return replace(self.task, n_chains=n_chains, source_seed=self.task.source_seed + seed)

    def trained(self, n_chains: int, seed: int, steps: Sequence[int] = ()) -> TrainedRun:
        """The trained run of a size and a seed: read, or trained, with its weights after `steps` updates."""
        return _run(self, self.task_of(n_chains, seed), seed, steps)


def _run(net: Mixture | Pools, task: Any, seed: int, steps: Sequence[int] = ()) -> TrainedRun:
    run = RunConfig(model=net.model, task=task, train=net.train, seed=seed)
    return train_or_load(run, **trainings(), steps=steps, show_progress=False)
