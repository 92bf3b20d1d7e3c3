"""What tests share. Nothing here mocks: stores are folders, servers listen, processes are real.

Tests are marked by what they cost, so that `make test-quick` can leave them out:

- `server`: a Prefect server answers, whether the session's or one of the test's own.
- `browser`: a page is opened in Chromium.
- `kill`: processes are started to be killed, interrupted or waited for.
- `long`: longer than `make test` may take; `make test-long` runs these, and so does `.ci/run`.

`server` and `browser` are set here for whoever asks for a fixture that brings one; the rest is marked in its file.

pytest-xdist runs two workers, and a group of tests stays on one worker. All tests that use a fixture of SHARED are one
group, so that there is one such server a session; of the others each file is a group. Groups start in the order of
SHARED, because what takes longest must begin first.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# Before anything imports Prefect: its home, and no server of the developer's.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="lookbook-prefect-")
os.environ["PREFECT_API_URL"] = ""
os.environ["DO_NOT_TRACK"] = "1"
sys.path.insert(0, str(Path(__file__).parent))  # so that tests may say `from conftest import answer`
for name in [name for name in os.environ if name.startswith("LOOKBOOK_")]:
    del os.environ[name]

import httpx
import numpy as np
import pytest

from artifacts import dataset as datasets
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.vision import sources
from tasks.vision.images import ImageSpec

PATIENCE = 60.0  # seconds for an answer of Prefect's server, which answers nobody while it has much to do
CLASSES = ["circle", "square", "line"]
SPEC = ImageSpec(height=8, width=8, channels=1)

SHARED = ("up", "server")  # fixtures that a session has once, the slowest group of tests first
BRINGS = {"up": "server", "server": "server", "first": "server", "page": "browser"}  # fixture -> marker


@pytest.hookimpl(tryfirst=True)  # before -m selects by markers, and before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture in BRINGS.keys() & set(item.fixturenames):
            item.add_marker(BRINGS[fixture])
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    last = len(SHARED)
    items.sort(key=lambda item: next((place for place, each in enumerate(SHARED) if each == _group(item)), last))


def _group(item: pytest.Item) -> str:
    """The fixture that a test shares with the whole session, or its file."""
    return next((fixture for fixture in SHARED if fixture in item.fixturenames), item.path.stem)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


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
    return {side: sources.split(sources.FASHION_MNIST, contents, side) for side in ("train", "test")}


@pytest.fixture(scope="session")
def lookbook_command() -> list[str]:
    """The installed `lookbook`, as a person starts it."""
    return [str(Path(sys.executable).with_name("lookbook"))]


# A person who isn't root: root without the right to read and write everything (setpriv is util-linux's).
WITHOUT_ROOTS_RIGHTS = (
    ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
    if os.geteuid() == 0
    else []
)


@pytest.fixture
def lookbook_environment(tmp_path) -> dict[str, str]:
    return {**os.environ, "LOOKBOOK_STORE": str(tmp_path / "store")}


@pytest.fixture
def lookbook(lookbook_command, lookbook_environment):
    """Run `lookbook` with a store of its own; `behind` is a command to start it by."""

    def run(*arguments: object, behind: Sequence[str] = (), **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*behind, *lookbook_command, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            env={**lookbook_environment, **environment},
        )

    return run


# A proxy that answers nothing: what is on this machine never goes through one.
DEAD_PROXIES = {
    **dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), "http://127.0.0.1:9"),
    "NO_PROXY": "somewhere.example",
    "no_proxy": "",
}


@pytest.fixture
def without_roots_rights() -> list[str]:
    return WITHOUT_ROOTS_RIGHTS


def answer(run: subprocess.CompletedProcess[str]) -> Any:
    """The JSON value of a command that worked."""
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def damage(path: Path, content: bytes) -> None:
    """Rewrite a published file in place, as whoever insists can: all names that the file has hold `content`."""
    path.chmod(0o644)
    path.write_bytes(content)


def remove(path: Path) -> None:
    """Remove a published file, or a folder with all that is in it, as `chmod -R u+w` and `rm -r` do."""
    for each in (path.parent, path, *path.rglob("*")):
        if each.is_dir():
            each.chmod(0o755)
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def complaint(run: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """The one clear line of a command that did not."""
    assert run.returncode == status, run.stderr
    assert "Traceback" not in run.stderr
    line = run.stderr.strip().splitlines()[-1]
    assert status == 2 or line.startswith("lookbook: "), run.stderr
    return line


@pytest.fixture(scope="session")
def home(tmp_path_factory, fashion_mnist) -> Path:
    """A store and a Prefect home that the tests of the flows share; the images are in the cache already."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def shared_environment(home) -> dict[str, str]:
    return {**os.environ, "LOOKBOOK_STORE": str(home / "store"), "PREFECT_HOME": str(home / "prefect")}


