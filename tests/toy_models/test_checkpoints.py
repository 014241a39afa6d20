import errno
import hashlib
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from toy_models import TransformerConfig, checkpoints
from toy_models.checkpoints import RunConfig, train_or_load
from toy_models.errors import CheckpointError, ConfigError, TrainingError
from toy_models.seeding import generator
from toy_models.tasks.fixed_period import FixedPeriod
from toy_models.tasks.repeated_blocks import RepeatedBlocks
from toy_models.train import TrainConfig

TASK = RepeatedBlocks(d_vocab=10, n_ctx=12, shortest=2, longest=4, held_out=())
RUN = RunConfig(
    model=TransformerConfig(n_layers=1, n_heads=2, d_model=16, d_vocab=10, n_ctx=12, d_mlp=0),
    task=TASK,
    train=TrainConfig(steps=6, batch_size=4, warmup=2, checkpoint_every=2),
)
STEPS = [0, 2, 4, 6]


@pytest.fixture
def sampled(monkeypatch) -> list[int]:
    """Counts the batches drawn: one per update that is really computed."""
    drawn, draw = [], RepeatedBlocks.sample
    monkeypatch.setattr(RepeatedBlocks, "sample", lambda *args: (drawn.append(len(drawn)), draw(*args))[1])
    return drawn


@pytest.fixture
def run(tmp_path):
    return train_or_load(RUN, tmp_path / "runs")


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def same_weights(one, other) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def forge(folder: Path, step: int, state: object) -> None:
    """Put something else in the place of a checkpoint, under a checksum that fits."""
    buffer, path = io.BytesIO(), folder / f"step-{step:06d}.pt"
    torch.save(state, buffer)
    path.write_bytes(buffer.getvalue())
    sums = json.loads((folder / "checksums.json").read_text())
    sums[path.name] = hashlib.sha256(buffer.getvalue()).hexdigest()
    (folder / "checksums.json").write_text(json.dumps(sums))


