"""The text task: windows of real bytes, split by file, the same for the same contents."""

import pickle
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from scipy.stats import chi2

from toy_models.errors import ConfigError
from toy_models.seeding import generator
from toy_models.tasks.text import BOS, Text

SENTENCES = [f"def f{i}(x):\n    return x + {i}\n" * (i + 1) for i in range(20)]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twenty files, two of them with the same content, at two depths; and one that is no source."""
    (tmp_path / "deep").mkdir()
    for i, text in enumerate(SENTENCES):
        (tmp_path / ("deep" if i % 2 else "") / f"f{i}.py").write_text(text)
    (tmp_path / "copy_of_3.py").write_text(SENTENCES[3])
    (tmp_path / "empty.py").touch()
    (tmp_path / "notes.txt").write_text("not a source " * 40)
    return tmp_path


def text_of(task: Text) -> bytes:
    return bytes(task.text.tolist())


# What a window is -----------------------------------------------------------------------------------


def test_a_window_is_bos_and_a_piece_of_the_text_and_its_targets_are_the_next_bytes(folder):
    task = Text(n_ctx=12, path=str(folder))
    batch = task.sample(64, generator(0, "data"))
    assert (batch.tokens[:, 0] == BOS).all()
    assert torch.equal(batch.targets[:, :-1], batch.tokens[:, 1:])
    assert batch.scored.all()
    whole = text_of(task)
    assert all(bytes(targets) in whole for targets in batch.targets.tolist())


def test_bos_is_no_byte_and_every_byte_is_its_own_id(tmp_path):
    path = tmp_path / "all_bytes"
    path.write_bytes(bytes(range(256)) * 2)
    task = Text(n_ctx=256, path=str(path), held_out_share=0.25)
    targets = task.sample(4, generator(0, "data")).targets
    assert {*targets[0].tolist()} == {*range(256)}
    assert BOS == task.d_vocab - 1 == 256


def test_every_start_is_equally_likely_the_last_one_included(tmp_path):
    path = tmp_path / "letters"
    path.write_bytes(b"abcdefghijXX")
    task, n = Text(n_ctx=3, path=str(path), held_out_share=1 / 6 - 1e-9), 4000
    counts = (task.sample(n, generator(0, "data")).targets[:, 0] - ord("a")).bincount().double()
    assert len(counts) == 8  # "abc" to "hij"
    expected = n / 8
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-6, 7)


def test_a_text_of_just_one_window_gives_that_window(tmp_path):
    path = tmp_path / "short"
    path.write_bytes(b"abcdefgh")
    task = Text(n_ctx=4, path=str(path), held_out_share=0.5)
    assert bytes(task.sample(1, generator(0, "data")).targets[0].tolist()) == b"abcd"
    assert bytes(task.held_out().sample(1, generator(0, "data")).targets[0].tolist()) == b"efgh"


# Which text -----------------------------------------------------------------------------------------


def test_no_file_nor_a_copy_of_it_serves_both_training_and_test(folder):
    task = Text(n_ctx=8, path=str(folder), held_out_share=0.3)
    training, held_out = text_of(task), text_of(task.held_out())
    for text in map(str.encode, SENTENCES):
        assert (text in training) != (text in held_out)  # each file whole, on one side
    assert len(training) + len(held_out) == sum(map(len, SENTENCES))  # the copy counts once
    assert 0.3 <= len(held_out) / (len(training) + len(held_out)) <= 0.3 + max(map(len, SENTENCES)) / len(training)


def test_the_digest_knows_the_contents_and_neither_their_names_nor_their_place(folder, tmp_path_factory):
    task = Text(n_ctx=8, path=str(folder))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for i, text in enumerate(SENTENCES):
        (elsewhere / f"renamed_{i}.py").write_text(text)
    moved = Text(n_ctx=8, path=str(elsewhere))
    assert task.text_digest == task.held_out().text_digest == moved.text_digest
    assert text_of(task) == text_of(moved)
    (elsewhere / "renamed_0.py").write_text("changed = True\n")
    assert Text(n_ctx=8, path=str(elsewhere)).text_digest != task.text_digest


def test_a_pinned_task_reads_its_own_text_and_refuses_another(folder):
    pinned = Text(n_ctx=8, path=str(folder)).pinned()
    assert text_of(pinned) == text_of(Text(n_ctx=8, path=str(folder)))
    assert pinned.held_out().digest == pinned.digest
    (folder / "f0.py").write_text("changed = True\n")
    with pytest.raises(ConfigError, match=rf"not {pinned.digest}: it has changed") as caught:
        Text(n_ctx=8, path=str(folder), digest=pinned.digest).sample(1, generator(0, "data"))
    assert "\n" not in str(caught.value)


def test_other_files_of_a_folder_are_read_when_asked_for(folder):
    assert b"not a source" not in text_of(Text(n_ctx=8, path=str(folder)))
    assert set(text_of(Text(n_ctx=8, path=str(folder), files="*.txt")).split()) <= {b"not", b"a", b"source", b"sour"}


def test_the_default_is_the_standard_library_without_its_tests_and_without_what_is_of_this_machine():
    task = Text()
    whole = text_of(task) + text_of(task.held_out())
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    assert (stdlib / "dataclasses.py").read_bytes() in whole
    assert sys.base_prefix.encode() not in whole  # build settings would make the digest this machine's own
    if (stdlib / "test" / "test_abc.py").is_file():
        assert (stdlib / "test" / "test_abc.py").read_bytes() not in whole
    assert 0.1 <= len(task.held_out().text) / len(whole) < 0.2
    assert task.text.dtype == torch.uint8


def test_the_text_is_read_once_by_an_object_and_travels_between_processes_as_options(folder):
    task = Text(n_ctx=8, path=str(folder))
    assert task.text is task.text
    assert len(pickle.dumps(task)) < 1000
    arrived = pickle.loads(pickle.dumps(task))
    assert arrived == task
    assert torch.equal(arrived.text, task.text)


# What is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"n_ctx": 1}, "n_ctx=1 must be a whole number of at least 2"),
        ({"n_ctx": True}, "n_ctx=True must be a whole number"),
        ({"held_out_share": 0.0}, "held_out_share=0.0 must lie between 0 and 1"),
        ({"held_out_share": float("nan")}, "held_out_share=nan must lie"),
        ({"part": "test"}, "part='test' must be 'training' or 'held out'"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_the_values(options, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        Text(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"path": "nowhere"}, "no text at .*nowhere: there is no such file or folder"),
        ({"files": "*.rs"}, r"no file '\*.rs' in it has any text"),
        ({"files": "/*.py"}, "cannot read the text of"),
        ({"path": "empty.py"}, "has any text"),
        ({"n_ctx": 100_000}, r"training text of .* has \d+ bytes, fewer than n_ctx=100000"),
        ({"path": "f0.py", "n_ctx": 20, "part": "held out"}, r"held out text of .* has 3 bytes, fewer than n_ctx=20"),
    ],
)
def test_a_text_that_is_missing_empty_or_too_short_is_refused_in_one_line(folder, options, complaint):
    path = str(folder / options.get("path", "."))
    with pytest.raises(ConfigError, match=complaint) as caught:
        Text(**{"n_ctx": 8, **options, "path": path}).sample(2, generator(0, "data"))
    assert "\n" not in str(caught.value)
