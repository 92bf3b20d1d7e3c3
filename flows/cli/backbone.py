"""Verbs about pretrained networks."""

from typing import Any

import click

from flows.cli.verb import Result, open_store, verb


@click.group()
def backbone() -> None:
    """Take over pretrained networks, on which `retrain --architecture transfer` stands.

    \b
    Example:
      lookbook backbone add efficientnet-lite0
      lookbook backbone list
    """


@verb(show="backbone", name="add")
@click.argument("what", metavar="NAME|FILE.safetensors")
def add(what: str) -> Result:
    """Take over pretrained weights, checked: of the package that is installed for a NAME, or of a FILE.

    The one NAME is efficientnet-lite0. `lookbook retrain` adds it by itself where the store has none. A FILE holds the
    tensors of EfficientNet-Lite0 under timm's names, or under Lookbook's. New weights stand on what was added last; to
    go back, add the other one again. Weights that are there stay on theirs.

    \b
    Example:
      lookbook backbone add efficientnet-lite0
      lookbook backbone add tf_efficientnet_lite0.safetensors
    """
    from tasks.shared.backbones import add_backbone

    _, store = open_store()
    return _told(store.open(add_backbone(store, what)))


@verb(show="backbones", name="list", only_shows=True)
def list_backbones() -> Result:
    """List the pretrained networks in the store, with their licences, and which one new weights stand on.

    \b
    Example:
      lookbook backbone list
    """
    from tasks.shared.backbones import chosen_backbone

    _, store = open_store()
    chosen = chosen_backbone(store)
    return [{**_told(store.open(ref)), "chosen": ref == chosen} for ref in store.refs("backbones")]


def _told(artifact: Any) -> dict[str, Any]:
    facts = artifact.facts
    return {"ref": str(artifact.ref), **{name: facts[name] for name in ("source", "licence", "citation", "features")}}


backbone.add_command(add)
backbone.add_command(list_backbones)
