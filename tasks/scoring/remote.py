"""Shards of a plan on a cluster: what the stage hands out, and what one of the machines does."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

from artifacts.settings import Settings
from artifacts.shards import part_of
from artifacts.store import Store
from tasks.cluster.actor import Receipt
from tasks.cluster.conducting import carry_out
from tasks.cluster.sample import check_sample
from tasks.cluster.sharing import shared_plan
from tasks.scoring.finishing import Finished, Finisher, Records
from tasks.scoring.groups import sample_of
from tasks.scoring.job import Job
from tasks.shared.listing import allow_folder, folder_place
from tasks.shared.plans import Plan
from tasks.shared.watching import OnRows, Watch

ELSEWHERE = ("missing", "changed", "unreadable")
"""Errors that another machine may have where this one has none, as its mount is another."""


def finish_on_cluster(
    settings: Settings,
    job: Job,
    plan: Plan,
    numbers: list[int],
    watch: Watch,
) -> Iterator[Finished]:
    """Have shards of the plan finished by the nodes of a cluster. Raises what `carry_out` does."""
    work = {
        "kind": "score",
        "job": job.to_dict(),
        "folder": folder_place(settings, job.request.folder),
        "plan": plan.key,
        "sample": [] if settings.cluster == "local" else sample_of(settings, job, plan),
    }
    for told in carry_out(settings, work, numbers, "shard", watch):
        yield Finished(told.number, part_of(told.receipt["part"]), told.receipt["reused"])


class Shards:
    """Shards of a plan on one machine of a cluster: decoders and the model are started once."""

    def __init__(self, task: Mapping[str, Any], processors: int) -> None:
        """task: as `finish_on_cluster` makes it. Raises what says that this machine can't do it."""
        settings = Settings()
        store = Store(settings.store)
        job = Job.from_dict(task["job"])
        job = replace(job, request=replace(job.request, folder=allow_folder(task["folder"])))
        plan = shared_plan(store.disk, task["plan"])
        records = Records(store, job, plan)
        with ExitStack() as stack:
            self._finisher = stack.enter_context(Finisher(store, settings, job, plan, records, processors))
            folder = self._finisher.folder
            folder.by_size = not check_sample(folder, self._finisher.pool, task["sample"])
            self._stack = stack.pop_all()  # open until the process ends

    def do(self, numbers: list[int], on_rows: OnRows) -> Iterator[tuple[int, Receipt]]:
        """A receipt tells the part that is on record."""
        for finished in self._finisher.finish(numbers, on_rows):
            part = finished.part
            receipt = {"rows": part.rows, "errors": sum(part.errors.values()), "reused": finished.reused}
            yield finished.number, {**receipt, "part": asdict(part)}
