"""pytest tests/test_bucket_folders.py: pictures in a bucket are scored and learned as those in a folder."""

import hashlib
import io
import json
import os
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
from buckets import KEYS_A_REQUEST, Proxy, make_bucket, options_for, sometimes
from commands import run_inside
from conftest import draw_classes
from PIL import Image
from waiting import eventually

from artifacts import objects, predictions
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.preparing.labelled import list_labelled
from tasks.reviewing.pictures import Pictures
from tasks.reviewing.rows import Seen
from tasks.shared import listing
from tasks.shared.folders import check_folder, opened
from tasks.shared.listing import FolderError, FolderLost, allow_folder, folder_place, on_record, real_path
from tasks.vision.decoding import DecoderPool
from tasks.vision.files import Files
from tasks.vision.images import ImageSpec, Limits

pytestmark = pytest.mark.slow  # folders are listed and read in a bucket

SPEC = ImageSpec(height=8, width=8, channels=1)
LIMITS = Limits(1_000_000, 1_000_000)


@pytest.fixture
def put(s3_service, bucket):
    """Write an object below the folder `photos:`."""

    def write(key, content):
        name = bucket.removeprefix("s3://").split("/")[0]
        s3_service.put(name, f"photos/{key}", content)

    return write


@pytest.fixture
def settings(bucket, monkeypatch):
    name = bucket.removeprefix("s3://").split("/")[0]
    monkeypatch.setenv("LOOKBOOK_IMAGE_ROOTS", json.dumps({"photos": f"s3://{name}/photos"}))
    return Settings(decoders=1, max_image_bytes=100_000)


def png(value):
    file = io.BytesIO()
    Image.new("L", (8, 8), value).save(file, "PNG")
    return file.getvalue()


def walked(settings, text="photos:"):
    with opened(settings, text) as folder:
        return list(folder.walk())


def decoded(settings, entries):
    """What becomes of listed entries, a request each two of them: path -> pixel, or the kind of the error."""
    found = {}
    with (
        opened(settings, "photos:") as folder,
        DecoderPool(folder.descriptor, SPEC, Limits(settings.max_image_bytes, 10**6), 10, 1) as pool,
    ):
        chunks = [entries[start : start + 2] for start in range(0, len(entries), 2)]
        requests = (
            (chunk, Files([e.path for e in chunk], [e.size for e in chunk], [e.mtime_ns for e in chunk]))
            for chunk in chunks
        )
        for chunk, answer in folder.decode(pool, requests):
            for place, entry in enumerate(chunk):
                error = answer.errors.get(place)
                found[entry.path.decode()] = error[0] if error else int(answer.pixels[place][0, 0, 0])
        assert os.listdir(f"/proc/self/fd/{folder.descriptor}") == []
    return found


def test_a_folder_is_listed_by_the_bytes_of_paths(settings, put):
    for key in ("b/2.png", "a/1.png", "b.png", "b/", "", "ä.png", "B.png"):
        put(key, png(0) if key.endswith("png") else b"")
    assert [entry.path.decode() for entry in walked(settings)] == ["B.png", "a/1.png", "b.png", "b/2.png", "ä.png"]
    assert [entry.path.decode() for entry in walked(settings, "photos:b")] == ["2.png"]
    assert all(entry.regular and entry.size == len(png(0)) for entry in walked(settings))


def test_objects_are_decoded_and_what_fails_is_told(settings, put, bucket, s3_service):
    name = bucket.removeprefix("s3://").split("/")[0]
    for key, content in {
        "0.png": png(10), "1.png": png(20), "2.png": png(30), "empty.png": b"", "large.png": bytes(200_000),
        "text.png": b"no picture",
    }.items():  # fmt: skip
        put(key, content)
    entries = walked(settings)
    put("1.png", png(99))  # as large, and within the same second
    s3_service.delete(name, "photos/2.png")
    assert decoded(settings, entries) == {
        "0.png": 10, "1.png": "changed", "2.png": "missing", "empty.png": "corrupt", "large.png": "too_large",
        "text.png": "unsupported",
    }  # fmt: skip
    assert decoded(settings, walked(settings))["1.png"] == 99


