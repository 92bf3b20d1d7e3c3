"""What tests share. Nothing here mocks: stores are folders, servers listen, processes are real.

Tests are marked by what they cost, so that `make test-quick` can leave them out:

- `server`: a Prefect server answers, whether the session's or one of the test's own.
- `browser`: a page is opened in Chromium.
- `kill`: other processes are killed, interrupted, or do what is waited for.
- `slow`: networks are trained, or many processes started: more than half a second of processor time.
- `long`: kills, interruptions and runs side by side that would take `make test` beyond its time; `make test-long` runs
  these, and so does `.ci/run`.

`server` and `browser` are set here for whoever asks for a fixture that brings one; the rest is marked in its file.

pytest-xdist spreads groups of tests over its workers. Where there are few workers, all tests that use a fixture of
SHARED are one group, so that there is one such server a session; where there are many, each file is a group, and a
worker brings the servers that its files ask for. Groups of SHARED start first, in this order, because what takes
longest must begin first. No test depends on one before it: `-p randomly` runs them in another order each time.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # for modules that tests share, such as commands

import numpy as np
import pytest
from answering import answering
from buckets import CREDENTIALS, S3, make_bucket, options_for
from commands import COMMAND, Done, run_inside, run_process, send_what_is_left
from environment import DEAD_PROXIES, WITHOUT_ROOTS_RIGHTS  # first: before anything imports Prefect
from hypothesis import settings as hypothesis
from sweeper import pytest_configure  # noqa: F401  (a hook)
from upheld import Upheld, free_port
from waiting import eventually

from artifacts import dataset as datasets
from artifacts.registry import FOLDERS, KINDS
from artifacts.settings import Settings
from artifacts.store import Store
from flows.serving import healthy
from tasks.vision import sources
from tasks.vision.images import ImageSpec

CLASSES = ["circle", "square", "line"]
SPEC = ImageSpec(height=8, width=8, channels=1)
WARDROBE = {0: "t-shirt", 2: "pullover", 4: "coat", 6: "shirt"}  # label of Fashion-MNIST -> what a test calls it

# Time belongs to benchmarks. The rest is Hypothesis' own choice: where CI is set, the same examples each time.
hypothesis.register_profile("untimed", hypothesis.get_profile(hypothesis.get_current_profile_name()), deadline=None)
hypothesis.load_profile("untimed")

OF_TESTS = ("a", "notes", "race")  # folders that tests write into a store themselves
SHARED = ("up", "first")  # fixtures that a session has once, the slowest group of tests first
MANY = 3  # workers: with more of them, a server a worker costs less than tests that wait for the one server
BRINGS = {"up": "server", "server": "server", "first": "server", "page": "browser"}  # fixture -> marker


@pytest.hookimpl(wrapper=True)  # first, before -m selects by markers; last, when the order within groups is settled
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    workers = getattr(config, "workerinput", {"workercount": 1})["workercount"]
    for item in items:
        for fixture in BRINGS.keys() & set(item.fixturenames):
            item.add_marker(BRINGS[fixture])
        item.add_marker(pytest.mark.xdist_group(item.path.stem if workers > MANY else _shared(item) or item.path.stem))
    yield
    items.sort(key=lambda item: SHARED.index(_shared(item)) if _shared(item) else len(SHARED))


def _shared(item: pytest.Item) -> str | None:
    """The fixture that a test shares with the whole session, if there is one."""
    return next((fixture for fixture in SHARED if fixture in item.fixturenames), None)


@pytest.fixture(autouse=True)
def nothing_goes_on() -> Iterator[None]:
    """Prefect's threads end with the test that ran a flow: Hypothesis refuses what draws from `random` beside it."""
    yield
    if "prefect" in sys.modules:
        send_what_is_left()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of one's own. Whatever the product writes there is in artifacts/registry.py: what is in no list is copied
    by nobody, and no rule keeps it."""
    store = Store(tmp_path / "store")
    yield store
    if store.disk.root.is_dir():
        found = {path.name for path in store.disk.root.iterdir() if path.is_dir()}
        assert found <= {*KINDS, *FOLDERS, *OF_TESTS}, f"not in artifacts/registry.py: {found}"


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder on a disk that keeps every time and every size."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        yield Path(place)


@pytest.fixture(scope="session")
def s3_service() -> Iterator[S3]:
    """An S3 service on loopback."""
    with S3() as service:
        yield service


@pytest.fixture
def s3(s3_service: S3) -> str:
    """Its URL."""
    return s3_service.url


@pytest.fixture
def bucket(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a place in a new bucket, which the environment says how to reach."""
    name = f"bucket-{uuid.uuid4().hex}"
    make_bucket(s3, name)
    for variable, value in CREDENTIALS.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("LOOKBOOK_STORE_OPTIONS", options_for(s3))
    monkeypatch.setenv("LOOKBOOK_CACHE", str(tmp_path / "cache"))
    return f"s3://{name}/some/place"


