"""pytest tests/test_cluster.py: work on the nodes of a Ray cluster, and what becomes of it when they fail."""

import importlib.metadata
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import PIL
import pytest
from buckets import CREDENTIALS, Proxy, options_for
from clusters import Cluster
from conftest import CLASSES, SPEC
from PIL import Image
from sweeper import wait_for_end

from artifacts import backbones, weights
from artifacts import dataset as datasets
from artifacts.refs import Ref
from artifacts.settings import Settings
from artifacts.store import Store
from tasks import plan as plans
from tasks.cluster import conducting, sample
from tasks.cluster.errors import ClusterError
from tasks.commit import commit_predictions
from tasks.plan import plan_folder
from tasks.prepare import prepare_folder
from tasks.preparing.remote import read_on_cluster
from tasks.requests import PictureSettings, ScoreRequest
from tasks.score import score_plan
from tasks.scoring.job import make_job
from tasks.shared import backbones as pretrained
from tasks.shared.deadline import Deadline
from tasks.shared.embedding import Embedding, View, embed, missing_features
from tasks.shared.plans import load_plan
from tasks.shared.remote_embedding import embed_on_cluster
from tasks.shared.watching import Watch
from tasks.vision.duplicates import contents_of
from tasks.vision.images import ImageSpec
from tasks.vision.recipes import settings_for

pytestmark = [pytest.mark.kill, pytest.mark.long]

ROOT = Path(__file__).parents[1]
NODES = ("ann", "bob", "cas")
TRAINING = settings_for("dense", epochs=1, batch_size=16)


@pytest.fixture(scope="module")
def cluster(s3_service):
    """Three nodes of one processor each, which may read the buckets of the tests."""
    with Cluster() as cluster:
        for name in NODES:
            cluster.start(name, environment=CREDENTIALS)
        yield cluster


@pytest.fixture(scope="module")
def tensors():
    from tasks.vision.training import fit

    images = np.random.default_rng(0).integers(0, 255, (30, 8, 8, 1), np.uint8)
    return fit(images, np.arange(30, dtype=np.int32) % 3, classes=3, spec=SPEC, settings=TRAINING).tensors


@pytest.fixture
def configured(bucket, s3, cluster, monkeypatch):
    """Settings of a store and of pictures in buckets, on the cluster."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    pictures = bucket.replace("some/place", "pictures")
    monkeypatch.setenv("LOOKBOOK_STORE", bucket)
    monkeypatch.setenv("LOOKBOOK_IMAGE_ROOTS", json.dumps({"root": pictures}))
    monkeypatch.setenv("LOOKBOOK_CLUSTER", cluster.address)
    monkeypatch.setenv("LOOKBOOK_DECODERS", "1")
    upload(s3, pictures, pictures_of(200))
    monkeypatch.setattr(plans, "SHARD_FILES", 10)
    return Settings()


def pictures_of(count):
    """Name -> a small PNG, each of its own."""
    for index in range(count):
        image = Image.fromarray(np.random.default_rng(index).integers(0, 255, (8, 8), np.uint8))
        path = Path(f"{index % 3}/{index:04d}.png")
        yield str(path), image


def upload(s3, where, named):
    bucket, _, prefix = where.removeprefix("s3://").partition("/")
    with httpx.Client() as client:
        for name, image in named:
            client.put(f"{s3}/{bucket}/{prefix}/{name}", content=png(image)).raise_for_status()


def png(image):
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def champion_of(store, tensors):
    store.prepare()
    sides = {
        side: datasets.Split(
            np.zeros((3, 8, 8, 1), np.uint8), np.arange(3, dtype=np.int32), [f"{side}{i}" for i in range(3)]
        )
        for side in ("train", "test")
    }
    data = datasets.save(
        store, "shapes", **sides, classes=CLASSES, image_spec=SPEC.to_dict(), settings={}, inputs={}, made={},
    )  # fmt: skip
    return weights.save(
        store, "shapes", tensors=tensors, history=[], classes=CLASSES, image_spec=SPEC.to_dict(),
        settings=TRAINING.to_dict(), dataset=data, made={},
    )  # fmt: skip


class Scored:
    """A scoring of a folder, and what was said on the way."""

    def __init__(self, settings, tensors, folder="root:", weights_of=champion_of, **asked):
        self.store, self.settings, self.said, self.warned, self.rows = Store(settings.store), settings, [], [], 0
        champion = weights_of(self.store, tensors)
        self.job = make_job(self.store, settings, ScoreRequest(folder, weights=str(champion), name="many", **asked))

    def run(self, on_rows=lambda: None, on_warning=lambda line: None):
        key = plan_folder(self.store, self.settings, self.job)

        def count(rows, errors, reused):
            self.rows += rows
            on_rows()

        def warn(line):
            self.warned.append(line)
            on_warning(line)

        watch = Watch(count, tell=self.said.append, warn=warn)
        self.outcome = score_plan(self.store, self.settings, self.job, load_plan(self.store.disk, key), watch)
        return commit_predictions(self.store, self.settings, self.job, key, self.outcome)


def parts(store, ref):
    """The hash of each file of a table."""
    return {name: each["sha256"] for name, each in store.open(ref).identity["files"].items()}


def scored_here(settings, tensors, tmp_path, folder="root:", **asked):
    """The hashes of a table's parts that one process makes, in a store of its own."""
    alone = settings.model_copy(update={"store": str(tmp_path / "alone")})
    scored = Scored(alone, tensors, folder, **asked)
    return parts(scored.store, scored.run())


