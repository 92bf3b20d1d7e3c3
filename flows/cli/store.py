"""Verbs that look into the store, and those that move `champion`."""

from typing import TYPE_CHECKING, Any

import click

from flows.cli.verb import Result, open_store, say, verb

if TYPE_CHECKING:
    from artifacts.errors import Corrupt
    from artifacts.refs import Ref
    from artifacts.store import Artifact

_WHY = "Why, for the history."


@verb(show="artifacts", name="list", only_shows=True)
@click.argument(
    "kind", required=False, type=click.Choice(["datasets", "weights", "metrics", "predictions", "backbones"])
)
def list_artifacts(kind: str | None) -> Result:
    """List what the store holds.

    The size is that of a version's files, those included that it shares with others.

    \b
    Example:
      lookbook list weights
    """
    from artifacts.store import size_of

    _, store = open_store()
    manifests = [(ref, _whole(found).manifest) for ref, found in store.opened(kind)]
    return [
        {
            "ref": str(ref),
            "created": manifest["provenance"]["created"],
            "bytes": size_of(manifest),
            "inputs": manifest["identity"]["inputs"],
        }
        for ref, manifest in sorted(manifests, key=lambda each: each[1]["provenance"]["created"])
    ]


@verb(show="artifact", only_shows=True)
@click.argument("ref")
def show(ref: str) -> Result:
    """Show one artifact: what it holds, what it was made from, when and where.

    REF is kind/name@version, name@version, a version's first digits, or champion. Of metrics the essential numbers
    are shown, and where their report is.

    \b
    Example:
      lookbook show champion
      lookbook show metrics/fashion-mnist@3f9a
    """
    from artifacts import pins
    from artifacts.store import size_of

    _, store = open_store()
    artifact = store.open(store.resolve(ref))
    shown = {"ref": str(artifact.ref), "path": str(artifact.folder), "bytes": size_of(artifact.manifest)}
    shown |= {"pinned": pins.pinned(store.disk).get(artifact.ref), **artifact.manifest}
    if artifact.ref.kind == "metrics":
        from artifacts import metrics

        shown["numbers"] = metrics.load(store, artifact.ref).document
    if artifact.ref.kind == "datasets":
        from artifacts import dataset

        shown["findings"] = dataset.load(store, artifact.ref).findings
    if artifact.ref.kind == "predictions":
        from tasks.reviewing.production import in_production

        production = in_production(store, artifact.ref)
        shown["production"] = production and production.to_dict()
    return shown


@verb(show="lineage", only_shows=True)
@click.argument("ref")
def lineage(ref: str) -> Result:
    """Show what an artifact was made from, down to the files, and what was made from it.

    REF is kind/name@version, name@version, a version's first digits, champion, or predictions/NAME@latest.

    \b
    Example:
      lookbook lineage champion
      lookbook lineage predictions/pictures@latest
    """
    from artifacts.lineage import lineage as trace

    _, store = open_store()
    return trace(store, store.resolve(ref))


@verb(show="history", only_shows=True)
@click.argument("name", required=False)
def history(name: str | None) -> Result:
    """Tell who was champion when, and why: every decision, oldest first.

    NAME is the name of weights, or a ref of them.

    \b
    Example:
      lookbook history fashion-mnist
    """
    from dataclasses import asdict

    from artifacts import aliases
    from artifacts.refs import name_in

    _, store = open_store()
    names = [name_in(name, "weights")] if name else aliases.names(store.disk, "weights", "champion")
    return [
        {"name": each, **asdict(event)}
        for each in names
        for event in aliases.history(store.disk, "weights", each, "champion")
    ]


@verb(show="decision")
@click.argument("ref")
@click.option("--reason", required=True, callback=lambda context, option, value: _said(value), help=_WHY)
def promote(ref: str, reason: str) -> Result:
    """Make these weights champion, whatever the comparison said.

    \b
    Example:
      lookbook promote 3f9a1c20 --reason "better on the new shop's pictures"
    """
    from dataclasses import asdict

    from artifacts import aliases, weights
    from artifacts.living import needing

    _, store = open_store()
    found = store.resolve(ref, "weights")
    with needing(store.disk, found):
        weights.check_files(store, found)
        return asdict(aliases.promote(store.disk, found, reason))


@verb(show="decision")
@click.argument("name", required=False)
@click.option("--reason", default="rolled back by hand", show_default=True, help=_WHY)
def rollback(name: str | None, reason: str) -> Result:
    """Make the champion before the current one champion again; one that is gone or damaged is refused.

    NAME is the name of weights, or a ref of their champion; it may be left out where only one name has a champion.

    \b
    Example:
      lookbook rollback fashion-mnist
    """
    from dataclasses import asdict

    from artifacts import aliases, weights

    _, store = open_store()
    champion = store.current("weights", name)

    def check(ref: "Ref") -> None:
        store.claim(ref)
        weights.check_files(store, ref)

    return asdict(aliases.rollback(store.disk, champion.name, reason, check))


@verb(show="verification", only_shows=True)
@click.argument("ref", required=False)
@click.option("--repair", is_flag=True, help="Tell what can be done about each damaged artifact.")
@click.option("--yes", is_flag=True, help="Do it: mend or remove the damaged artifacts. With --repair.")
def verify(ref: str | None, repair: bool, yes: bool) -> Result:
    """Hash everything in the store, or one artifact, and compare with what was published.

    What artifacts were made from, and what champion and latest ever meant, must be there, or have been removed by a
    rule; and so must every decision that a run says it made. What can't be read is told, too; it may be whole, so no
    repair touches it.

    \b
    Example:
      lookbook verify
      lookbook verify champion
      lookbook verify --repair
    """
    from dataclasses import asdict

    if yes and not repair:
        raise click.UsageError("expected --repair with --yes, found --yes alone")
    _, store = open_store()
    found = store.verify(store.resolve(ref) if ref else None)
    result: dict[str, Any] = {"checked": found.checked, "corrupt": found.corrupt}
    if repair:
        from tasks.shared.collecting import repair_store

        result["repair"] = [asdict(each) for each in repair_store(store, found.damaged, say, yes=yes)]
    return result


@verb(show="copied", name="copy")
@click.argument("source")
@click.argument("target")
def copy_store(source: str, target: str) -> Result:
    """Copy one store into another: all versions, and all that was written down about them.

    SOURCE and TARGET are folders or buckets (s3://bucket/prefix). Every file is hashed on its way. What is there
    already is hashed, and mended where it is damaged, but not copied again: so a copy that was interrupted goes on, one
    that is repeated brings what is new, and one from a backup restores. Runs may go on meanwhile: what they publish is
    for the next copy. What can't be copied is told at the end.

    \b
    Example:
      lookbook copy store s3://pictures/store
      lookbook copy s3://pictures/store store
    """
    from dataclasses import asdict

    from artifacts.copying import copy
    from artifacts.store import Store

    return asdict(copy(Store(source), Store(target), on_version=lambda ref: say(f"copying {ref}")))


def _whole(found: "Artifact | Corrupt") -> "Artifact":
    if isinstance(found, Exception):
        raise found
    return found


def _said(text: str) -> str:
    """A history without reasons tells nothing."""
    if not text.strip():
        raise click.BadParameter("expected a reason, found nothing")
    return text