@pytest.fixture
def open_path(tmp_path: Path) -> Path:
    """`tmp_path`, where other users of this machine may come, too."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith(("test_", "popen-", "pytest-")):  # pytest's own, one more with pytest-xdist
            folder.chmod(0o755)
    return tmp_path


@pytest.fixture(scope="session")
def shapes() -> dict[str, datasets.Split]:
    """Three easy classes of 8x8 images: 300 to train on, 60 to test on."""
    random = np.random.default_rng(0)

    def draw(items: int) -> datasets.Split:
        labels = random.integers(0, 3, items).astype(np.int32)
        images = random.integers(0, 60, (items, 8, 8, 1), dtype=np.uint8)
        images[labels == 0, 2:6, 2:6] += 150
        images[labels == 1, :2] += 150
        images[labels == 2, :, 6:] += 150
        return datasets.Split(images, labels, [f"drawn[{index}]" for index in range(items)])

    return {"train": draw(300), "test": draw(60)}


@pytest.fixture
def shapes_dataset(store: Store, shapes: dict[str, datasets.Split]):
    return datasets.save(
        store,
        "shapes",
        **shapes,
        classes=CLASSES,
        image_spec=SPEC.to_dict(),
        settings={"source": "drawn"},
        inputs={},
        made={},
    )


@pytest.fixture(scope="session")
def fashion_mnist() -> dict[str, sources.LabelledImages]:
    """The real 70,000 images, from wherever the product finds them."""
    settings = Settings()
    contents = sources.fetch(sources.FASHION_MNIST, settings.cache, settings.dataset_mirror, lambda *_: None)
    return {side: sources.read_side(sources.FASHION_MNIST, contents, side) for side in ("train", "test")}


@pytest.fixture(scope="session")
def lookbook_command() -> list[str]:
    """The installed `lookbook`, as a person starts it."""
    return COMMAND


@pytest.fixture
def lookbook_environment(tmp_path) -> dict[str, str]:
    return {**os.environ, "LOOKBOOK_STORE": str(tmp_path / "store")}


BRING_A_SERVER = ("retrain", "score", "up")  # unless one is configured


@pytest.fixture
def lookbook(lookbook_environment):
    """Run `lookbook` with the environment of the test: inside this process, unless a process is the point: it brings a
    Prefect server, or is started by the command `behind`."""

    def run(*arguments: object, behind: Sequence[str] = (), **more: str) -> Done:
        environment = {**lookbook_environment, **more}
        brings_a_server = arguments[:1] and arguments[0] in BRING_A_SERVER and not environment["PREFECT_API_URL"]
        if behind or brings_a_server:
            return run_process(arguments, environment, behind)
        return run_inside(arguments, environment)

    return run


@pytest.fixture
def lookbook_process(lookbook_environment):
    """Run `lookbook` as a process of its own."""

    def run(*arguments: object, **more: str) -> Done:
        return run_process(arguments, {**lookbook_environment, **more})

    return run


@pytest.fixture
def without_roots_rights() -> list[str]:
    return WITHOUT_ROOTS_RIGHTS


@pytest.fixture(scope="session")
def home(tmp_path_factory, fashion_mnist) -> Path:
    """A store and a Prefect home that the tests of the flows share; the images are in the cache already."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def shared_environment(home) -> dict[str, str]:
    return {**os.environ, "LOOKBOOK_STORE": str(home / "store"), "PREFECT_HOME": str(home / "prefect")}


