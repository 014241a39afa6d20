"""Training runs on disk, addressed by the hash of their configuration.

A run's folder holds `run.json` (the configuration in plain words), one `step-000200.pt` per checkpoint
(weights, optimizer, losses so far) and `checksums.json`.  Every file is written beside and renamed, so
an interrupted run leaves only whole checkpoints, and the next call goes on from the last one.

`keep` puts weights and losses alone into a folder that is handed on, a third of the size; such a run can be read, not
gone on with.
"""

import hashlib
import io
import json
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from toy_models.canonical import digest, plain
from toy_models.config import TransformerConfig
from toy_models.errors import CheckpointError, ConfigError
from toy_models.train import TrainConfig, optimiser, train
from toy_models.transformer import Transformer

KEPT = ".safetensors"  # weights and losses, without the optimizer


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a trained model: same run, same bits (on one device, at one thread)."""

    model: TransformerConfig
    task: Any
    train: TrainConfig = field(default_factory=TrainConfig)
    seed: int = 0

    def __post_init__(self):
        if self.model.d_vocab < self.task.d_vocab or self.model.n_ctx < self.task.n_ctx:
            raise ConfigError(
                f"the task needs d_vocab >= {self.task.d_vocab} and n_ctx >= {self.task.n_ctx}; "
                f"the model has {self.model.d_vocab} and {self.model.n_ctx}"
            )

    @property
    def hash(self) -> str:
        return digest(self)


@dataclass(frozen=True)
class TrainedRun:
    """A trained model, its loss after every update (nats), and where its checkpoints are."""

    config: RunConfig
    model: Transformer
    losses: list[float]
    folder: Path

    def at(self, step: int) -> Transformer:
        """The model as it was after `step` updates; that step must have a checkpoint."""
        if step == 0:
            return Transformer(self.config.model, seed=self.config.seed).eval()
        if step in saved_steps(self.folder, KEPT):
            return _kept(self.config, self.folder, step)[0].eval()
        return _restore(self.config, self.folder, step)[0]

    @property
    def steps(self) -> list[int]:
        """The updates that have a checkpoint, or are none at all."""
        return sorted({0, *saved_steps(self.folder), *saved_steps(self.folder, KEPT)})


def train_or_load(
    config: RunConfig,
    root: Path | str,
    *,
    kept: Path | str | None = None,
    steps: Sequence[int] = (),
    show_progress: bool | None = None,
) -> TrainedRun:
    """The trained model of `config`: from disk if it is there, else trained, from the last checkpoint on.

    Args:
        kept: where runs were put by `keep`; one that has its last step and `steps` is read and not trained.
        steps: updates after which the weights will be asked for.

    Raises:
        CheckpointError: a damaged checkpoint (named), or a folder that cannot be written.
        TrainingError: the loss stopped being finite.
    """
    folder = Path(kept or root) / config.hash
    if kept is not None and {config.train.steps, *steps} <= {0, *saved_steps(folder, KEPT)}:
        model, losses = _kept(config, folder, config.train.steps)
        return TrainedRun(config, model.eval(), losses, folder)
    folder = Path(root) / config.hash
    _open_folder(folder, config)
    done = saved_steps(folder)
    if done:
        model, optimizer, losses = _restore(config, folder, done[-1])
    else:
        model = Transformer(config.model, seed=config.seed)
        optimizer, losses = optimiser(model, config.train), []
        _save(folder, 0, model, optimizer, losses)
    start = len(losses)
    if start < config.train.steps:
        model.train()
        updates = train(
            model,
            config.task,
            config.train,
            seed=config.seed,
            start=start,
            optimizer=optimizer,
            show_progress=show_progress,
        )
        _follow(updates, config.train, folder, model, optimizer, losses)
    return TrainedRun(config, model.eval(), losses, folder)


def keep(run: TrainedRun, root: Path | str, steps: Sequence[int] = ()) -> Path:
    """Put the trained weights, and those after `steps` updates, into the folder of the run under `root`.

    Raises:
        CheckpointError: a step without a checkpoint, or a folder that cannot be written.
    """
    folder = Path(root) / run.config.hash
    _open_folder(folder, run.config)
    for step in sorted({*steps, run.config.train.steps}):
        losses = torch.tensor(run.losses[:step], dtype=torch.float32)
        state = {f"model.{name}": value.contiguous() for name, value in run.at(step).state_dict().items()}
        _put(folder, _name(step, KEPT), safetensors.torch.save({**state, "losses": losses}))
    return folder


def saved_steps(folder: Path, suffix: str = ".pt") -> list[int]:
    """The steps whose checkpoints are in the folder, in order."""
    return sorted(int(p.stem.removeprefix("step-")) for p in folder.glob(f"step-[0-9]*{suffix}"))


def _follow(updates: Iterator, config: TrainConfig, folder: Path, model, optimizer, losses: list[float]) -> None:
    every = config.checkpoint_every
    with closing(updates):
        for step, loss in updates:
            losses.append(loss)
            if step == config.steps or (every and step % every == 0):
                _save(folder, step, model, optimizer, losses)


def _open_folder(folder: Path, config: RunConfig) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "run.json").exists():
            _write(folder / "run.json", json.dumps(plain(config), indent=1).encode())
    except OSError as error:
        raise CheckpointError(f"cannot write checkpoints to {folder}: {error.strerror}") from None


def _name(step: int, suffix: str = ".pt") -> str:
    return f"step-{step:06d}{suffix}"


def _save(folder: Path, step: int, model: Transformer, optimizer, losses: list[float]) -> None:
    buffer = io.BytesIO()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": torch.tensor(losses).double()}
    torch.save(state, buffer)
    _put(folder, _name(step), buffer.getvalue())


def _put(folder: Path, name: str, data: bytes) -> None:
    """A file and its checksum, the checksum first: a file without one is damaged."""
    sums = _checksums(folder) | {name: hashlib.sha256(data).hexdigest()}
    try:
        _write(folder / "checksums.json", json.dumps(sums, indent=1).encode())
        _write(folder / name, data)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder / name}: {error.strerror}") from None


def _read(folder: Path, step: int, suffix: str = ".pt") -> bytes:
    path = folder / _name(step, suffix)
    if not path.exists():
        raise CheckpointError(f"no checkpoint of step {step} in {folder}: there are {saved_steps(folder, suffix)}")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != _checksums(folder).get(path.name):
        raise CheckpointError(f"checkpoint {path} is damaged: delete {folder} and train again")
    return data


def _kept(config: RunConfig, folder: Path, step: int) -> tuple[Transformer, list[float]]:
    """Weights and losses that `keep` wrote."""
    data = _read(folder, step, KEPT)
    model = Transformer(config.model, seed=config.seed)
    try:
        state = safetensors.torch.load(data)
        losses = state.pop("losses").tolist()
        model.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})
    except (SafetensorError, KeyError, RuntimeError):
        path = folder / _name(step, KEPT)
        raise CheckpointError(f"checkpoint {path} is not one of this run: delete {folder} and train again") from None
    return model, losses


def _restore(config: RunConfig, folder: Path, step: int):
    data, path = _read(folder, step), folder / _name(step)
    model = Transformer(config.model, seed=config.seed)
    optimizer = optimiser(model, config.train)
    try:  # whole, yet not ours: weights_only refuses to run what a forged file carries
        state = torch.load(io.BytesIO(data), weights_only=True, map_location=config.model.device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        losses = state["losses"].tolist()
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, ValueError, AttributeError):
        raise CheckpointError(f"checkpoint {path} is not one of this run: delete {folder} and train again") from None
    return model, optimizer, losses


def _checksums(folder: Path) -> dict[str, str]:
    path = folder / "checksums.json"
    try:
        sums = json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        sums = None
    if not isinstance(sums, dict):
        raise CheckpointError(f"{path} is damaged: delete {folder} and train again")
    return sums


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: written beside, flushed, renamed."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
