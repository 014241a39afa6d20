"""The trained models that come with the project, so that quick profiles and notebooks need no training."""

from collections.abc import Iterator

from analyses.core.results import trainings
from analyses.currying.nets.trained import Mixture, Pools
from toy_models.checkpoints import TrainedRun, keep

SEED = 0
POOLS = {4: (400,), 64: (), 0: (400,)}  # n_chains, and the updates after which its weights are kept beside the last


def published() -> Iterator[tuple[TrainedRun, tuple[int, ...]]]:
    """Each run, read or trained, and the steps that are kept beside its last."""
    yield Mixture().trained(SEED), ()
    for n_chains, steps in POOLS.items():
        yield Pools().trained(n_chains, SEED, steps), steps


def publish() -> None:
    """Put them all into the project: call this where a default of `trained` has changed."""
    for run, steps in published():
        keep(run, trainings()["kept"], steps)