@pytest.mark.parametrize("what", ["the folder", "its files"])
def test_pictures_that_go_from_the_cache_are_no_missing_files(settings, put, what):
    for number in range(8):
        put(f"{number}.png", png(number))
    entries = walked(settings)
    with (
        opened(settings, "photos:") as folder,
        DecoderPool(folder.descriptor, SPEC, LIMITS, 10, 1) as pool,
    ):
        scratch = Path(os.readlink(f"/proc/self/fd/{folder.descriptor}"))

        def requests():
            for number, entry in enumerate(entries):
                if number == 7:
                    eventually(lambda: len(list(scratch.iterdir())) > 1, "fetched")
                    for path in list(scratch.iterdir()):
                        path.unlink(missing_ok=True)
                    if what == "the folder":
                        scratch.rmdir()
                yield number, Files([entry.path], [entry.size], [entry.mtime_ns])

        with pytest.raises(FolderLost, match="was removed while pictures were in it; run it again"):
            list(folder.decode(pool, requests()))


def test_what_may_not_be_read_is_a_row_and_a_service_that_is_gone_is_not(settings, put, s3, monkeypatch):
    for number in range(4):
        put(f"{number}.png", png(number))
    with Proxy(s3) as proxy:
        monkeypatch.setenv("LOOKBOOK_STORE_OPTIONS", options_for(proxy.url))
        again = Settings(decoders=1)
        entries = walked(again)
        proxy.faults = lambda _method, path: (403, "AccessDenied") if path.endswith("/2.png") else None
        assert decoded(again, entries) == {"0.png": 0, "1.png": 1, "2.png": "unreadable", "3.png": 3}
        with opened(again, "photos:") as folder:
            assert isinstance(folder.why_unreadable(b"2.png"), PermissionError)
            assert folder.why_unreadable(b"1.png") is None
            assert isinstance(folder.why_unreadable(b"9.png"), FileNotFoundError)
        proxy.faults = lambda _method, _path: (403, "AccessDenied")
        with pytest.raises(FolderError, match="can't list .* in the folder s3://.*: the credentials are refused"):
            check_folder(again, "photos:")


@pytest.mark.parametrize("kind", Proxy.FAULTS)
def test_a_list_whose_answer_is_lost_is_asked_for_again(bucket, settings, put, s3, monkeypatch, kind):
    for number in range(KEYS_A_REQUEST + 10):
        put(f"{number:03}.png", b"x")
    monkeypatch.setattr(objects, "PAUSE_SECONDS", 0.005)
    with Proxy(s3) as proxy:
        monkeypatch.setenv("LOOKBOOK_STORE_OPTIONS", options_for(proxy.url))
        for left in ([kind], [None, kind]):  # of the first and the second request
            proxy.faults = lambda _method, _path, left=left: left.pop(0) if left else None
            assert len(walked(Settings())) == KEYS_A_REQUEST + 10
        assert proxy.faulty == 2


@pytest.mark.parametrize("text", ["photos:../x", "photos:a//b", "s3://elsewhere/x", "other:"])
def test_no_form_leads_elsewhere(settings, text):
    with pytest.raises(FolderError, match="expected a folder as root:sub/path below one of LOOKBOOK_IMAGE_ROOTS"):
        walked(settings, text)


def test_what_urls_mean_by_characters_leads_nowhere_else(settings, put, bucket, s3_service):
    s3_service.put(bucket.removeprefix("s3://").split("/")[0], "private/secret.png", png(0))
    put("a/1.png", png(0))
    put("a/b/1.png", png(0))
    for text in ("%2e%2e/private", "%2E./private", "a#1", "a?1", "a%2fb", "a%2F1.png", "a;b"):
        assert walked(settings, f"photos:{text}") == []


