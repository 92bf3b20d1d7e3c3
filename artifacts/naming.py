"""What people type, as the ref that it means: short forms and aliases.

Whatever an error lists can be typed in the place of what was typed.
"""

import re
from typing import TYPE_CHECKING

from artifacts import aliases, tombstones
from artifacts.errors import Ambiguous, Corrupt, InvalidRef, NotFound
from artifacts.refs import KINDS, VERSION_DIGITS, Ref, check_name, name_in

if TYPE_CHECKING:
    from artifacts.store import Store

_PREFIX = re.compile(rf"[0-9a-f]{{4,{VERSION_DIGITS}}}")
_ALIASES = {"weights": "champion", "predictions": "latest"}
_MADE_BY = {"champion": "`lookbook retrain` makes one", "latest": "`lookbook score FOLDER` makes one"}
_LIST = "`lookbook list` shows what there is"


def resolve(store: "Store", text: str, kind: str | None = None) -> Ref:
    """The ref that `text` means: a ref, `name@version`, a version's first digits (4 or more), or an alias
    (`champion`, `latest`, `name@champion`). `kind` narrows the search.

    Raises InvalidRef, NotFound, and Ambiguous with a list when several fit.
    """
    given_kind, slash, rest = text.rpartition("/")
    if slash and given_kind not in KINDS:
        raise InvalidRef(f"expected a kind out of {', '.join(KINDS)}, found {text!r}")
    if kind and given_kind not in ("", kind):
        raise InvalidRef(f"expected one of the {kind}, found {text!r}")
    kind = given_kind or kind
    name, at, version = rest.rpartition("@")
    if at:
        check_name(name)
    if version in _ALIASES.values():
        found = _aliased(store, version, kind, name or None)
    elif _PREFIX.fullmatch(version):
        found = [ref for ref in store.refs(kind, name or None) if ref.version.startswith(version)]
    else:
        raise InvalidRef(
            "expected a ref, NAME@version, four or more digits of a version, champion, latest or NAME@champion, found "
            f"{text!r}; {_LIST}"
        )
    if not found:
        _tell_of_removed(store, version, kind, name or None)
        then = _MADE_BY.get(rest, _LIST)
        raise NotFound(f"nothing in the store {store.disk.root} fits {text!r}; {then}")
    if len(found) > 1:
        raise Ambiguous(f"{text!r} fits {len(found)} artifacts, name one: {', '.join(map(str, sorted(found)))}")
    return found[0]


def current(store: "Store", kind: str, text: str | None = None) -> Ref:
    """What the alias of `kind` means: champion of weights, latest of predictions.

    text: a name, `kind/name`, or a ref, which must be what the alias means; None where only one name has the alias.

    Raises InvalidRef, NotFound and Ambiguous.
    """
    alias = _ALIASES[kind]
    found = resolve(store, f"{name_in(text, kind)}@{alias}" if text else alias, kind)
    if text and "@" in text and (given := resolve(store, text, kind)) != found:
        raise InvalidRef(f"expected the {alias} of {found.name}, which is {found}, found {given}")
    return found


def _tell_of_removed(store: "Store", version: str, kind: str | None, name: str | None) -> None:
    """Raises Removed when a version that was removed fits."""
    for ref in tombstones.refs(store.disk, kind, name) if _PREFIX.fullmatch(version) else ():
        if ref.version.startswith(version) and (buried := tombstones.find(store.disk, ref)):
            raise buried.error()


def _aliased(store: "Store", alias: str, kind: str | None, name: str | None) -> list[Ref]:
    of = next(of for of, each in _ALIASES.items() if each == alias)
    if kind not in (None, of):
        raise InvalidRef(f"{alias} is an alias of {of}, not of {kind}; {_newest(store, kind, name)}")
    names = [name] if name else aliases.names(store.disk, of, alias)
    return [ref for each in names if (ref := aliases.current(store.disk, of, each, alias))]


def _newest(store: "Store", kind: str, name: str | None) -> str:
    """What to type where somebody wants the newest version: no alias of it is kept, so it is no fixed thing."""
    versions = store.opened(kind, name) if name else ()
    made = [(each.manifest["provenance"]["created"], ref) for ref, each in versions if not isinstance(each, Corrupt)]
    if not made:
        return f"`lookbook list {kind}` shows what there is"
    created, ref = max(made)
    return f"the newest of {kind}/{name} is {ref}, made {created}"
