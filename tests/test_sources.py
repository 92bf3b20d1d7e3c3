"""pytest tests/test_sources.py

The far end is a real HTTPS server on loopback whose files and faults each test chooses.
"""

import dataclasses
import gzip
import hashlib
import http.server
import os
import ssl
import struct
import subprocess
import threading

import numpy as np
import pytest
import trustme

from tasks.vision import downloads, sources
from tasks.vision.errors import SourceError
from tasks.vision.images import ImageSpec
from tasks.vision.sources import IMAGES_MAGIC, LABELS_MAGIC, IdxDataset, IdxFile, parse_idx


def idx(array, magic):
    return struct.pack(f">I{array.ndim}I", magic, *array.shape) + array.tobytes()


random = np.random.default_rng(0)
CONTENTS = {
    "train-images": idx(random.integers(0, 256, (20, 8, 8), dtype=np.uint8), IMAGES_MAGIC),
    "train-labels": idx(np.arange(20, dtype=np.uint8) % 3, LABELS_MAGIC),
    "test-images": idx(random.integers(0, 256, (5, 8, 8), dtype=np.uint8), IMAGES_MAGIC),
    "test-labels": idx(np.arange(5, dtype=np.uint8) % 3, LABELS_MAGIC),
}
PACKED = {f"{name}.gz": gzip.compress(content) for name, content in CONTENTS.items()}


def described(name):
    return IdxFile(name, len(CONTENTS[name]), hashlib.sha256(CONTENTS[name]).hexdigest())


TINY = IdxDataset(
    "tiny",
    ("circle", "square", "line"),
    *(described(name) for name in CONTENTS),
    image_spec=ImageSpec(height=8, width=8, channels=1),
)


class FarEnd(http.server.ThreadingHTTPServer):
    """`answers`: a list of functions (handler) -> None; each request takes the next, then `serve` answers."""

    daemon_threads = True

    def __init__(self, certificate):
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.answers, self.requests = [], []
        self.url = f"https://localhost:{self.server_port}/"

    def handle_error(self, request, client_address):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        (self.server.answers.pop(0) if self.server.answers else serve)(self)

    def log_message(self, *_):
        pass


def serve(handler):
    content = PACKED[handler.path.lstrip("/")]
    start = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-")) if "Range" in handler.headers else 0
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    handler.send_header("Content-Length", str(len(content) - start))
    handler.end_headers()
    handler.wfile.write(content[start:])


def break_off(handler):
    content = PACKED[handler.path.lstrip("/")]
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.wfile.flush()
    handler.connection.close()


def stall(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"\x1f\x8b")
    handler.wfile.flush()
    handler.rfile.read(1)  # nothing comes: it ends with the patience of whoever asked


def html(handler):
    page = b"<html>please sign in to this network</html>"
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(page)))
    handler.end_headers()
    handler.wfile.write(page)


def endless(handler):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b"\0" * 4096)