def test_three_nodes_make_the_table_of_one_process_and_once(configured, tensors, tmp_path, monkeypatch):
    scored = Scored(configured, tensors, run_on="cluster")
    ref = scored.run()
    assert scored.said == ["nodes of the cluster that work: ann, bob, cas"]
    assert (scored.outcome.predicted, scored.rows, scored.warned) == (200, 200, [])
    assert len(scored.outcome.parts) > 5
    assert parts(scored.store, ref) == scored_here(configured, tensors, tmp_path)
    monkeypatch.setattr("tasks.score.finish_on_cluster", None)  # what is on record is not handed out
    assert Scored(configured, tensors, run_on="cluster").run() == ref


def on_two_backbones(store, tensors):
    """Weights with this head on two backbones, which see the same picture at 64 and at 32 pixels, and mirrored."""
    dataset = store.open(champion_of(store, {})).identity["inputs"]["dataset"]
    lite0, lite2 = (pretrained.add_package(store, f"efficientnet-{name}") for name in ("lite0", "lite2"))
    return weights.save(
        store, "shapes", tensors=tensors, history=[], classes=CLASSES, dataset=Ref.parse(dataset), made={},
        image_spec={**SPEC.to_dict(), "height": 64, "width": 64, "channels": 3},
        settings=settings_for("transfer", backbone="efficientnet-lite0:64+efficientnet-lite2:32").to_dict(),
        views=[weights.View(lite0, 64), weights.View(lite2, 32)], mirrored=True, precision="float32",
    )  # fmt: skip


def test_two_backbones_make_the_table_of_one_process(configured, tmp_path):
    """The nodes have nothing but the bucket to take them from."""
    random = np.random.default_rng(0)
    head = {
        "features/mean": np.zeros(2560, np.float32),
        "features/deviation": np.ones(2, np.float32),
        "output/kernel": random.normal(0, 0.1, (2560, 3)).astype(np.float32),
        "output/bias": np.zeros(3, np.float32),
    }
    scored = Scored(configured, head, run_on="cluster", weights_of=on_two_backbones)
    ref = scored.run()
    assert (scored.outcome.predicted, scored.warned) == (200, [])
    assert parts(scored.store, ref) == scored_here(configured, head, tmp_path, weights_of=on_two_backbones)