@pytest.fixture(scope="session")
def first(shared_environment, lookbook_command) -> subprocess.CompletedProcess[str]:
    """The first retraining of the shared home, with no server configured."""
    return subprocess.run(
        [*lookbook_command, "retrain", "--json"], capture_output=True, text=True, timeout=300, env=shared_environment
    )


@pytest.fixture(scope="session")
def server(shared_environment, first):
    """The API's address of a server on the history of the first run, as `prefect server start` gives one."""
    port = free_port()
    process = subprocess.Popen(
        [Path(sys.executable).with_name("prefect"), "server", "start", "--port", str(port), "--no-ui"],
        env=shared_environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/api"
    for _ in range(300):
        try:
            if httpx.get(f"{url}/health").is_success:
                break
        except httpx.HTTPError:
            time.sleep(0.2)
    yield url
    process.send_signal(signal.SIGINT)
    process.wait(30)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def asked(url: str, what: str, **body: Any) -> list[dict[str, Any]]:
    """What Prefect's API at `url` knows: flow_runs, task_runs, logs, artifacts."""
    return httpx.post(f"{url}/{what}/filter", json={"limit": 200, **body}, timeout=PATIENCE).raise_for_status().json()


def post(url: str, asking: Any) -> httpx.Response:
    """The answer to a POST of JSON."""
    return _answered("POST", url, json=asking)


def delete(url: str) -> None:
    _answered("DELETE", url)


def _answered(method: str, url: str, **given: Any) -> httpx.Response:
    """The answer; asked again while SQLite is busy, as Prefect's clients do."""
    while (answer := httpx.request(method, url, timeout=PATIENCE, **given)).status_code == 503:
        time.sleep(1)
    return answer.raise_for_status()


class Upheld:
    """A `lookbook up` with a store, folders of pictures and a listener for its notices, as a test uses it."""

    def __init__(self, top: Path, environment: dict[str, str], process: subprocess.Popen[str], api: str) -> None:
        self.top, self.environment, self.process, self.api = top, environment, process, api
        self.store = Store(top / "store")
        self.url = api.removesuffix("/api")

    def deployment(self, name: str) -> dict[str, Any]:
        return httpx.get(f"{self.api}/deployments/name/{name}", timeout=PATIENCE).raise_for_status().json()

    def start(self, deployment: str, /, **parameters: Any) -> str:
        """A run of a deployment, as the page's button starts one, with the schema's checks off; its id."""
        asking = {"parameters": parameters, "state": {"type": "SCHEDULED"}, "enforce_parameter_schema": False}
        url = f"{self.api}/deployments/{self.deployment(deployment)['id']}/create_flow_run"
        while (
            answer := httpx.post(url, json=asking, timeout=PATIENCE)
        ).status_code == 503:  # SQLite is busy: clients ask again
            time.sleep(1)
        return answer.raise_for_status().json()["id"]

    def run(self, run: str) -> dict[str, Any]:
        return httpx.get(f"{self.api}/flow_runs/{run}", timeout=PATIENCE).raise_for_status().json()

    def wait(self, run: str, *states: str, seconds: float = 120) -> dict[str, Any]:
        """The run, once it is in one of the states (any final one when none is named)."""
        states = states or ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if (found := self.run(run))["state_type"] in states:
                return found
            time.sleep(0.3)
        pytest.fail(f"{found['name']} is {found['state']} after {seconds} s, expected {states}: {self.logs(run)}")

    def logs(self, run: str) -> list[str]:
        """What the run said so far."""
        return [each["message"] for each in asked(self.api, "logs", logs={"flow_run_id": {"any_": [run]}})]

    def wait_for_log(self, run: str, text: str, seconds: float = 90) -> None:
        until = time.monotonic() + seconds
        while not any(text in line for line in self.logs(run)):
            assert time.monotonic() < until, (text, self.run(run)["state"], self.logs(run))
            time.sleep(0.3)

    def inner(self, run: str, flow: str = "train") -> dict[str, Any]:
        """The newest run of `flow` below `run`: in its process, or of another deployment."""
        parent = {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}, "sort": "START_TIME_DESC"}
        until = time.monotonic() + 60
        while not (found := asked(self.api, "flow_runs", **parent)):
            assert time.monotonic() < until, f"no {flow} below {self.run(run)['name']}"
            time.sleep(0.3)
        return found[0]

    def report(self, key: str) -> str:
        """The newest report under `key`."""
        return httpx.get(f"{self.api}/artifacts/{key}/latest", timeout=PATIENCE).raise_for_status().json()["data"]

    def processes(self, words: str) -> list[int]:
        """Processes of this user's whose command holds `words`, below this `lookbook up`."""
        found = subprocess.run(["pgrep", "-f", words], capture_output=True, text=True).stdout.split()
        return [int(each) for each in found if self._is_ours(int(each))]

    def _is_ours(self, pid: int) -> bool:
        while pid > 1:
            if pid == self.process.pid:
                return True
            try:
                pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            except FileNotFoundError:
                return False
        return False