def status(code, **headers):
    def answer(handler):
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def far_end(authority, monkeypatch):
    server = FarEnd(authority.issue_cert("localhost"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    with authority.cert_pem.tempfile() as certificate:
        monkeypatch.setenv("SSL_CERT_FILE", certificate)
        monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)
        yield server
    server.shutdown()
    server.server_close()
    thread.join()


def online(far_end):
    return dataclasses.replace(TINY, urls=(far_end.url,))


def fetch(dataset, tmp_path, mirror=None):
    return sources.fetch(dataset, tmp_path / "cache", mirror, lambda *_: None)


def fill(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_https(far_end, tmp_path):
    told = []
    assert sources.fetch(online(far_end), tmp_path, None, lambda *seen: told.append(seen)) == CONTENTS
    assert told[-1] == ("test-labels.gz", len(PACKED["test-labels.gz"]), len(PACKED["test-labels.gz"]))
    far_end.requests.clear()
    assert sources.fetch(online(far_end), tmp_path, None, lambda *_: None) == CONTENTS
    assert far_end.requests == [], "the second time it comes from the cache"


def test_a_broken_transfer_is_taken_up_where_it_broke(far_end, tmp_path):
    far_end.answers[:] = [break_off]
    assert fetch(online(far_end), tmp_path) == CONTENTS
    half = len(PACKED["train-images.gz"]) // 2
    assert far_end.requests[:2] == [("/train-images.gz", None), ("/train-images.gz", f"bytes={half}-")]


def test_an_earlier_runs_part_is_continued(far_end, tmp_path):
    fill(tmp_path / "cache/datasets/tiny", {"train-images.gz.part": PACKED["train-images.gz"][:100]})
    assert fetch(online(far_end), tmp_path) == CONTENTS
    assert far_end.requests[0] == ("/train-images.gz", "bytes=100-")


def test_a_wrong_part_costs_one_failure_and_is_gone(far_end, tmp_path):
    fill(tmp_path / "cache/datasets/tiny", {"train-images.gz.part": b"x" * 100})
    with pytest.raises(SourceError, match=r"train-images\.gz is not the expected file"):
        fetch(online(far_end), tmp_path)
    assert fetch(online(far_end), tmp_path) == CONTENTS


def test_a_busy_server_is_asked_again(far_end, tmp_path):
    far_end.answers[:] = [status(503), status(429)]
    assert fetch(online(far_end), tmp_path) == CONTENTS


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (html, r"train-images\.gz is not the expected file: expected 1,296 bytes, found 43"),
        (stall, r"failed at attempt 4 of 4 \(ReadTimeout"),
        (endless, "sends more than the 2,332 bytes that are expected at most"),
        (status(404), r"failed at attempt 1 of 4 \(HTTP status 404\)"),
        (status(302, Location="http://localhost/train-images.gz"), "leads to http://localhost, expected https only"),
    ],
)
def test_what_is_no_data_set_is_refused_and_told(far_end, tmp_path, monkeypatch, answer, message):
    if answer is stall:
        monkeypatch.setattr(downloads, "READ_SECONDS", 0.1)
    far_end.answers[:] = [answer] * 8
    with pytest.raises(SourceError, match=message) as caught:
        fetch(online(far_end), tmp_path)
    assert "point LOOKBOOK_DATASET_MIRROR at it" in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.gz"))


def test_an_unknown_certificate_is_refused(far_end, tmp_path, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(SourceError, match="can't be reached .*certificate"):
        fetch(online(far_end), tmp_path)


def test_an_unreachable_network_tells_every_place_that_was_tried(tmp_path):
    dataset = dataclasses.replace(TINY, urls=("https://localhost:1/",))
    with pytest.raises(SourceError) as caught:
        fetch(dataset, tmp_path, tmp_path / "mirror")
    for place in ("the mirror", "cache/datasets/tiny", "/usr/share/datasets/tiny", "https://localhost:1/", "tried: "):
        assert place in str(caught.value)


def test_a_mirror_comes_first_packed_or_not(tmp_path):
    assert fetch(TINY, tmp_path, fill(tmp_path / "packed", PACKED)) == CONTENTS
    assert fetch(TINY, tmp_path, fill(tmp_path / "plain", CONTENTS)) == CONTENTS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(CONTENTS["train-images"][:-1] + b"!"), "expected SHA-256"),
        (gzip.compress(CONTENTS["train-images"][:-1]), "expected 1,296 bytes, found 1,295"),
        (gzip.compress(CONTENTS["train-images"] + b"\0" * 50_000_000), "expected 1,296 bytes, found more"),
        (PACKED["train-images.gz"][:-10], "can't be read as gzip"),
        (b"\x1f\x8b<html>", "can't be read as gzip"),
        (b"<html></html>", "expected 1,296 bytes, found 13"),
        (b"", "expected 1,296 bytes, found 0"),
    ],
    ids=["changed", "short", "endless", "cut off", "packed page", "page", "empty"],
)
def test_a_wrong_file_in_the_mirror_is_an_error(tmp_path, content, message):
    mirror = fill(tmp_path / "mirror", PACKED | {"train-images.gz": content})
    with pytest.raises(SourceError, match=rf"mirror/train-images\.gz .*{message}.*replace it"):
        fetch(TINY, tmp_path, mirror)


