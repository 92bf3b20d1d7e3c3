"""Verbs about pretrained networks."""

from typing import Any

import click

from flows.cli.verb import Result, open_store, verb


@click.group()
def backbone() -> None:
    """Take over pretrained networks, on which `retrain --architecture transfer` stands.

    \b
    Example:
      lookbook backbone add efficientnet-lite2
      lookbook backbone list
    """


@verb(show="backbone", name="add")
@click.argument("what", metavar="NAME|FILE.safetensors")
def add(what: str) -> Result:
    """Take over pretrained weights, checked: of the package that is installed for a NAME, or of a FILE.

    A NAME is efficientnet-lite0, efficientnet-lite1 or efficientnet-lite2. `lookbook retrain` adds those whose package
    is installed by itself. A FILE is one of these (timm's names), of DINOv2 ViT-S/14 or ViT-B/14, with registers or
    without (Hugging Face's names, or timm's), or of MobileNetV4-conv-medium (timm's names): its tensors say which.
    `lookbook retrain --backbone auto` tries all that there are; weights that are there stay on theirs.

    \b
    Example:
      lookbook backbone add efficientnet-lite2
      lookbook backbone add dinov2-small.safetensors
    """
    from tasks.shared.backbones import add_backbone

    _, store = open_store()
    return _told(store.open(add_backbone(store, what)))


@verb(show="backbones", name="list", only_shows=True)
def list_backbones() -> Result:
    """List the pretrained networks in the store, with their licences and the SHA-256 of their files.

    \b
    Example:
      lookbook backbone list
    """
    _, store = open_store()
    return [_told(store.open(ref)) for ref in store.refs("backbones")]


def _told(artifact: Any) -> dict[str, Any]:
    facts, identity = artifact.facts, artifact.identity
    return {
        "ref": str(artifact.ref),
        "architecture": identity["settings"]["architecture"],
        **{name: facts[name] for name in ("features", "source", "licence", "citation")},
        "sha256": identity["inputs"]["checkpoint"].removeprefix("sha256:"),
    }


backbone.add_command(add)
backbone.add_command(list_backbones)
