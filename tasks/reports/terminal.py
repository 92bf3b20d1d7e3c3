"""Results as a person reads them in a terminal."""

from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from artifacts.printable import printable
from artifacts.refs import Ref
from tasks.reports.numbers import CLASSES, many, shown, size, with_interval

if TYPE_CHECKING:
    from artifacts.metrics import Numbers


def retraining(result: dict[str, Any]) -> None:
    seconds, accuracy = result["seconds"], result["accuracy"]
    decided = "[bold green]promoted[/]" if result["promoted"] else "[bold]not promoted[/]"
    facts = {
        "accuracy": "none (NaN)" if accuracy is None else f"[bold]{accuracy:.2%}[/] of the test images",
        "loss": "none (NaN)" if result["loss"] is None else f"{result['loss']:.4f}",
        "champion": Text.assemble(Text.from_markup(decided), printable(f": {result['reason']}")),
        "test split": f"has made {many(result['numbers']['decisions'], 'decision')} before this one",
        "weights": result["weights"],
        "dataset": result["dataset"],
        "metrics": result["metrics"],
        "report": _text(f"{result['store']}/{Ref.parse(result['metrics']).folder}/report.html"),
        "seconds": f"prepare {seconds['prepare']:.1f}, train {seconds['train']:.1f} ({seconds['epoch']:.2f} an epoch), "
        f"evaluate {seconds['evaluate']:.1f}, in all {seconds['total']:.1f}",
    }
    name = Ref.parse(result["weights"]).name
    verbs = (f"predict IMAGE... --weights {name}@champion", f"history {name}", f"lineage {name}@champion")
    following = f"next: {', '.join(f'[bold]lookbook {verb}[/]' for verb in verbs)}"
    _print(Panel(Group(_facts(facts), "", following), title="retrained", expand=False))


def scoring(result: dict[str, Any]) -> None:
    errors = ", ".join(f"{rows:,} {kind}" for kind, rows in result["errors"].items()) or "none"
    work = f"{result['predicted']:,} scored now, {result['reused']:,} taken over"
    facts = {
        "entries": f"[bold]{result['images']:,}[/]: {work}",
        "errors": errors,
        "classes": _text(", ".join(f"{label} {rows:,}" for label, rows in result["classes"].items())),
        "predictions": result["predictions"],
        "rows": _text(_rows(result["path"])),
        "report": _text(f"{result['path'].removesuffix('/data')}/report.html"),
        "seconds": f"{result['seconds']:.1f} ({result['images_per_second']:,.0f} images/s)",
    }
    _print(Panel(_facts(facts), title="scored", expand=False))


def _rows(path: str) -> str:
    """In a bucket the versions of a table share its files, which the manifest names."""
    return f"{path}/*.parquet" if path.endswith("/data") else f"the files under `at` in {path}/manifest.json"


def predictions(result: dict[str, Any]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for each in result["results"]:
        if each["error"]:
            table.add_row(_text(each["path"]), _text(f"{each['error']}: {each['detail']}", style="red"))
        else:
            table.add_row(_text(each["path"]), _text(f"{each['label']} {each['confidence']:.1%}", style="bold"))
    _print(table)


def artifacts(result: list[dict[str, Any]]) -> None:
    if not result:
        _print("the store is empty; [bold]lookbook retrain[/] fills it")
        return
    table = _table("artifact", "made", "size", "from")
    for each in result:
        table.add_row(each["ref"], each["created"], size(each["bytes"]), ", ".join(map(str, each["inputs"].values())))
    _print(table)


def artifact(result: dict[str, Any]) -> None:
    identity, provenance = result["identity"], result["provenance"]
    facts: dict[str, Any] = {"path": result["path"], "size": size(result["bytes"])}
    facts |= {"pinned": result["pinned"]} if result["pinned"] else {}
    facts |= {f"from {name}": value for name, value in identity["inputs"].items()}
    facts |= identity["settings"]
    facts |= {name: value for name, value in identity["facts"].items() if not isinstance(value, (dict, list))}
    if classes := identity["facts"].get("classes"):
        facts["classes"] = ", ".join(classes)
    for side, counts in identity["facts"].get("counts", {}).items():
        facts[side] = f"{counts['items']:,} images"
    if bad := identity["facts"].get("bad"):
        facts["left out"] = _some([f"{path}: {why}" for path, why in bad.items()])
    if findings := result.get("findings"):
        facts["warnings"] = "\n".join(each["text"] for each in findings)
    if numbers := result.get("numbers"):
        from artifacts.metrics import Numbers

        facts |= _measured(Numbers.from_document(numbers))
    facts |= {name: value for name, value in provenance.items() if not isinstance(value, (dict, list))}
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())
    files = {**identity["files"], **result["rendered"]}
    facts["files"] = "\n".join(f"{name}  {entry['bytes']:,} bytes" for name, entry in files.items())
    _print(Panel(_facts({name: _text(str(value)) for name, value in facts.items()}), title=result["ref"], expand=False))


