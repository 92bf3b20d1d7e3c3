"""pytest tests/test_prediction_tables.py: a table with every kind of row is read by every tool, from pyarrow 21 on.

`example-tables` has such a table as an earlier Lookbook wrote it (`fixed-size.parquet`) and as it is written now, by
pyarrow 26 (`list.parquet`: `python tests/test_prediction_tables.py list.parquet`).
"""

import sys
import tempfile
from pathlib import Path

import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from jobs import job_of

from artifacts import predictions
from artifacts.store import Store
from tasks.scoring.earlier import Earlier
from tasks.scoring.rows import Shard, table_of
from tasks.shared.tables import read_table
from tasks.vision.files import DecodedFiles

EXAMPLES = Path(__file__).with_name("example-tables")
KINDS = ("unsupported", "corrupt", "too_large", "unreadable", "missing", "changed", "timeout", "crashed")
NAMES = ("a.png", "ä\n\x1b[1m.png", "%.png", *KINDS)
TIMES = (0, -1, (1 << 63) - 1, -(1 << 63))


def every_kind(store):
    """A table with three predictions, and an error of each kind."""
    number = len(NAMES)
    entries = pa.table(
        {
            "path": pa.array([f"{at:02}{name}".encode() for at, name in enumerate(NAMES)], pa.binary()),
            "bytes": pa.array([(1 << 63) - 1, *range(number - 1)], pa.int64()),
            "mtime_ns": pa.array([TIMES[at % len(TIMES)] for at in range(number)], pa.int64()),
            "regular": pa.array([True] * number),
        }
    )
    job = job_of("/pictures")
    shard = Shard(0, "0" * 64, entries, Earlier(store, job))
    errors = {at: (name, f"why it is {name}") for at, name in enumerate(NAMES) if name in KINDS}
    sides = [0 if at in errors else 8 for at in range(number)]
    sha256 = [None if at in errors else f"{at:064x}" for at in range(number)]
    decoded = DecodedFiles(np.zeros((number, 8, 8, 1), np.uint8), sha256, sides, sides, errors, [])
    given = np.linspace(0.1, 0.9, number, dtype=np.float32)
    shard.take(np.arange(number), decoded, np.stack([given, 1 - given], axis=1))
    return table_of(job, shard)


@pytest.fixture
def found(store):
    return every_kind(store)


def fetched(relation):
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


READERS = {
    "pyarrow": lambda file: pq.read_table(file).to_pylist(),
    "a row group of pyarrow's": lambda file: pq.ParquetFile(file).read_row_group(0).to_pylist(),
    "a dataset of pyarrow's": lambda file: ds.dataset(file).to_table().to_pylist(),
    "pandas": lambda file: pandas.read_parquet(file).to_dict("records"),
    "polars": lambda file: polars.read_parquet(file).to_dicts(),
    "a frame of polars' that is read late": lambda file: polars.scan_parquet(file).collect().to_dicts(),
    "duckdb": lambda file: fetched(duckdb.read_parquet(str(file))),
}


def plain(value):
    """As Python has it: an array of pandas' is a list, and what pandas lacks is None."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return None if isinstance(value, float) and np.isnan(value) else value


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("written", ["now", "by pyarrow 26"])
def test_every_tool_reads_every_kind_of_row(found, tmp_path, reader, written):
    file = EXAMPLES / "list.parquet"
    if written == "now":
        file = tmp_path / "part.parquet"
        pq.write_table(found, file, compression="zstd")
    expected = found.to_pylist()
    assert [row["error"] for row in expected] == [None, None, None, *KINDS]
    assert [row["probabilities"] is None for row in expected] == [False] * 3 + [True] * len(KINDS)
    assert [{name: plain(value) for name, value in row.items()} for row in READERS[reader](file)] == expected


def test_no_list_that_may_be_null_has_a_fixed_size(found):
    """pyarrow 21 to 25 reads none. Whoever knows no Arrow reads what an earlier Lookbook wrote all the same."""
    assert found.schema.field("probabilities").type == pa.list_(pa.float32())
    assert pc.list_value_length(found.column("probabilities")).drop_null().unique().to_pylist() == [2]
    before, now = (pq.ParquetFile(EXAMPLES / f"{name}.parquet").schema for name in ("fixed-size", "list"))
    assert before.equals(now)


@pytest.mark.parametrize("age", ["fixed-size", "list"])
def test_a_table_of_each_age_may_be_one_of_labels(age):
    """Only the columns that are asked for are read: pyarrow 21 to 25 can't read the probabilities of the older one."""
    read = read_table((EXAMPLES / f"{age}.parquet").read_bytes(), "labels.parquet", ["path", "label"])
    assert read.columns.keys() == {"path", "label"}
    assert len(read.columns["path"]) == len(NAMES)
    assert "probabilities" in read.names


@pytest.mark.parametrize("age", ["list.parquet", "fixed-size.parquet"])
@pytest.mark.parametrize("columns", [None, ["path", "probabilities"], ["label"], ["error", "sha256"]])
def test_parts_of_each_age_are_read_alike(found, age, columns):
    rows = predictions.read_part(EXAMPLES / age, columns)
    expected = found.select(columns or found.column_names)
    assert [(each.name, each.type) for each in rows.schema] == [(each.name, each.type) for each in expected.schema]
    assert rows.schema.metadata == expected.schema.metadata
    assert rows.to_pylist() == expected.to_pylist()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        pq.write_table(every_kind(Store(Path(place))), sys.argv[1], compression="zstd")
