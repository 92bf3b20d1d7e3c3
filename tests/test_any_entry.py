"""pytest tests/test_any_entry.py: whatever a disk or a bucket tells of one entry, it is one row, and the same again."""

import io
import os
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from buckets import CREDENTIALS, make_bucket, options_for
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import SPEC, job_of
from PIL import Image

from artifacts.settings import Settings
from artifacts.shards import Shards
from artifacts.store import Store
from tasks.plan import plan_folder
from tasks.scoring.earlier import Earlier
from tasks.scoring.rows import Shard, table_of
from tasks.shared.folders import opened
from tasks.shared.listing import to_bytes, to_text
from tasks.shared.plans import load_plan
from tasks.vision.decoding import DecoderPool
from tasks.vision.files import REQUEST_BYTES, cut
from tasks.vision.images import Limits
from tasks.vision.times import held

INT64 = 1 << 63


@contextmanager
def in_memory():
    """A folder whose disk keeps every name, time and size."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        yield Path(place)


def png(value=0):
    file = io.BytesIO()
    Image.new("L", (8, 8), value).save(file, "PNG")
    return file.getvalue()


names = st.one_of(
    st.binary(min_size=1, max_size=255),
    st.text(min_size=1, max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"\n", b"\x1b[2J", b"\xed\xa0\x80", b"a\\b", b"%41", b"-rf", b" ", b"a" * 255, b"\xff\xfe"]),
).filter(lambda name: not {0, 47} & set(name) and name not in (b".", b"..") and len(name) < 256)
times = st.one_of(
    st.integers(-INT64 * 10**9, (INT64 - 1) * 10**9),
    st.integers(-INT64 - 3, -INT64 + 3),
    st.integers(INT64 - 3, INT64 + 3),
)
sizes = st.one_of(st.integers(0, INT64 - 1), st.just(INT64 - 1), st.integers(0, 4))
kinds = st.sampled_from(["file", "file", "picture", "link", "pipe"])


def make(path, kind, size, at):
    if kind == "link":
        os.symlink(b"nowhere", path)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        with open(path, "wb") as file:
            file.truncate(size) if kind == "file" else file.write(png())
    os.utime(path, ns=(at, at), follow_symlinks=False)


@given(st.dictionaries(names, st.tuples(kinds, sizes, times), min_size=1, max_size=12))
def test_every_entry_of_a_disk_is_planned_and_written(found):
    with in_memory() as top, in_memory() as place:
        for name, each in found.items():
            make(os.path.join(os.fsencode(top), name), *each)
        store, some = Store(place), Settings(image_roots={"root": top})
        job = job_of(to_text(os.fsencode(os.path.realpath(top))))
        plans = [load_plan(store.disk, plan_folder(store, some, job)) for _ in range(2)]
        assert plans[0].digests == plans[1].digests
        tables = []
        for number, digest in enumerate(plans[0].digests):
            shard = Shard(number, digest, plans[0].entries(number), Earlier(store, job))
            assert sum(len(chunk.items) for chunk in shard.chunks(SPEC)) == len(shard.wanted)
            part = Shards(store.disk).finish(job.record(digest), digest, table_of(job, shard))
            tables.append(pq.read_table(store.disk.materialize(part.key, part.sha256).path))
        table = pa.concat_tables(tables)
        assert [to_bytes(path) for path in table.column("path").to_pylist()] == sorted(found)
        told = dict(zip(sorted(found), table.column("mtime_ns").to_pylist(), strict=True))
        assert told == {name: held((top / os.fsdecode(name)).lstat().st_mtime_ns) for name in found}


keys = st.one_of(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=40),
    st.text("a./\n%#?\\ ", min_size=1, max_size=12),
    st.sampled_from(["/", "//", ".", "..", "a//b", "/a", "a/", "a/./b", "a/../b", "../../b", "\x00", "\x7f", "\u2028",
                     "\uffff", "\ufeffa", "a\r\nb", "%2e%2e", "+", "\U0010ffff", "a" * 1000, "a/" * 500, "\u0000/"]),
).filter(lambda key: len(f"photos/{key}".encode()) <= 1024)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=30)
@given(st.sets(keys, min_size=1, max_size=12))
def test_every_key_of_a_bucket_is_listed_and_is_a_picture_or_has_its_reason(s3_service, found):
    name = f"bucket-{uuid.uuid4().hex}"
    make_bucket(s3_service.url, name)
    for key in found:
        s3_service.put(name, f"photos/{key}", png())
    with pytest.MonkeyPatch.context() as patched:
        for variable, value in {**CREDENTIALS, "LOOKBOOK_STORE_OPTIONS": options_for(s3_service.url)}.items():
            patched.setenv(variable, value)
        some = Settings(image_roots={"root": f"s3://{name}/photos"})
        with (
            in_memory() as place,
            opened(some, "root:") as folder,
            DecoderPool(folder.descriptor, SPEC, Limits(10**6, 10**6), 10, 1) as pool,
        ):
            store, job = Store(place), job_of(f"s3://{name}/photos")
            plan = load_plan(store.disk, plan_folder(store, some, job))
            shard = Shard(0, "0" * 16, plan.entries(0), Earlier(store, job))
            chunks = ((chunk, chunk.files) for chunk in shard.chunks(SPEC))
            for chunk, decoded in folder.decode(pool, chunks):
                shard.take(chunk.items, decoded, np.zeros((len(chunk.items), 2), np.float32))
            rows = table_of(job, shard).to_pylist()
    assert [to_bytes(row["path"]) for row in rows] == sorted(key.encode() for key in found)
    for row in rows:
        assert (row["error"], bool(row["detail"])) in ((None, False), ("unsupported", True)), row


@given(times, times)
def test_a_time_that_no_column_holds_is_told_from_any_other(one, other):
    assert -INT64 <= held(one) < INT64
    assert held(one) == one or not -INT64 <= one < INT64
    assert (held(one) == held(other)) == (one == other)


@given(st.lists(st.one_of(sizes, st.integers(0, REQUEST_BYTES)), max_size=40))
def test_requests_are_cut_by_bytes_whatever_sizes_a_disk_tells(found):
    requests = list(cut(np.arange(len(found)), np.array(found, np.int64)))
    assert [item for items in requests for item in items] == list(range(len(found)))
    for items in requests:
        assert sum(found[item] for item in items[:-1]) < REQUEST_BYTES