@pytest.mark.parametrize("name", ["a#1", "a?1", "a%2fb", "a%", "%2e%2e", "a+b", "a b", "\u00e4", "a;b&c=d", "..."])
def test_folders_and_files_are_called_as_their_keys(settings, put, name, monkeypatch):
    """As folders below a root, as roots, and as URLs that this process' own user names."""
    for number, key in enumerate((f"{name}/{name}.png", "a/1.png", "a/b/2.png")):
        put(key, png(number))
    url = folder_place(settings, f"photos:{name}")
    monkeypatch.setenv("LOOKBOOK_IMAGE_ROOTS", json.dumps({"root": url}))
    for some, text in ((settings, f"photos:{name}"), (Settings(), "root:"), (settings, allow_folder(f"{url}/"))):
        with opened(some, text) as folder:
            [entry] = folder.walk()
            assert entry.path.decode() == f"{name}.png"
            assert folder.entry(entry.path) == entry
            assert folder.read_file(f"{name}.png", "it") == png(0)
            assert folder.is_at(real_path(some, text))
    monkeypatch.setattr(listing, "_ALLOWED", {})
    assert on_record(settings, url) == f"photos:{name}"
    assert on_record(Settings(), url) == "root:"
    entries = walked(settings)
    assert decoded(settings, entries) == {f"{name}/{name}.png": 0, "a/1.png": 1, "a/b/2.png": 2}


def test_people_are_shown_the_picture_of_the_key_that_was_scored(settings, put):
    for number, key in enumerate(("a/1.png", "a#1/1.png", "a#1/a%2f#?.png")):
        put(key, png(number * 100))
    shown = {}
    for name, path in (("a", "1.png"), ("a#1", "1.png"), ("a#1", "a%252f#?.png")):
        content = png(100 * len(shown))
        row = Seen((0, 0), path, hashlib.sha256(content).hexdigest(), len(content), 0, "x", 1.0, None, None, None)
        pictures = Pictures(settings, folder_place(settings, f"photos:{name}"))
        shown[name, path] = Image.open(io.BytesIO(pictures.jpeg(row, "small"))).getpixel((80, 80))[0]
        pictures.close()
    assert list(shown.values()) == pytest.approx([0, 100, 200], abs=3)


@pytest.mark.parametrize("beside", ["/../private", "//a", "x", "/a/%2e%2e/..", "/."])
def test_what_is_on_record_beside_a_root_is_not_below_it(settings, beside):
    """A label that is imported tells any folder."""
    top = folder_place(settings, "photos:")
    with pytest.raises(FolderError, match="expected a folder"):
        walked(settings, on_record(settings, f"{top}{beside}"))


def test_what_the_client_can_not_ask_for_is_an_entry_with_its_reason_and_no_other_object(settings, put):
    odd = ("0//1.png", "0/1.png/", "0/../1.png", "0/./1.png", "/0/1.png", "0/\n.png", "0/\x01.png")
    for key in ("0/1.png", "1.png", *odd):
        put(key, png(7))
    found = decoded(settings, walked(settings))
    assert found == {"0/1.png": 7, "1.png": 7, **dict.fromkeys(odd, "unsupported")}
    with opened(settings, "photos:") as folder:
        assert [folder.entry(key.encode()) for key in odd] == [None] * len(odd)
        assert all(isinstance(folder.why_unreadable(key.encode()), FileNotFoundError) for key in odd)
        assert folder.entry(b"\xff.png") is None


@pytest.mark.parametrize("written", ["2300-01-01T00:00:00", "9999-12-31T23:59:59", "1700-01-01T00:00:00"])
def test_an_object_is_a_picture_whenever_it_was_written(settings, bucket, s3_service, written):
    """Beyond what an int64 or this machine's disk holds."""
    s3_service.put(bucket.removeprefix("s3://").split("/")[0], "photos/1.png", png(7), written)
    [entry] = walked(settings)
    assert abs(entry.mtime_ns) < 1 << 63
    assert decoded(settings, [entry]) == {"1.png": 7}
    with opened(settings, "photos:") as folder:
        assert folder.entry(entry.path) == entry


