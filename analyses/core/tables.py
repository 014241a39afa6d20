"""Tables and arrays as bytes: what is read back equals what was written, bit for bit."""

import csv
import io
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd


def dtypes(table: pd.DataFrame) -> dict[str, str]:
    """Name the kind of every column: "bool", "int64", "float32", ..., or "str".

    Raises:
        TypeError: a column's name is no string, is used twice, or the column is of a kind that a CSV cannot hold.
    """
    names = list(table.columns)
    for name in names:
        if not isinstance(name, str) or names.count(name) > 1:
            raise TypeError(f"column {name!r}: each column needs a name of its own")
    return {name: _dtype(name, table[name]) for name in names}


def _dtype(name: str, column: pd.Series) -> str:
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf":
        return column.dtype.name
    # An empty column of strings has nothing to tell its kind by; pandas calls it "empty".
    if pd.api.types.infer_dtype(column, skipna=False) in ("string", "empty") and not column.hasnans:
        return "str"
    raise TypeError(f"column {name!r} is {column.dtype}: a table holds bools, ints, floats and strings, none missing")


def encode(table: pd.DataFrame) -> bytes:
    """Write a table as CSV, its strings quoted, each float as the shortest decimal of its exact value."""
    kinds = dtypes(table)
    # A float32 is written as the float64 that equals it: reading a short float32 decimal would round twice.
    exact = table.astype({name: "float64" for name, kind in kinds.items() if kind.startswith("float")})
    text = exact.to_csv(index=False, na_rep="nan", quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    return text.encode()


def decode(content: bytes, kinds: Mapping[str, str]) -> pd.DataFrame:
    """Read what `encode` wrote."""
    # Not pandas.read_csv: its floats were inexact by default for years, and the option that mends it is deprecated.
    header, *rows = csv.reader(io.StringIO(content.decode(), newline=""))
    columns = dict(zip(header, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(header, ())
    return pd.DataFrame(
        {name: pd.Series(map(_reader(kinds[name]), columns[name]), dtype=kinds[name]) for name in header}
    )


def _reader(kind: str) -> Callable[[str], object]:
    if kind == "bool":
        return "True".__eq__
    if kind.startswith("float"):
        return float
    return str if kind == "str" else int


def encode_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Write arrays as npz: the same arrays give the same bytes, whatever their order.

    Raises:
        TypeError: an array holds Python objects.
    """
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise TypeError(f"array {name!r} holds Python objects: give numbers, bools or strings")
    file = io.BytesIO()
    np.savez(file, **{name: np.asarray(arrays[name]) for name in sorted(arrays)})
    return file.getvalue()
