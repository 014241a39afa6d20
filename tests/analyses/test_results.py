import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyses.core import results, tables
from analyses.core.results import Result, ResultError, config_hash, load, save

RUN = {"study": "doubling", "config": {"b": 1, "a": {"c": [0, 1]}}, "profile": "quick"}

COLUMNS = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "int8": st.integers(-128, 127),
    "bool": st.booleans(),
    "float64": st.floats(),
    "float32": st.floats(width=32),
    "str": st.text(),
}


def result(**more):
    table = pd.DataFrame({"seed": [0, 1], "y": [0.1, float("nan")], "name": ["a", "b"]})
    return Result(table, {"map": np.arange(6.0).reshape(2, 3), "mask": np.array([True])}, {"device": "cpu"}, **more)


@st.composite
def frames(draw):
    rows = draw(st.integers(0, 4))
    kinds = draw(st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, max_size=4))
    columns = {}
    for number, kind in enumerate(kinds):
        values = draw(st.lists(COLUMNS[kind], min_size=rows, max_size=rows))
        columns[f"c{number}, {kind}"] = pd.Series(values, dtype=kind)
    return pd.DataFrame(columns)


@given(frames())
def test_a_table_comes_back_from_csv_with_its_values_and_types(table):
    found = tables.decode(tables.encode(table), tables.dtypes(table))
    pd.testing.assert_frame_equal(found, table, check_exact=True)
    for name, column in table.items():
        if column.dtype.kind == "f":
            assert (np.signbit(found[name]) == np.signbit(column))[~column.isna()].all()


@given(st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()))
def test_the_hash_of_a_config_does_not_depend_on_the_order_of_its_keys(config):
    backwards = dict(reversed(config.items()))
    assert config_hash("s", {"outer": config, "x": 1}) == config_hash("s", {"x": 1, "outer": backwards})


def test_the_hash_of_a_config_depends_on_study_keys_and_values():
    assert len({config_hash(s, {k: v}) for s in "ab" for k in "ab" for v in (1, 2, 1.5, True, None, "1")}) == 24


def test_a_config_that_json_cannot_hold_has_no_hash():
    with pytest.raises(ResultError, match="the config of s does not fit JSON"):
        config_hash("s", {"x": object()})


def test_a_saved_result_loads_as_it_was(tmp_path):
    saved = save(result(), tmp_path / "deep" / "er", RUN)
    for found in (saved, load(tmp_path / "deep" / "er")):
        pd.testing.assert_frame_equal(found.table, result().table, check_exact=True)
        assert {name: array.tolist() for name, array in found.arrays.items()} == {
            "map": [[0, 1, 2], [3, 4, 5]],
            "mask": [True],
        }
        assert found.arrays["mask"].dtype == bool
        assert found.measured_with == {"device": "cpu"}
        assert found.run.items() >= {**RUN, "device": "cpu"}.items()
        assert found.id == f"doubling/{config_hash('doubling', RUN['config'])[:8]}"
    assert sorted(os.listdir(tmp_path / "deep" / "er")) == ["arrays.npz", "run.json", "table.csv"]
    assert os.listdir(tmp_path / "deep") == ["er"]


def test_the_same_result_gives_the_same_bytes_whatever_the_order_of_its_arrays(tmp_path, monkeypatch):
    save(result(), tmp_path / "a", RUN)
    turned = Result(result().table, dict(reversed(result().arrays.items())), result().measured_with)
    monkeypatch.setattr("time.time", lambda: 2e9)
    save(turned, tmp_path / "b", RUN)
    for name in os.listdir(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_unsaved_result_has_no_id():
    with pytest.raises(ResultError, match="once it was saved"):
        _ = result().id


@pytest.mark.parametrize("name", ["table.csv", "arrays.npz"])
def test_a_damaged_file_is_named_by_its_hash(tmp_path, name):
    save(result(), tmp_path / "a", RUN)
    content = bytearray((tmp_path / "a" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a" / name).write_bytes(content)
    with pytest.raises(ResultError, match=rf"{name} is damaged, its sha256 is not the one in run\.json"):
        load(tmp_path / "a")


@pytest.mark.parametrize("name", ["table.csv", "arrays.npz", "run.json"])
def test_a_missing_file_is_named(tmp_path, name):
    save(result(), tmp_path / "a", RUN)
    (tmp_path / "a" / name).unlink()
    with pytest.raises(ResultError, match=f"{name} is missing"):
        load(tmp_path / "a")


@pytest.mark.parametrize("damage", [lambda text: text[:50], lambda text: "[]", lambda text: "{}", lambda text: "\x00"])
def test_a_damaged_run_file_is_named(tmp_path, damage):
    save(result(), tmp_path / "a", RUN)
    path = tmp_path / "a" / "run.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(ResultError, match=r"run\.json is damaged, it cannot be read"):
        load(tmp_path / "a")


def test_a_config_changed_after_saving_is_noticed(tmp_path):
    save(result(), tmp_path / "a", RUN)
    path = tmp_path / "a" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"config": {"b": 2}}))
    with pytest.raises(ResultError, match=r"run\.json is damaged, its config does not have the hash"):
        load(tmp_path / "a")