def test_markers_of_folders_are_none_and_hide_nothing(settings, put):
    for key in ("", "empty/", "full/", "sub", "sub.png", "sub/", "sub/1.png", "z/", "z/1.png"):
        put(key, b"" if key.endswith("/") or not key else png(0))
    put("bare", b"")
    put("bare/1.png", png(0))
    paths = [entry.path.decode() for entry in walked(settings)]
    assert paths == ["bare", "bare/1.png", "sub", "sub.png", "sub/1.png", "z/1.png"]


def test_a_bucket_that_is_not_there(bucket, monkeypatch):
    monkeypatch.setenv("LOOKBOOK_IMAGE_ROOTS", json.dumps({"photos": "s3://no-such-bucket-here/photos"}))
    with pytest.raises(FolderError, match="there is no such bucket"):
        check_folder(Settings(), "photos:")


def test_labels_come_from_folders_and_tables_of_a_bucket(settings, put):
    for number in range(4):
        put(f"{'ab'[number % 2]}/{number}.png", png(number))
    assert list_labelled(settings, "photos:").classes == ["a", "b"]
    put("labels.csv", b"path,label\na/0.png,x\nb/1.png,y\n")
    assert list_labelled(settings, "photos:labels.csv").classes == ["x", "y"]


@pytest.mark.parametrize("above", ["", "train/"])
def test_keys_that_are_in_no_named_folder_make_no_class(settings, put, above):
    for key in ("a/1.png", "b/2.png", "a//3.png", "/4.png", "b/"):
        put(f"{above}{key}", png(0) if key.endswith("png") else b"")
    if above:
        put("test/a/1.png", png(0))
    found = list_labelled(settings, "photos:")
    assert (found.classes, found.bad) == (["a", "b"], {f"{above}/4.png": "in no class's folder"})


@pytest.mark.long
def test_a_bucket_is_learned_and_scored_as_a_folder_is(shapes, bucket, s3, tmp_path, server):
    draw_classes(tmp_path / "photos", shapes["train"].images, shapes["train"].labels, 120)
    name = f"{bucket.removeprefix('s3://').split('/')[0]}-photos"
    make_bucket(s3, name)
    for path in (tmp_path / "photos").rglob("*.png"):
        httpx.put(f"{s3}/{name}/photos/{path.relative_to(tmp_path / 'photos')}", content=path.read_bytes())
    environment = {
        **os.environ,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": server,
        "LOOKBOOK_STORE": str(tmp_path / "store"),
    }
    small = ["--image-size", "8", "--color", "grey", "--architecture", "dense", "--json"]

    def answer(*verb):
        done = run_inside(verb, environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    learned = answer("retrain", "--images", tmp_path / "photos", *small)
    scored = answer("score", tmp_path / "photos", "--json")
    with Proxy(s3, sometimes(0.1, seed=4)) as proxy:
        environment["LOOKBOOK_STORE_OPTIONS"] = options_for(proxy.url)
        again = answer("retrain", "--images", f"s3://{name}/photos", *small)
        also = answer("score", f"s3://{name}/photos", "--name", "bucket", "--json")
        assert answer("score", f"s3://{name}/photos", "--name", "bucket", "--json")["reused"] == 120
        assert proxy.faulty > 10
    assert [again[kind] for kind in ("dataset", "weights")] == [learned[kind] for kind in ("dataset", "weights")]
    assert (also["images"], also["predicted"], also["errors"]) == (120, 120, {})
    tables = [pq.read_table(each["path"]) for each in (scored, also)]
    for column in ("path", "sha256", "bytes", "label", "probabilities"):
        assert tables[0].column(column).equals(tables[1].column(column)), column
    assert (
        predictions.load(Store(tmp_path / "store"), Ref.parse(also["predictions"])).artifact.manifest["provenance"][
            "folder"
        ]
        == f"s3://{name}/photos"
    )
