"""A scoring that several runs share: what the first one leaves in the store, and what makes another one fit to help."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from artifacts.documents import seal, unseal
from artifacts.errors import AlreadyExists, NotFound
from artifacts.living import Needs
from artifacts.settings import Settings
from artifacts.store import Store
from tasks.cluster.errors import ClusterError
from tasks.cluster.likeness import differences, likeness
from tasks.cluster.sample import Sample, take_sample
from tasks.scoring.job import Job
from tasks.scoring.losses import reopened
from tasks.shared.plans import Plan, load_plan
from tasks.vision.decoding import DecoderPool


@dataclass(frozen=True)
class Shared:
    """A scoring of another run. plan: its key; sample: of the folder, as that run sees it."""

    plan: str
    job: Job
    sample: Sample


def sample_of(settings: Settings, job: Job, plan: Plan) -> Sample:
    """Files of a plan as they are here."""
    with (
        reopened(settings, job) as folder,
        DecoderPool(folder.descriptor, job.spec, job.limits, settings.max_image_seconds, 1) as pool,
    ):
        return take_sample(folder, pool, plan)


@contextmanager
def shared(store: Store, settings: Settings, job: Job, plan: str) -> Iterator[str]:
    """Leave in the store what others need to take part, as long as the context lasts: afterwards nobody begins to.
    Gives what they know it by."""
    known_by = _share(store, settings, job, plan)
    with Needs(store.disk) as needs:
        needs.add(_key(known_by))
        try:
            yield known_by
        finally:
            store.disk.remove(_key(known_by))


def _share(store: Store, settings: Settings, job: Job, plan: str) -> str:
    sample = sample_of(settings, job, load_plan(store.disk, plan))
    content = seal({"plan": plan, "job": job.to_dict(), "sample": sample, "likeness": dict(likeness())})
    shared = hashlib.sha256(content).hexdigest()
    with suppress(AlreadyExists):
        store.disk.create(_key(shared), content)
    return shared


def take_part(store: Store, shared: str) -> Shared | None:
    """The scoring that is known by `shared`; None when it is done.

    Raises ClusterError where this machine could make other rows, and Corrupt.
    """
    key = _key(shared)
    try:
        found = unseal(store.disk.read(key), key)
    except NotFound:
        return None
    if other := differences(found["likeness"], likeness()):
        raise ClusterError(
            f"expected what the machine of the run that asks has, found {', '.join(other)}: rows of this machine could "
            "be others; install the same there"
        )
    return Shared(found["plan"], Job.from_dict(found["job"]), found["sample"])


def _key(shared: str) -> str:
    return f"staging/plans/{shared}.json"