class Gate:
    """What a Proxy does with a request: a picture is read when the test lets it, all else at once."""

    def __init__(self):
        self._permits = threading.Semaphore(0)
        self.let(SAMPLES)

    def __call__(self, method, path):
        if method == "GET" and "/pictures/" in path and not self._permits.acquire(timeout=HELD_SECONDS):
            return "reset"
        return None

    def let(self, pictures):
        self._permits.release(pictures)

    def open(self):
        self.let(1 << 20)


SAMPLE = 3  # pictures that machines compare before they work
SAMPLES = 40  # that may be read before the test says anything: enough for all machines to compare theirs
HELD_SECONDS = 300.0


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def gated(configured, s3, monkeypatch, gate):
    """The same settings, where pictures are behind the gate."""
    monkeypatch.setattr(sample, "_FILES", SAMPLE)
    with Proxy(s3, gate) as proxy:
        monkeypatch.setenv("LOOKBOOK_STORE_OPTIONS", options_for(proxy.url))
        yield Settings()
        gate.open()


def test_actors_that_are_killed_are_started_again(gated, gate, cluster, tensors, tmp_path):
    scored = Scored(gated, tensors, run_on="cluster")
    killed = []

    def kill():
        if killed:
            return
        if scored.rows > 10 and all(cluster.actors(name) for name in NODES):
            killed.extend(pid for name in NODES for pid in cluster.actors(name))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
        else:
            gate.let(4)

    again = "(ann|bob|cas): its process ended, at shard [0-9]+, and Ray has started another"
    ref = scored.run(kill, lambda line: re.match(again, line) and gate.open())
    assert killed
    assert re.search(again, "\n".join(scored.warned))
    assert parts(scored.store, ref) == scored_here(gated, tensors, tmp_path)
    assert scored.rows == 200


def test_a_node_that_is_lost_is_done_without(gated, gate, cluster, tensors, tmp_path):
    cluster.start("dan", environment=CREDENTIALS)
    scored = Scored(gated, tensors, run_on="cluster")
    left = ["dan"]

    def kill():
        if left and scored.rows > 10 and cluster.actors("dan"):
            cluster.kill(left.pop())
        elif left:
            gate.let(4)

    ref = scored.run(kill, lambda line: line.startswith("dan") and gate.open())
    assert not left
    assert any(line.startswith("dan") for line in scored.warned)
    assert parts(scored.store, ref) == scored_here(gated, tensors, tmp_path)


DRIVER = """
import sys
from artifacts.settings import Settings
from artifacts.store import Store
from tasks import plan
from tasks.cluster import sample
from tasks.requests import ScoreRequest
from tasks.score import score_plan
from tasks.scoring.job import make_job
from tasks.shared.plans import load_plan

plan.SHARD_FILES, sample._FILES = 10, int(sys.argv[2])
settings = Settings()
store = Store(settings.store)
job = make_job(store, settings, ScoreRequest("root:", weights=sys.argv[1], run_on="cluster"))
score_plan(store, settings, job, load_plan(store.disk, plan.plan_folder(store, settings, job)))
"""
COMMAND = """
import sys
from flows.cli import main
from tasks import plan
from tasks.cluster import sample

plan.SHARD_FILES, sample._FILES = 10, int(sys.argv.pop(1))
main()
"""


