import platform
import subprocess
import sys
import time

import pytest

from analyses.core import provenance


@pytest.fixture
def repository(tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / "figures" / "data").mkdir(parents=True)
    (tmp_path / "figures" / "data" / "table.csv").write_text("1\n")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    return tmp_path, git


def test_a_clean_checkout_has_a_commit_and_no_diff(repository):
    root, git = repository
    assert provenance.source(root) == {"commit": git("rev-parse", "HEAD").strip(), "diff": None, "untracked": {}}


def test_a_changed_or_new_source_file_is_recorded_but_no_kept_result(repository):
    root, _ = repository
    (root / "code.py").write_text("x = 2\n")
    (root / "new.py").write_text("y = 3\n")
    (root / "figures" / "data" / "table.csv").write_text("2\n")
    found = provenance.source(root)
    assert "+x = 2" in found["diff"]
    assert "table.csv" not in found["diff"]
    assert list(found["untracked"]) == ["new.py"]


@pytest.mark.parametrize("where", ["outside", "inside", "unborn"])
def test_a_project_that_is_no_repository_of_its_own_has_no_commit(tmp_path, repository, where):
    folder = {"outside": tmp_path.parent / f"{tmp_path.name}-apart", "inside": tmp_path / "sub"}.get(where)
    folder = folder or tmp_path.parent / f"{tmp_path.name}-unborn"
    folder.mkdir()
    if where == "unborn":
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    assert provenance.source(folder) == {"commit": None, "diff": None, "untracked": {}}


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.source(tmp_path)["commit"] is None


def test_a_run_is_recorded_with_its_cost(tmp_path):
    with provenance.recorded(tmp_path) as run:
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        time.sleep(0.1)
        subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.2: pass"], check=True)
    assert run["seconds"] >= 0.3
    assert run["cpu_seconds"] >= 0.25 - 0.02  # getrusage counts in ticks
    assert run["peak_memory_mb"] > 10
    assert run["versions"]["python"] == platform.python_version()
    assert run["versions"]["torch"].startswith("2.")


def test_a_package_that_is_missing_has_no_version(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-package",))
    assert provenance.versions()["no-such-package"] is None
