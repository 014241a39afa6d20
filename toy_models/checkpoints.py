"""Training runs on disk, addressed by the hash of their configuration.

A run's folder holds `run.json` (the configuration in plain words), one `step-000200.pt` per checkpoint
(weights, optimizer, losses so far) and `checksums.json`.  Every file is written beside and renamed, so
an interrupted run leaves only whole checkpoints, and the next call goes on from the last one.
"""

import hashlib
import io
import json
import os
import pickle
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from toy_models.canonical import digest, plain
from toy_models.config import TransformerConfig
from toy_models.errors import CheckpointError, ConfigError
from toy_models.train import TrainConfig, optimiser, train
from toy_models.transformer import Transformer


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
        return _restore(self.config, self.folder, step)[0]

    @property
    def steps(self) -> list[int]:
        """The updates that have a checkpoint."""
        return saved_steps(self.folder)


def train_or_load(config: RunConfig, root: Path | str, *, show_progress: bool | None = None) -> TrainedRun:
    """The trained model of `config`: from disk if it is there, else trained, from the last checkpoint on.

    Raises:
        CheckpointError: a damaged checkpoint (named), or a folder that cannot be written.
        TrainingError: the loss stopped being finite.
    """
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


def saved_steps(folder: Path) -> list[int]:
    """The steps whose checkpoints are in the folder, in order."""
    return sorted(int(p.stem.removeprefix("step-")) for p in folder.glob("step-[0-9]*.pt"))


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


def _name(step: int) -> str:
    return f"step-{step:06d}.pt"


def _save(folder: Path, step: int, model: Transformer, optimizer, losses: list[float]) -> None:

    buffer = io.BytesIO()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": torch.tensor(losses).double()}
    torch.save(state, buffer)
    sums = _checksums(folder) | {_name(step): hashlib.sha256(buffer.getbuffer()).hexdigest()}
    try:
        _write(folder / "checksums.json", json.dumps(sums, indent=1).encode())
        _write(folder / _name(step), buffer.getvalue())
    except OSError as error:
        raise CheckpointError(f"cannot write {folder / _name(step)}: {error.strerror}") from None


def _restore(config: RunConfig, folder: Path, step: int):
    path = folder / _name(step)
    if not path.exists():
        raise CheckpointError(f"no checkpoint of step {step} in {folder}: there are {saved_steps(folder)}")
    damaged = f"checkpoint {path} is damaged: delete {folder} and train again"
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != _checksums(folder).get(path.name):
        raise CheckpointError(damaged)

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
