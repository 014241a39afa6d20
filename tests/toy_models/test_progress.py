"""The progress bar: shown when asked for, and never a semaphore that an ended worker would leave behind."""

import subprocess
import sys

from toy_models.progress import progress


def test_the_bar_is_drawn_when_asked_for_and_the_items_pass_through(capsys):
    assert list(progress(range(3), "counting", True)) == [0, 1, 2]
    assert "counting" in capsys.readouterr().err
    assert list(progress(range(3), "counting", False)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_nobody_looks_at_a_pipe(capsys):
    assert list(progress(range(3), "counting")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_bar_makes_no_semaphore():
    code = (
        "from toy_models.progress import progress; from tqdm import tqdm; list(progress(range(2), 'x', True)); "
        "print(type(tqdm.get_lock()).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "RLock"