def test_the_loss_of_a_node_and_of_the_driver_loses_nothing(
    configured, cluster, tensors, tmp_path, s3, gate, monkeypatch
):
    """A scoring that is killed half-way; the next one, by the command, loses a node."""
    store = Store(configured.store)
    champion = champion_of(store, tensors)
    records, recorded = [], threading.Event()

    def look(method, path):
        if method == "PUT" and "/staging/shards/" in path:
            records.append(path)
            if len(records) == 2:  # of which one is in the store
                recorded.set()
        return gate(method, path)

    with Proxy(s3, look) as proxy:
        gate.let(60)
        monkeypatch.setenv("LOOKBOOK_STORE_OPTIONS", options_for(proxy.url))
        driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(champion), str(SAMPLE)], start_new_session=True)
        assert recorded.wait(120)
        actors = [pid for name in NODES for pid in cluster.actors(name)]
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        assert all(wait_for_end(pid, 60) for pid in actors)
        [plan] = (key for key in store.disk.list("staging/plans") if key.endswith(".json"))
        found = load_plan(store.disk, plan)
        assert 0 < len(list(store.disk.list("staging/shards"))) < len(found.digests)
        gate.open()  # for what was asked by processes that have ended

    cluster.start("eve", environment=CREDENTIALS)
    later = Gate()
    with Proxy(s3, later) as proxy:
        monkeypatch.setenv("LOOKBOOK_STORE_OPTIONS", options_for(proxy.url))
        home = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect")}
        command = ["score", configured.image_roots["root"], "--weights", str(champion), "--run-on", "cluster", "--json"]
        driver = subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(SAMPLE), *command],
            env=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        said, left = [], ["eve"]
        for line in driver.stderr:
            said.append(line)
            if left and "nodes of the cluster that work: ann, bob, cas, eve" in line:
                cluster.kill(left.pop())
            elif "warning: eve" in line:
                later.open()
        out, _ = driver.communicate(timeout=200)
    result = json.loads(out)
    assert result["images"] == 200
    assert result["reused"] > 0
    assert any("warning: eve" in line for line in said), said
    assert parts(store, Ref.parse(result["predictions"])) == scored_here(configured, tensors, tmp_path)


def test_a_deadline_and_ctrl_c_end_the_actors(gated, gate, cluster, tensors):
    scored = Scored(gated, tensors, run_on="cluster")
    actors = []

    def end():
        if scored.rows > 10 and list(scored.store.disk.list("staging/shards")):
            actors.extend(pid for name in NODES for pid in cluster.actors(name))
            raise KeyboardInterrupt
        gate.let(4)

    with pytest.raises(KeyboardInterrupt):
        scored.run(end)
    assert actors
    assert all(wait_for_end(pid, 60) for pid in actors)
    assert list(scored.store.disk.list("staging/shards"))


class Other:
    """What a machine may have that is not as the driver's, as mounts: found -> in whose place."""

    def __init__(self, top):
        self.top = top

    def code(self):
        shutil.copytree(ROOT / "tasks", self.top / "tasks")
        with (self.top / "tasks/vision/images.py").open("a") as file:
            file.write("# another\n")
        return {self.top / "tasks": ROOT / "tasks"}

    def package(self):
        (self.top / "none").mkdir()
        return {self.top / "none": ROOT / "tasks"}

    def pillow(self):
        [found] = Path(PIL.__file__).parents[1].glob("pillow-*.dist-info/METADATA")
        (self.top / "METADATA").write_text(found.read_text().replace(f"Version: {PIL.__version__}", "Version: 1.1.7"))
        return {self.top / "METADATA": found}