def refusal(act) -> str:
    with pytest.raises(CheckpointError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Train once, load ever after ----------------------------------------------------------------------


def test_a_run_is_trained_once_and_then_loaded_bit_for_bit(tmp_path, sampled):
    first = train_or_load(RUN, tmp_path)
    assert len(sampled) == 6
    before = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    again = train_or_load(RUN, tmp_path)
    assert len(sampled) == 6
    assert {path: path.stat().st_mtime_ns for path in again.folder.iterdir()} == before
    assert again.losses == first.losses
    assert len(first.losses) == 6
    assert same_weights(again.model, first.model)
    assert not again.model.training
    assert not first.model.training


def test_the_folder_holds_the_configuration_in_plain_words_and_the_checkpoints(run):
    assert run.folder.name == RUN.hash
    assert files(run.folder) == {"run.json", "checksums.json", *(f"step-{step:06d}.pt" for step in STEPS)}
    told = json.loads((run.folder / "run.json").read_text())
    assert told["task"] == {
        "kind": "RepeatedBlocks", "d_vocab": 10, "n_ctx": 12, "shortest": 2, "longest": 4, "held_out": []
    }  # fmt: skip
    assert told["train"]["steps"] == 6
    assert told["seed"] == 0


def test_every_checkpoint_is_the_model_of_its_step(run, tmp_path):
    assert run.steps == STEPS
    assert same_weights(run.at(6), run.model)
    assert not same_weights(run.at(4), run.model)
    # Two updates of the same schedule, on their own.
    watched = {}
    whole = checkpoints.Transformer(RUN.model, seed=RUN.seed)
    for step, _ in checkpoints.train(whole, TASK, RUN.train, seed=RUN.seed):
        watched[step] = {name: value.clone() for name, value in whole.state_dict().items()}
    for step in (2, 4, 6):
        assert all(torch.equal(value, watched[step][name]) for name, value in run.at(step).state_dict().items())


def test_checkpoints_are_those_asked_for_and_always_the_first_and_last(tmp_path):
    for every, expected in ((0, [0, 6]), (4, [0, 4, 6]), (100, [0, 6])):
        options = replace(RUN, train=replace(RUN.train, checkpoint_every=every))
        assert train_or_load(options, tmp_path).steps == expected


def test_a_step_without_a_checkpoint_is_refused_with_those_that_are_there(run):
    assert "no checkpoint of step 3" in refusal(lambda: run.at(3))
    assert "[0, 2, 4, 6]" in refusal(lambda: run.at(3))


# Interruption and resume --------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(6))
def test_a_run_interrupted_in_training_goes_on_to_the_same_bits(run, tmp_path, sampled, monkeypatch, step):
    draw = RepeatedBlocks.sample

    def interrupted(task, n, stream):
        if len(sampled) == step:
            raise KeyboardInterrupt
        return draw(task, n, stream)

    with monkeypatch.context() as during:
        during.setattr(RepeatedBlocks, "sample", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_or_load(RUN, tmp_path / "second")
    saved = [s for s in STEPS if s <= step]
    folder = tmp_path / "second" / RUN.hash
    assert files(folder) == {"run.json", "checksums.json", *(f"step-{s:06d}.pt" for s in saved)}
    sampled.clear()
    resumed = train_or_load(RUN, tmp_path / "second")
    assert len(sampled) == 6 - saved[-1]  # no update is repeated that had a checkpoint
    assert resumed.losses == run.losses
    assert same_weights(resumed.model, run.model)


@pytest.mark.parametrize("write", range(9))  # run.json, then checksums and checkpoint, four times
@pytest.mark.parametrize(("owner", "moment"), [(os, "fsync"), (Path, "replace")])
def test_a_run_interrupted_in_a_write_leaves_only_whole_files_and_goes_on(
    run, tmp_path, monkeypatch, owner, moment, write
):
    calls, act = [], getattr(owner, moment)

    def interrupted(*args):
        calls.append(args)
        if len(calls) == write + 1:
            raise KeyboardInterrupt
        return act(*args)

    with monkeypatch.context() as during:
        during.setattr(owner, moment, interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_or_load(RUN, tmp_path / "second")
    folder = tmp_path / "second" / RUN.hash
    assert not [name for name in files(folder) if name.endswith(".part")]
    for path in folder.glob("*.pt"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == json.loads((folder / "checksums.json").read_text()).get(
            path.name
        )
    resumed = train_or_load(RUN, tmp_path / "second")
    assert resumed.losses == run.losses
    assert same_weights(resumed.model, run.model)


def test_a_run_that_diverged_keeps_its_finite_checkpoints_and_says_so_again(tmp_path):
    options = replace(RUN, train=replace(RUN.train, lr=1e30, warmup=0))
    for _ in range(2):
        with pytest.raises(TrainingError, match="the loss is nan and its gradient's norm nan at step 1"):
            train_or_load(options, tmp_path)
    assert checkpoints.saved_steps(tmp_path / options.hash) == [0]


# Damage -------------------------------------------------------------------------------------------


def flip_a_byte(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "spoil", [flip_a_byte, lambda data: data[:-100], lambda data: b""], ids=["byte flipped", "truncated", "empty"]
)
def test_a_damaged_checkpoint_is_refused_by_its_name(run, spoil):
    last = run.folder / "step-000006.pt"
    last.write_bytes(spoil(last.read_bytes()))
    told = refusal(lambda: train_or_load(RUN, run.folder.parent))
    assert f"checkpoint {last} is damaged" in told
    assert f"delete {run.folder}" in told
    assert same_weights(run.at(4), run.at(4))  # the others can still be read


@pytest.mark.parametrize("text", ["{", "[]", "null", None], ids=["half", "a list", "null", "missing"])
def test_damaged_checksums_are_refused_by_a_name(run, text):
    path = run.folder / "checksums.json"
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    assert str(run.folder) in refusal(lambda: train_or_load(RUN, run.folder.parent))


class Bomb:
    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def test_a_pickle_that_runs_code_is_refused_unopened(run, tmp_path):
    marker = tmp_path / "exploded"
    forge(run.folder, 6, {"model": Bomb(marker)})
    told = refusal(lambda: train_or_load(RUN, run.folder.parent))
    assert not marker.exists()
    assert "step-000006.pt" in told


def test_a_checkpoint_of_another_model_is_refused_by_its_name(run):
    forge(run.folder, 6, {"model": {}, "optimizer": {}, "losses": torch.zeros(6)})
    assert "step-000006.pt" in refusal(lambda: train_or_load(RUN, run.folder.parent))


# Folders that cannot be written -------------------------------------------------------------------


def test_a_root_that_is_a_file_is_refused_by_its_name(tmp_path):
    (tmp_path / "file").touch()
    assert f"cannot write checkpoints to {tmp_path / 'file'}" in refusal(lambda: train_or_load(RUN, tmp_path / "file"))


@pytest.mark.parametrize("write", range(3))
def test_a_full_disk_is_told_in_one_line_and_leaves_no_half_file(tmp_path, monkeypatch, write):
    writes = []

    def full(descriptor):
        writes.append(descriptor)
        if len(writes) == write + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert refusal(lambda: train_or_load(RUN, tmp_path)).endswith(os.strerror(errno.ENOSPC))
    assert not [name for name in files(tmp_path / RUN.hash) if name.endswith(".part")]


# Configuration ------------------------------------------------------------------------------------


def test_every_option_changes_the_address():
    train_changes = {
        "steps": 7, "batch_size": 5, "lr": 0.02, "warmup": 3, "decay": 0.3, "weight_decay": 0.1,
        "betas": (0.9, 0.99), "clip": 2.0, "checkpoint_every": 3,
    }  # fmt: skip
    assert train_changes.keys() == TrainConfig.__dataclass_fields__.keys()
    changed = [
        RUN,
        replace(RUN, seed=1),
        replace(RUN, task=replace(TASK, longest=5)),
        replace(RUN, task=FixedPeriod(d_vocab=10, n_ctx=12, shortest=2, longest=4)),
        replace(RUN, model=replace(RUN.model, position="rope")),
        replace(RUN, model=replace(RUN.model, smeared_keys=True)),
        replace(RUN, model=replace(RUN.model, dtype=torch.float64)),
        *(replace(RUN, train=replace(RUN.train, **{name: value})) for name, value in train_changes.items()),
    ]
    assert len({options.hash for options in changed}) == len(changed)


def test_equal_configurations_share_an_address():
    twin = RunConfig(model=replace(RUN.model), task=replace(TASK), train=replace(RUN.train), seed=0)
    assert twin.hash == RUN.hash
    assert len(RUN.hash) == 12


@pytest.mark.parametrize("small", [{"d_vocab": 9}, {"n_ctx": 11}])
def test_a_model_too_small_for_its_task_is_refused_with_both_sizes(small):
    model = TransformerConfig(**({"n_layers": 1, "n_heads": 1, "d_model": 4, "d_vocab": 10, "n_ctx": 12} | small))
    with pytest.raises(ConfigError, match=r"d_vocab >= 10 and n_ctx >= 12; the model has (9 and 12|10 and 11)"):
        RunConfig(model=model, task=TASK)


def test_seeds_give_models_of_their_own(tmp_path):
    zero, one = (train_or_load(replace(RUN, seed=seed), tmp_path) for seed in (0, 1))
    assert zero.folder != one.folder
    assert not same_weights(zero.at(0), one.at(0))
    tokens = TASK.sample(2, generator(0)).tokens
    assert not torch.equal(zero.model(tokens), one.model(tokens))
