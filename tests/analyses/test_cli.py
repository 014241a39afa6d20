import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from analyses.core import results

RUN_KEYS = {
    *("study", "profile", "config", "config_hash", "columns", "commit", "diff", "versions", "platform", "files"),
    *("device", "dtype", "backend", "seeds", "seconds", "cpu_seconds", "peak_memory_mb"),
}


def test_the_studies_are_listed_with_their_results(call, studies, folder_of):
    assert "Does doubling double?" in call("list").stdout
    assert "yes" not in call("list").stdout
    call("run", "doubling", "--profile", "quick")
    assert call("list").stdout.count("yes") == 1
    (folder_of(studies) / "run.json").write_text("{")
    assert "damaged" in call("list").stdout


def test_a_run_is_saved_with_its_provenance_and_found_again(call, studies, folder_of):
    first = call("run", "doubling", "--set", "model.factor=3", "--seeds", "2", "--device", "none")
    assert (first.exit_code, "new" in first.stdout) == (0, True)
    found = results.load(folder_of(studies))
    assert found.table.y.tolist() == [3.0, 6.0, 9.0, 12.0] * 2
    assert found.run["config"] == {"model": {"factor": 3.0}, "points": 4, "seeds": [0, 1], "device": "none"}
    assert folder_of(studies).name == results.config_hash("doubling", found.run["config"])
    assert set(found.run) >= RUN_KEYS
    assert (found.run["profile"], found.run["device"], found.run["dtype"]) == ("custom", "none", "float64")
    before = (folder_of(studies) / "run.json").read_bytes()
    second = call("run", "doubling", "--set", "model.factor=3", "--seeds", "0,1", "--device", "none")
    assert "found" in second.stdout
    assert (folder_of(studies) / "run.json").read_bytes() == before
    assert "new" in call("run", "doubling", "--set=model.factor=3", "--seeds=2", "--device=none", "--again").stdout


def test_a_result_found_at_another_commit_is_called_so(call, studies, monkeypatch):
    call("run", "doubling")
    now = {"commit": "0123456789", "diff": None, "untracked": {}}
    monkeypatch.setattr("analyses.core.provenance.source", lambda root: now)
    assert "found, made at no commit" in call("run", "doubling").stdout
    call("run", "doubling", "--again")
    assert call("run", "doubling").stdout.rstrip().splitlines()[-2].split("│")[-2].strip() == "found"
    now["diff"] = "+1"
    assert "found, made before files changed" in call("run", "doubling").stdout


def test_the_result_that_was_asked_for_last_is_the_latest_of_its_profile(call, studies, folder_of):
    call("run", "doubling", "--profile", "quick")
    folder = folder_of(studies)
    os.utime(folder / "run.json", ns=(0, 0))
    call("run", "doubling", "--profile", "quick")
    assert (folder / "run.json").stat().st_mtime_ns > 0


def test_all_studies_run_in_one_command(call, studies):
    studies.add(
        "trebling", (studies.root / "analyses/made_up/doubling.py").read_text().replace("doubling double", "it")
    )
    answer = call("run", "--all", "--profile", "quick")
    assert "[2/2] trebling (quick): Does it?" in answer.stderr
    assert sorted(os.listdir(studies.results)) == ["doubling", "trebling"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dubling"], "unknown study 'dubling': did you mean 'doubling'?"),
        (["doubling", "--set", "points=many"], "doubling: points=many: expected int"),
        (["doubling", "--set", "model.facto=1"], "the nearest known one is 'model.factor'"),
        (["doubling", "--set", "model.factor=0"], "doubling: factor=0 loses everything: choose another"),
        (["doubling", "--seeds", "some"], "--seeds some: give how many, such as 5, or which, such as 0,3,7"),
        (["doubling", "--seeds", "0"], "--seeds 0: give"),
        (["doubling", "--seeds", "1,1"], "--seeds 1,1: give"),
        (["doubling", "--results", "/dev/null/results"], "cannot write results to /dev/null/results"),
    ],
)
def test_a_run_that_cannot_be_is_one_line_and_writes_nothing(call, studies, arguments, message, one_line):
    assert message in one_line(call("run", *arguments))
    assert not studies.results.exists()


