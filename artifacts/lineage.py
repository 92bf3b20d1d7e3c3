"""Where an artifact comes from, and what was made from it: read off the manifests, which name their inputs."""

from collections import defaultdict
from typing import Any

from artifacts.errors import Corrupt, InvalidRef, NotFound
from artifacts.refs import Ref
from artifacts.store import Store


def lineage(store: Store, ref: Ref) -> dict[str, Any]:
    """The artifact `ref` with all that is behind it and all that was made from it.

    ref, created, settings, and where they are known folder and licence; made_from: input name -> the same of that
    artifact, or the digest of what is none; made_into: a list of the same. An ancestor that is not there, or is
    damaged, has `problem` in place of the rest.
    Raises NotFound and Corrupt for `ref` itself.
    """
    store.open(ref)
    children: dict[str, list[Ref]] = defaultdict(list)
    for each, found in store.opened():
        if not isinstance(found, Corrupt):  # `lookbook verify` tells
            for value in set(found.identity["inputs"].values()):
                children[value].append(each)
    return {**_behind(store, ref), "made_into": _after(store, ref, children)}


def _behind(store: Store, ref: Ref) -> dict[str, Any]:
    try:
        line, inputs = _line(store, ref)
    except (NotFound, Corrupt) as error:
        return {"ref": str(ref), "problem": str(error)}
    return {**line, "made_from": {name: _input(store, value) for name, value in inputs.items()}}


def _input(store: Store, value: str) -> Any:
    try:
        return _behind(store, Ref.parse(value))
    except InvalidRef:
        return value


def _after(store: Store, ref: Ref, children: dict[str, list[Ref]]) -> list[dict[str, Any]]:
    """Each where it was made last: an evaluation of weights is below them, not below their dataset once more."""
    direct = children[str(ref)]
    below = {grandchild for child in direct for grandchild in children[str(child)]}
    return [
        {**_line(store, child)[0], "made_into": _after(store, child, children)} for child in sorted(set(direct) - below)
    ]


def _line(store: Store, ref: Ref) -> tuple[dict[str, Any], dict[str, str]]:
    """What a line of the tree says, and the inputs."""
    manifest = store.open(ref).manifest
    identity, made = manifest["identity"], manifest["provenance"]
    line = {"ref": str(ref), "created": made["created"], "settings": identity["settings"]}
    line |= {"folder": made["folder"]} if "folder" in made else {}
    line |= {"licence": identity["facts"]["licence"]} if "licence" in identity["facts"] else {}
    return line, identity["inputs"]