@pytest.fixture(scope="session")
def first(shared_environment) -> Done:
    """The first retraining of the shared home, with no server configured, and proxies that answer nothing."""
    return run_process(["retrain", "--json"], {**shared_environment, **DEAD_PROXIES})


@pytest.fixture(scope="session")
def server(shared_environment, first):
    """The API's address of a server on the history of the first run, as `prefect server start` gives one."""
    port = free_port()
    command = [Path(sys.executable).with_name("prefect"), "server", "start", "--port", str(port), "--no-ui"]
    process = subprocess.Popen(
        command, env=shared_environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}/api"
    eventually(lambda: healthy(url), "the Prefect server answers")
    yield url
    process.send_signal(signal.SIGINT)
    process.wait(30)


def draw_classes(top: Path, images: np.ndarray, labels: np.ndarray, items: int) -> None:
    """PNG files, a folder a class, from arrays of a data set: the first `items` of classes 0 to 2."""
    from PIL import Image

    for index in np.flatnonzero(labels < 3)[:items]:
        folder = top / CLASSES[labels[index]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[index, ..., 0]).save(folder / f"{index:05d}.png")


def draw_wardrobe(top: Path, images: np.ndarray, labels: np.ndarray, test: int = 120, night: int = 168) -> None:
    """Clothes that are easily confused: few to train on, some to test with, and a night's pictures that nobody has
    labelled, whose file names tell the truth. test, night: how many of each of four classes."""
    from PIL import Image

    for label, name in WARDROBE.items():
        items = np.flatnonzero(labels == label)
        for number, item in enumerate(items[: 12 + test + night]):
            folder = f"own/train/{name}" if number < 12 else f"own/test/{name}" if number < 12 + test else "night"
            (top / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[item, ..., 0]).save(top / folder / f"{item:05d}-{label}.png")


@pytest.fixture(scope="session")
def listener():
    """A place that notices are sent to: the JSON bodies of what was posted."""
    received: list[dict[str, Any]] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with answering(Listener) as port:
        yield f"http://127.0.0.1:{port}/hook", received


@pytest.fixture(scope="session")
def upheld_environment(tmp_path_factory, fashion_mnist, listener) -> dict[str, str]:
    top = tmp_path_factory.mktemp("up")
    draw_classes(top / "photos/shapes", fashion_mnist["test"].images, fashion_mnist["test"].labels, 600)
    (top / "photos/shapes/circle/zz notes.txt").write_text("no picture")
    draw_wardrobe(top / "photos/wardrobe", fashion_mnist["test"].images, fashion_mnist["test"].labels)
    (top / "photos/wardrobe/night/zz notes.txt").write_text("no picture")
    (top / "photos/way out").symlink_to("/")
    return {
        **os.environ,
        "PREFECT_HOME": str(top / "prefect"),
        "PREFECT_SERVER_API_PORT": str(free_port()),
        "LOOKBOOK_STORE": str(top / "store"),
        "LOOKBOOK_REVIEW_PORT": str(free_port()),
        "LOOKBOOK_IMAGE_ROOTS": json.dumps({"photos": str(top / "photos")}),
        "LOOKBOOK_NOTIFY_URL": listener[0],
        "LOOKBOOK_RETRAIN_WHEN": json.dumps({"labels": 5}),
        **DEAD_PROXIES,
    }


@pytest.fixture(scope="session")
def up(upheld_environment):
    upheld = Upheld(upheld_environment)
    yield upheld
    upheld.bring_down()


@pytest.fixture(scope="session")
def champion(up):
    """The first champion, from a run that trained on the GPU pool."""
    run = up.start("retrain/weekly", epochs=2, train_on="gpu pool")
    assert up.wait(run)["state_type"] == "COMPLETED", up.logs(run)
    return run