def test_a_study_without_seeds_says_so(call, studies, one_line):
    text = (studies.root / "analyses/made_up/doubling.py").read_text()
    studies.add(
        "seedless", text.replace("    seeds: tuple[int, ...] = (0, 1, 2)\n", "").replace(', "seeds": (0, 1)', "")
    )
    assert "seedless: unknown key 'seeds'" in one_line(call("run", "seedless", "--seeds", "2"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "doubling", "--all"],
        ["figure"],
        ["run", "doubling", "--set", "points"],
        ["run", "--bad"],
        ["no"],
    ],
)
def test_a_command_that_makes_no_sense_is_a_usage_error(call, arguments):
    answer = call(*arguments)
    assert answer.exit_code == 2
    assert "Usage:" in answer.stderr


def test_a_damaged_result_is_named_with_the_way_out(call, studies, folder_of):
    call("run", "doubling")
    (folder_of(studies) / "table.csv").write_text("x\n")
    message = one_line_after_progress(call("run", "doubling"))
    assert "table.csv is damaged, its sha256 is not the one in run.json" in message
    assert "workbench run doubling --again" in message
    assert call("run", "doubling", "--again").exit_code == 0
    assert call("run", "doubling").exit_code == 0


def one_line_after_progress(answer):
    lines = answer.stderr.splitlines()
    assert answer.exit_code == 2
    assert [line.startswith("workbench: ") for line in lines] == [False, True]
    return lines[-1]


def test_an_error_of_another_floor_that_carries_an_exit_code_is_one_line_and_a_bug_keeps_its_traceback(call, studies):
    text = (studies.root / "analyses/made_up/doubling.py").read_text()
    body = "def run(config):\n    error = RuntimeError('loss is nan:\\n lower lr')\n"
    studies.add("told", text[: text.index("def run")] + body + "    error.exit_code = 4\n    raise error\n")
    studies.add("bug", text[: text.index("def run")] + body + "    raise error\n")
    answer = call("run", "told")
    assert (answer.exit_code, answer.stderr.splitlines()[-1]) == (4, "workbench: loss is nan: lower lr")
    with pytest.raises(RuntimeError, match="loss is nan"):
        call("run", "bug")
    assert not studies.results.exists()


def test_a_result_is_shown_with_its_provenance_config_and_columns(call, studies, one_line):
    call("run", "doubling")
    call("run", "doubling", "--profile", "quick")
    identifier = f"doubling/{next((studies.results / 'doubling').iterdir()).name[:8]}"
    for arguments in (["doubling", "--from", "full"], ["doubling", "--from", "quick"], [identifier]):
        shown = call("show", *arguments).stdout
        for text in ("doubling/", "float64", "model.factor", "number before (1)", "1 to ", "commit"):
            assert text in shown
    assert "no kept result of doubling" in one_line(call("show", "doubling"))
    assert "unknown study 'doublin'" in one_line(call("show", "doublin/123"))
    assert "no results in" in one_line(call("show", "doubling/zzz"))
    assert "no result of doubling" in one_line(call("show", "doubling", "--from", "most"))


def test_help_needs_nothing_heavy():
    code = (
        "import sys; from analyses.core.cli import main; main(['--help'], standalone_mode=False);"
        "sys.exit(' '.join({'torch', 'transformer_lens', 'pandas', 'numpy', 'rich'} & set(sys.modules)) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_help_takes_less_than_three_tenths_of_a_second_of_processor_time():
    def seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-c", "from analyses.core.cli import main; main(['--help'])"], capture_output=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.3


SLOW = '''"""Does it end?"""
import time
from analyses.core.sweep import run_jobs
from analyses.made_up.doubling import CLAIMS, COLUMNS, QUICK, Config

def run(config):
    run_jobs(time.sleep, [60, 60, 60], workers=2, label="waiting")
'''
COMMAND = """
import sys, pathlib, analyses
from analyses.core import cli, results
root = pathlib.Path(sys.argv[1])
analyses.__path__.insert(0, str(root / "analyses"))
results.project_root = lambda: root
cli.main(["run", "slow"])
"""


@pytest.mark.parametrize("delay", [0.0, 2.5])
def test_ctrl_c_is_one_line_without_traceback_and_leaves_no_folder(studies, delay):
    """A terminal sends it to every process at once: while workers start, and while they work."""
    studies.add("slow", SLOW)
    command = [sys.executable, "-c", COMMAND, str(studies.root)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    started = [process.stderr.readline() for _ in range(2)]
    assert started[1] == "waiting: 3 jobs\n"
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr == (
        "interrupted: nothing is half-written; run the same command again (whole checkpoints, if any, are taken up)\n"
    )
    assert not studies.results.exists()
