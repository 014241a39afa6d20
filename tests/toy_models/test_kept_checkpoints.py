"""Trained weights that are handed on: read in place of training, the same bits, a third of the size, or refused."""

import pytest
import torch

from tests.toy_models.test_checkpoints import RUN, files, refusal, same_weights
from toy_models.checkpoints import keep, train_or_load
from toy_models.tasks.repeated_blocks import RepeatedBlocks


@pytest.fixture
def run(tmp_path):
    return train_or_load(RUN, tmp_path / "runs")


@pytest.fixture
def untrainable(run, monkeypatch):
    def refuse(*args):
        raise AssertionError("a batch was drawn")

    monkeypatch.setattr(RepeatedBlocks, "sample", refuse)


def test_a_kept_run_is_read_and_not_trained(run, tmp_path, untrainable):
    folder = keep(run, tmp_path / "kept", (2,))
    again = train_or_load(RUN, tmp_path / "none", kept=tmp_path / "kept")
    assert not (tmp_path / "none").exists()
    assert again.folder == folder
    assert again.steps == [0, 2, 6]
    assert same_weights(again.model, run.model)
    for step in again.steps:
        assert same_weights(again.at(step), run.at(step))
    assert torch.tensor(again.losses).tolist() == pytest.approx(run.losses, rel=1e-6)  # kept in single precision
    assert not again.model.training


def test_a_run_that_is_not_kept_is_trained(run, tmp_path):
    (tmp_path / "kept").mkdir()
    assert train_or_load(RUN, tmp_path / "other", kept=tmp_path / "kept").folder == tmp_path / "other" / RUN.hash


def test_a_kept_run_without_a_step_that_is_asked_for_is_not_read(run, tmp_path):
    folder = keep(run, tmp_path / "kept", (2,))
    assert train_or_load(RUN, tmp_path / "runs", kept=folder.parent, steps=(0, 2)).folder == folder
    assert train_or_load(RUN, tmp_path / "runs", kept=folder.parent, steps=(4,)).folder == run.folder


def test_a_kept_run_has_weights_alone(run, tmp_path):
    folder = keep(run, tmp_path / "kept")
    assert files(folder) == {"run.json", "checksums.json", "step-000006.safetensors"}
    whole = run.folder / "step-000006.pt"
    assert (folder / "step-000006.safetensors").stat().st_size < whole.stat().st_size / 2


def test_a_step_without_a_checkpoint_cannot_be_kept(run, tmp_path):
    assert "no checkpoint of step 3" in refusal(lambda: keep(run, tmp_path / "kept", (3,)))


def test_a_kept_file_that_was_changed_is_refused_by_its_name(run, tmp_path):
    path = keep(run, tmp_path / "kept") / "step-000006.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    said = refusal(lambda: train_or_load(RUN, tmp_path / "none", kept=tmp_path / "kept"))
    assert "step-000006.safetensors is damaged" in said