def test_nodes_with_other_code_or_a_full_disk_are_left_out(gated, gate, cluster, tensors, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    cluster.start("odd", environment=CREDENTIALS, mounts=Other(tmp_path).code())
    cluster.start("tight", environment={**CREDENTIALS, "LOOKBOOK_CACHE": str(full)}, full=full)
    scored = Scored(gated, tensors, run_on="cluster")
    ref = scored.run(on_warning=lambda line: len(scored.warned) == 2 and gate.open())
    cluster.stop("odd")
    cluster.stop("tight")
    assert scored.said == ["nodes of the cluster that work: ann, bob, cas, odd, tight"]
    odd, tight = sorted(scored.warned)
    assert re.match("odd is left out: it has Lookbook's code [0-9a-f]{12} instead of [0-9a-f]{12}: its rows", odd)
    assert re.match("tight is left out: .*No space left on device", tight)
    assert parts(scored.store, ref) == scored_here(gated, tensors, tmp_path)


@pytest.fixture
def on_disk(configured, tmp_path, monkeypatch):
    """Settings of a store and of pictures on this machine's disk, on the cluster."""
    for name, image in pictures_of(100):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    monkeypatch.setenv("LOOKBOOK_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("LOOKBOOK_IMAGE_ROOTS", json.dumps({"root": str(tmp_path / "pictures")}))
    return Settings()


@pytest.fixture(scope="module")
def head():
    """A cluster whose head node has no processors: the nodes that a test adds are all that could work."""
    with Cluster() as cluster:
        cluster.start("head", processors=0)
        yield cluster


@pytest.fixture
def with_nodes(head, monkeypatch):
    """Add nodes, name -> how, to that cluster, for as long as the test lasts; gives settings by which it is reached."""
    added = []

    def start(settings, nodes):
        for name, how in nodes.items():
            added.append(name)
            head.start(name, **how)
        for name, value in head.environment.items():
            monkeypatch.setenv(name, value)
        return settings.model_copy(update={"cluster": head.address})

    yield start
    for name in added:
        head.stop(name)


def test_nodes_with_other_software_or_that_see_less_are_refused_by_name(on_disk, with_nodes, tensors, tmp_path):
    scored = Scored(on_disk, tensors, run_on="cluster")
    (tmp_path / "empty").mkdir()
    hiding = {name: {"mounts": {tmp_path / "empty": tmp_path / hidden}} for name, hidden in HIDDEN.items()}
    scored.settings = with_nodes(on_disk, {"other": {"mounts": Other(tmp_path).pillow()}, **hiding})
    with pytest.raises(ClusterError, match="found none: ") as error:
        scored.run()
    for said in (
        r"other: it has Pillow 1\.1\.7 instead of ",
        "storeless: expected the store .*/store of the run that asks, found another one, or none",
        "bare: expected [^;]* found no such file: mount the same folder there",
        "partial: expected 1/[^;]* found no such file: mount the same folder there",
    ):
        assert re.search(said, str(error.value)), said
    assert not list(scored.store.disk.list("staging/shards"))


HIDDEN = {"storeless": "store", "bare": "pictures", "partial": "pictures/1"}  # node -> what an empty folder hides


def test_a_mount_with_other_times_has_the_same_pictures(on_disk, with_nodes, tensors, tmp_path):
    shutil.copytree(tmp_path / "pictures", tmp_path / "mounted", copy_function=shutil.copyfile)
    settings = with_nodes(on_disk, {"later": {"mounts": {tmp_path / "mounted": tmp_path / "pictures"}}})
    scored = Scored(settings, tensors, run_on="cluster")
    ref = scored.run()
    assert scored.warned == []
    assert parts(scored.store, ref) == scored_here(on_disk, tensors, tmp_path)


def test_a_cluster_without_processors(on_disk, with_nodes, tensors):
    scored = Scored(with_nodes(on_disk, {}), tensors, run_on="cluster")
    with pytest.raises(ClusterError, match="found none: no node with a processor for an actor"):
        scored.run()


def test_a_node_whose_memory_is_full(on_disk, with_nodes, tensors, monkeypatch):
    monkeypatch.setattr(conducting, "_READY_SECONDS", 3.0)  # Ray kills the actor again and again
    full = {"RAY_memory_usage_threshold": "0.0001", "RAY_memory_monitor_refresh_ms": "100"}
    scored = Scored(with_nodes(on_disk, {"full": {"environment": full}}), tensors, run_on="cluster")
    with pytest.raises(ClusterError, match="found none: full: .*memory"):
        scored.run()


@pytest.fixture
def alone(monkeypatch):
    """Start a cluster of one node."""
    with Cluster() as cluster:

        def start(settings, **node):
            cluster.start("one", **node)
            for name, value in cluster.environment.items():
                monkeypatch.setenv(name, value)
            return settings.model_copy(update={"cluster": cluster.address})

        yield start


def test_a_head_node_without_lookbook(on_disk, alone, tensors, tmp_path):
    scored = Scored(alone(on_disk, mounts=Other(tmp_path).package()), tensors, run_on="cluster")
    with pytest.raises(ClusterError, match="the head node of the Ray cluster: Lookbook is not installed there"):
        scored.run()


def test_a_cluster_of_another_ray(on_disk, alone, tensors, tmp_path):
    found = Path(find_spec("ray").origin).with_name("_version.py")
    ours = importlib.metadata.version("ray")
    (tmp_path / "version.py").write_text(found.read_text().replace(ours, "2.1.0"))
    scored = Scored(alone(on_disk, mounts={tmp_path / "version.py": found}), tensors, run_on="cluster")
    with pytest.raises(ClusterError, match=rf"with Ray {ours} .* found: .*2\.1\.0"):
        scored.run()


def test_no_cluster_at_the_address(on_disk, tensors):
    scored = Scored(on_disk.model_copy(update={"cluster": "ray://127.0.0.1:1"}), tensors, run_on="cluster")
    with pytest.raises(ClusterError, match=r"expected a Ray cluster at ray://127.0.0.1:1 .* found: Connection refused"):
        scored.run()


def test_a_cluster_that_is_not_configured(on_disk, tensors):
    scored = Scored(on_disk.model_copy(update={"cluster": None}), tensors, run_on="cluster")
    with pytest.raises(ClusterError, match="expected LOOKBOOK_CLUSTER to run on a cluster, found none"):
        scored.run()


def test_pictures_are_prepared_by_the_nodes(on_disk, cluster, tmp_path):
    refs = []
    for place, elsewhere in (("alone", None), ("store", read_on_cluster)):
        store = Store(tmp_path / place)
        settings = on_disk.model_copy(update={"store": str(tmp_path / place)})
        asked = partial(elsewhere, settings, store, "root:") if elsewhere else None
        said = []
        size = PictureSettings(image_size=8, color="grey")
        refs.append(
            prepare_folder(store, settings, "root:", size, "own", Deadline.after(1), asked, Watch(tell=said.append))
        )
    assert refs[0] == refs[1]
    assert said == ["nodes of the cluster that work: ann, bob, cas"]
    assert not list(store.disk.list("staging/plans"))
    assert not list(store.disk.list("staging/decoded"))


def test_pictures_are_embedded_by_the_nodes(on_disk, cluster, tmp_path):
    """The features are those that one process makes, bit by bit, of pictures that are looked at smaller."""
    store = Store(on_disk.store)
    store.prepare()
    backbone = backbones.load(store, pretrained.add_package(store))
    random = np.random.default_rng(0)
    sides = {
        side: datasets.Split(
            random.integers(0, 255, (items, 64, 64, 3), np.uint8),
            np.arange(items, dtype=np.int32) % 2,
            [f"{side}{item}" for item in range(items)],
        )
        for side, items in (("train", 600), ("test", 20))
    }
    spec = ImageSpec(height=64, width=64, channels=3)
    ref = datasets.save(
        store, "noise", **sides, classes=CLASSES[:2], image_spec=spec.to_dict(), settings={}, inputs={}, made={},
    )  # fmt: skip
    embedding = Embedding(backbone, spec, "float32", "/CPU:0", side=32)
    views = [View("train", False), View("test", False), View("train", True)]
    contents = {name: contents_of(side.images) for name, side in sides.items()}
    wanted = [(view, missing_features(store, embedding, contents[view.side], view.mirrored)) for view in views]
    assert [len(items) for _, items in wanted] == [600, 20, 600]
    counted = []
    embed_on_cluster(on_disk, store, ref, embedding, wanted, Watch(lambda rows, *_: counted.append(rows)))
    assert sum(counted) == 1220
    alone = Store(tmp_path / "alone")
    alone.prepare()
    for view in views:
        images = sides[view.side].images
        assert not len(missing_features(store, embedding, contents[view.side], view.mirrored))
        made = embed(alone, embedding, images, view.mirrored)
        assert made.tobytes() == embed(store, embedding, images, view.mirrored).tobytes()
    assert not list(store.disk.list("staging/plans"))