def _measured(numbers: "Numbers") -> dict[str, str]:
    """The essentials of an evaluation. Those of an older Lookbook have fewer numbers."""
    facts = {"accuracy": with_interval(numbers), "loss": shown(numbers.loss, "{:.4f}")}
    facts |= {f"in the top {k}": f"{value:.2%}" for k, value in numbers.top_k.items()}
    if numbers.brier is not None:
        facts["Brier score"] = f"{numbers.brier:.4f}"
    if numbers.calibration:
        facts["calibration"] = f"{numbers.calibration['error']:.2%} off"
    lines = [
        f"{name}: precision {shown(each.precision)}, recall {shown(each.recall)}, F1 {shown(each.f1)}, "
        f"{each.support:,} images"
        for name, each in numbers.per_class.items()
    ]
    facts["classes"] = _some(lines, CLASSES)
    if confused := numbers.most_confused:
        facts["confused"] = _some([f"{each.is_} called {each.called}: {each.items:,}" for each in confused], 5)
    if numbers.doubtful is not None:
        facts["label errors"] = f"{numbers.doubtful:,} likely ones"
    return facts


def _some(lines: list[str], most: int = 10) -> str:
    return "\n".join([*lines[:most], *([f"... and {len(lines) - most:,} more"] if len(lines) > most else [])])


def lineage(result: dict[str, Any]) -> None:
    tree = _branch(Tree(Text.assemble((result["ref"], "bold"), f"  {result['created']}")), result)
    _made_from(tree, result["made_from"])
    made = tree.add(_text("made from it:" if result["made_into"] else "nothing was made from it", "dim"))
    _made_into(made, result["made_into"])
    _print(tree)


def _made_from(tree: Tree, inputs: dict[str, Any]) -> None:
    for name, each in inputs.items():
        if isinstance(each, str):
            tree.add(_text(f"{name}: {each}"))
        elif problem := each.get("problem"):
            tree.add(Text.assemble(f"{name}: {each['ref']}  ", (problem, "red")))
        else:
            _made_from(_branch(tree.add(_text(f"{name}: {each['ref']}  {each['created']}")), each), each["made_from"])


def _made_into(tree: Tree, outputs: list[dict[str, Any]]) -> None:
    for each in outputs:
        _made_into(tree.add(_text(f"{each['ref']}  {each['created']}")), each["made_into"])


def _branch(tree: Tree, made: dict[str, Any]) -> Tree:
    if "folder" in made:
        tree.add(_text(f"folder: {made['folder']}"))
    if "licence" in made:
        tree.add(_text(f"licence: {made['licence']}"))
    if settings := ", ".join(f"{name} {value}" for name, value in made["settings"].items()):
        tree.add(_text(f"settings: {settings}", "dim"))
    return tree


def history(result: list[dict[str, Any]]) -> None:
    if not result:
        _print("nothing was decided yet; [bold]lookbook retrain[/] trains the first champion")
        return
    table = _table("name", "number", "at", "by", "decision", "challenger", "champion", "split used", "reason")
    for event in result:
        judged, version = (event[which].rpartition("@")[2] for which in ("challenger", "ref"))
        used = event["numbers"].get("decisions")  # by how many decisions before; none where a person decided
        decided = (event["name"], event["number"], event["at"], event["by"], event["action"], judged, version)
        columns = (*decided, "" if used is None else many(used, "time"), event["reason"])
        table.add_row(*(_text(str(column)) for column in columns))
    _print(table)


def decision(event: dict[str, Any]) -> None:
    _print(Text.assemble((event["ref"], "bold"), f" is champion ({event['action']}: {event['reason']})"))