def test_a_damaged_cache_is_passed_over(far_end, tmp_path):
    fill(tmp_path / "cache/datasets/tiny", {"train-images.gz": b"damaged"})
    assert fetch(online(far_end), tmp_path) == CONTENTS
    assert (tmp_path / "cache/datasets/tiny/train-images.gz").read_bytes() == PACKED["train-images.gz"]


def test_a_cache_that_can_not_be_written(tmp_path):
    (tmp_path / "cache").write_bytes(b"a file, no folder")
    with pytest.raises(SourceError, match="can't keep downloads in .* point LOOKBOOK_CACHE at another folder"):
        fetch(TINY, tmp_path)


def test_debians_package_is_fetched_and_unpacked_without_root(tmp_path, monkeypatch):
    """apt-get is replaced by one that leaves the package there: the network's far end; dpkg-deb is the real one."""
    package = tmp_path / "package"
    fill(package / "usr/share/datasets/tiny", PACKED)
    fill(
        package / "DEBIAN",
        {"control": b"Package: tiny\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n"},
    )
    subprocess.run(["dpkg-deb", "-b", str(package), str(tmp_path / "tiny_1_all.deb")], check=True, capture_output=True)
    apt = fill(
        tmp_path / "bin", {"apt-get": f'#!/bin/sh\ncase "$*" in *download*) cp {tmp_path}/*.deb . ;; esac\n'.encode()}
    )
    (apt / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{apt}:{os.environ['PATH']}")
    assert fetch(dataclasses.replace(TINY, debian_package="tiny"), tmp_path) == CONTENTS
    assert not (tmp_path / "cache/datasets/tiny/debian").exists()
    (apt / "apt-get").write_bytes(b"#!/bin/sh\necho E: Unable to locate package tiny >&2; exit 100\n")
    with pytest.raises(SourceError, match="Debian's package tiny: E: Unable to locate package tiny"):
        fetch(dataclasses.replace(TINY, debian_package="tiny"), tmp_path / "other")


def test_splits(shapes):
    side = sources.read_side(TINY, CONTENTS, "train")
    assert (side.images.shape, side.images.dtype) == ((20, 8, 8, 1), np.uint8)
    assert (side.labels.tolist(), side.labels.dtype) == ([index % 3 for index in range(20)], np.int32)
    assert side.sources[7] == "train-images[7]"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train-labels": idx(np.zeros(19, np.uint8), LABELS_MAGIC)}, "holds 20 images, train-labels 19 labels"),
        ({"train-labels": idx(np.full(20, 3, np.uint8), LABELS_MAGIC)}, "has label 3, expected 0 to 2"),
        ({"train-images": idx(np.zeros((20, 9, 8), np.uint8), IMAGES_MAGIC)}, "expected 8x8"),
        ({"train-images": CONTENTS["train-labels"]}, "expected magic 0x00000803, found 0x00000801"),
        ({"train-images": CONTENTS["train-images"][:-1]}, "takes 1,296 bytes; found 1,295"),
        ({"train-images": b"\0\0\x08\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"}, "found 16"),
    ],
)
def test_images_and_labels_that_do_not_match(changed, message):
    with pytest.raises(SourceError, match=message):
        sources.read_side(TINY, CONTENTS | changed, "train")


@pytest.mark.parametrize("content", [b"", b"\0\0\x08", b"\0\0\x08\x03\0\0"])
def test_headers_that_are_cut_off(content):
    with pytest.raises(SourceError):
        parse_idx(content, IMAGES_MAGIC, "x")


def test_fashion_mnist_is_what_its_authors_say(fashion_mnist):
    assert fashion_mnist["train"].images.shape == (60_000, 28, 28, 1)
    assert fashion_mnist["test"].images.shape == (10_000, 28, 28, 1)
    assert np.bincount(fashion_mnist["train"].labels).tolist() == [6000] * 10
    assert np.bincount(fashion_mnist["test"].labels).tolist() == [1000] * 10
    assert sources.FASHION_MNIST.classes[fashion_mnist["test"].labels[0]] == "Ankle boot"