@pytest.mark.parametrize("stop", ["fsync", "rename"])
def test_an_interrupted_save_leaves_nothing_new_and_the_older_result_whole(tmp_path, monkeypatch, stop):
    save(result(), tmp_path / "old" / "a", RUN)
    before = (tmp_path / "old" / "a" / "run.json").read_bytes()
    real, calls = {"fsync": os.fsync, "rename": os.rename}[stop], []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, stop, interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(result(), tmp_path / "old" / "a", {**RUN, "profile": "full"})
    assert os.listdir(tmp_path / "old") == ["a"]
    assert (tmp_path / "old" / "a" / "run.json").read_bytes() == before
    load(tmp_path / "old" / "a")

    calls[:] = [None] if stop == "rename" else []
    with monkeypatch.context() as patch:
        patch.setattr(os, stop, interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(result(), tmp_path / "new" / "a", RUN)
    assert os.listdir(tmp_path / "new") == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match=r"cannot write .*file/a"):
        save(result(), tmp_path / "file" / "a", RUN)
    with pytest.raises(ResultError, match="cannot write results to"):
        results.check_writable(tmp_path / "file" / "deep" / "results")
    results.check_writable(tmp_path / "not" / "yet")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "column",
    [pd.Series(["a", None]), pd.Series([1, "a"]), pd.to_datetime(pd.Series(["2020-01-01"])), pd.Series([1 + 2j])],
)
def test_a_column_that_would_not_come_back_is_refused_by_name(tmp_path, column):
    with pytest.raises(ResultError, match="column 'odd' is "):
        save(Result(pd.DataFrame({"odd": column})), tmp_path / "a", RUN)
    assert os.listdir(tmp_path) == []


def test_two_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(ResultError, match="column 'x': each column needs a name of its own"):
        save(Result(pd.DataFrame([[1, 2]], columns=["x", "x"])), tmp_path / "a", RUN)


def test_an_array_of_objects_is_refused_by_name(tmp_path):
    odd = Result(result().table, {"odd": np.array([{}])})
    with pytest.raises(ResultError, match="array 'odd' holds Python objects"):
        save(odd, tmp_path / "a", RUN)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"study": "s"}, "needs `config`"),
        ({**RUN, "device": "cuda"}, "device twice"),
        ({**RUN, "files": {}}, "files twice"),
        ({**RUN, "config_hash": "0"}, "not 0"),
        ({**RUN, "columns": {"seed": "", "y": ""}}, "differ in name"),
        ({**RUN, "columns": {"seed": "", "y": "", "name": "", "z": ""}}, "differ in z"),
        ({**RUN, "seconds": float("nan")}, "cannot save"),
    ],
)
def test_a_run_that_does_not_describe_its_result_is_refused(tmp_path, run, message):
    with pytest.raises(ResultError, match=message):
        save(result(), tmp_path / "a", run)
    assert os.listdir(tmp_path) == []


def test_a_result_is_found_by_its_id_and_by_its_profile(tmp_path):
    folders = {}
    for number, profile in enumerate(["quick", "quick", "full"]):
        config = {"number": number}
        folder = results.result_folder("s", config_hash("s", config), tmp_path)
        saved = save(result(), folder, {"study": "s", "config": config, "profile": profile})
        os.utime(folder / "run.json", ns=(0, number))
        folders[number] = folder
        assert results.find_result(saved.id, tmp_path) == folder
    assert results.latest_result("s", "quick", tmp_path) == folders[1]
    assert results.latest_result("s", "full", tmp_path) == folders[2]
    with pytest.raises(ResultError, match="'s/' is no result id"):
        results.find_result("s/", tmp_path)
    with pytest.raises(ResultError, match=r"no results in .* have the id 's/zz': there is s/"):
        results.find_result("s/zz", tmp_path)
    with pytest.raises(results.NoResultError, match=r"no quick result of t in .*workbench run t --profile quick"):
        results.latest_result("t", "quick", tmp_path)


def test_a_copied_result_is_verified_and_replaces_the_older_one(tmp_path):
    save(result(), tmp_path / "a", RUN)
    save(result(), tmp_path / "b", {**RUN, "profile": "full"})
    results.copy(tmp_path / "a", tmp_path / "b")
    assert load(tmp_path / "b").run == load(tmp_path / "a").run
    (tmp_path / "a" / "table.csv").write_text("")
    with pytest.raises(ResultError, match=r"table\.csv is damaged"):
        results.copy(tmp_path / "a", tmp_path / "c")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_result_shows_itself_in_jupyter_with_its_text_escaped(tmp_path):
    unsaved = result()._repr_html_()
    shown = save(result(), tmp_path / "a", {**RUN, "config": {"name": "<b>"}})._repr_html_()
    assert "not saved" in unsaved
    assert "doubling/" in shown
    assert "quick" in shown
    assert "&lt;b&gt;" in shown
    assert "<table" in shown


def test_results_are_read_without_torch():
    code = "import sys; import analyses.core.results; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