def verification(result: dict[str, Any]) -> None:
    for sentence in result["corrupt"]:
        _print(_text(sentence, style="red"))
    bad = len(result["corrupt"])
    _print(
        f"{result['checked']:,} files checked, {bad} corrupt"
        if bad
        else f"{result['checked']:,} files checked, all sound"
    )
    for each in result.get("repair", ()):
        _print(Text.assemble((each["ref"], "bold"), _text(f": {_mended(each)}")))


def _mended(repair: dict[str, Any]) -> str:
    """What was done about a damaged version, or can be."""
    made = f"; made from it: {', '.join(repair['dependants']) or 'nothing'}"
    if repair["refused"]:
        return f"it stays, as {repair['refused']}{made}"
    if repair["bytes"] is None:
        return f"add --yes to remove it{made}"
    return f"removed, {size(repair['bytes'])} are free now{made}"


def collection(result: dict[str, Any]) -> None:
    if not result["removed"]:
        _print("nothing to remove")
    else:
        table = _table("removed" if result["done"] else "would go", "size", "why")
        for each in result["removed"]:
            table.add_row(_text(each["what"]), size(each["bytes"]), _text(each["why"]))
        _print(table)
    for note in result["notes"]:
        _print(_text(note, style="red"))
    stays = ", ".join(f"{count:,} {why}" for why, count in sorted(result["stays"].items(), key=lambda each: -each[1]))
    _print(_text(f"{result['kept']:,} versions stay{f': {stays}' if stays else ''}"))
    if result["done"]:
        _print(f"{size(result['bytes'])} are free now")
    elif result["removed"]:
        _print(f"{size(result['bytes'])} would be free; nothing was removed: add [bold]--yes[/] to do it")


def pin(event: dict[str, Any]) -> None:
    if event["action"] == "pin":
        _print(Text.assemble((event["ref"], "bold"), _text(f" stays, whatever is collected: {event['reason']}")))
    else:
        _print(Text.assemble((event["ref"], "bold"), " goes when nothing else keeps it"))


def copied(result: dict[str, Any]) -> None:
    rest = f", {result['present']:,} were there" if result["present"] else ""
    _print(f"{result['copied']:,} versions and records copied, {result['bytes']:,} bytes{rest}")


def export(result: dict[str, Any]) -> None:
    facts = {
        "weights": result["weights"],
        "graph": _text(result["path"]),
        "beside it": "labels.txt, lookbook.json",
        "checked": f"{result['images']:,} test images: the same labels, probabilities differ by at most "
        f"{result['max_difference']:.1e}",
        "size": f"{result['bytes']:,} bytes",
        "seconds": f"{result['seconds']:.1f}",
    }
    _print(Panel(_facts(facts), title=f"exported as {result['format']}", expand=False))


def backbone(result: dict[str, Any]) -> None:
    facts = {"backbone": f"[bold]{result['ref']}[/]"}
    told = {name: _text(result[name]) for name in ("source", "licence", "citation")}
    _print(Panel(_facts({**facts, **told}), title="pretrained network", expand=False))


def backbones(result: list[dict[str, Any]]) -> None:
    if not result:
        _print("no pretrained network yet; [bold]lookbook backbone add efficientnet-lite0[/] takes one over")
        return
    table = _table("backbone", "licence", "source")
    for each in result:
        table.add_row(each["ref"], _text(each["licence"]), _text(each["source"]))
    _print(table)


def operation(result: dict[str, Any]) -> None:
    facts = {
        "page": f"[bold]{result['url']}[/]",
        "pools": "cpu (retrain, score), gpu (train), with a worker each",
        "deployments": "retrain/weekly, train/gpu, score/folder, score/nightly, collect/store",
        "logs": _text(result["logs"]),
    }
    following = "Open the page, then Deployments, a deployment, Run, Custom run."
    ending = "Ctrl-C ends it." if result["ours"] else "It was up already; the `lookbook up` that brought it ends it."
    _print(Panel(Group(_facts(facts), "", following, ending), title="lookbook is up", expand=False))


def _text(value: object, style: str = "") -> Text:
    """Text from a store or a folder: no markup, and nothing that a terminal would obey."""
    return Text(printable(value), style)


def _facts(facts: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(*parts: Any) -> None:
    console = Console()
    if not console.is_terminal:  # a pipe has no width to wrap for
        console = Console(width=240)
    console.print(*parts, highlight=False)
