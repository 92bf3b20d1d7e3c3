"""What tests share. Nothing here mocks: stores are folders, servers listen, processes are real."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
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

CLASSES = ["circle", "square", "line"]
SPEC = ImageSpec(height=8, width=8, channels=1)


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


@pytest.fixture
def without_roots_rights() -> list[str]:
    return WITHOUT_ROOTS_RIGHTS


def answer(run: subprocess.CompletedProcess[str]) -> Any:
    """The JSON value of a command that worked."""
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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


def asked(url: str, what: str, **body: Any) -> list[dict[str, Any]]:
    """What Prefect's API at `url` knows: flow_runs, task_runs, logs, artifacts."""
    return httpx.post(f"{url}/{what}/filter", json={"limit": 200, **body}).raise_for_status().json()