def draw_classes(top: Path, images: np.ndarray, labels: np.ndarray, items: int) -> None:
    """PNG files, a folder a class, from arrays of a data set: the first `items` of classes 0 to 2."""
    from PIL import Image

    for index in np.flatnonzero(labels < 3)[:items]:
        folder = top / CLASSES[labels[index]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[index, ..., 0]).save(folder / f"{index:05d}.png")


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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", received
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def upheld_environment(tmp_path_factory, fashion_mnist, listener) -> dict[str, str]:
    top = tmp_path_factory.mktemp("up")
    draw_classes(top / "photos/shapes", fashion_mnist["test"].images, fashion_mnist["test"].labels, 600)
    (top / "photos/shapes/circle/zz notes.txt").write_text("no picture")
    (top / "photos/way out").symlink_to("/")
    return {
        **os.environ,
        "PREFECT_HOME": str(top / "prefect"),
        "PREFECT_SERVER_API_PORT": str(free_port()),
        "LOOKBOOK_STORE": str(top / "store"),
        "LOOKBOOK_IMAGE_ROOTS": json.dumps({"photos": str(top / "photos")}),
        "LOOKBOOK_NOTIFY_URL": listener[0],
        **DEAD_PROXIES,
    }


def bring_up(environment: dict[str, str]) -> Upheld:
    """Start `lookbook up`, and wait until it says that it is."""
    process = subprocess.Popen(
        [Path(sys.executable).with_name("lookbook"), "up", "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said = process.stdout.readline()
    assert said, "lookbook up ended without a word"
    return Upheld(Path(environment["LOOKBOOK_STORE"]).parent, environment, process, json.loads(said)["api"])


def bring_down(upheld: Upheld) -> float:
    """Ctrl-C; the seconds that it takes."""
    started = time.monotonic()
    upheld.process.send_signal(signal.SIGINT)
    assert upheld.process.wait(60) == 0
    upheld.process.stdout.close()
    return time.monotonic() - started


@pytest.fixture(scope="session")
def up(upheld_environment):
    upheld = bring_up(upheld_environment)
    yield upheld
    bring_down(upheld)
