"""Results as a person reads them in a terminal."""

from typing import TYPE_CHECKING, Any

from rich.text import Text
from rich.tree import Tree

from artifacts.printable import printable
from artifacts.refs import Ref
from tasks.reports.lines import print_facts, print_out, table_of, text_of, whole
from tasks.reports.numbers import CLASSES, many, plain, shown, size, with_interval

if TYPE_CHECKING:
    from artifacts.metrics import Numbers


def retraining(result: dict[str, Any]) -> None:
    seconds, accuracy = result["seconds"], result["accuracy"]
    decided = "[bold green]promoted[/]" if result["promoted"] else "[bold]not promoted[/]"
    epoch = "" if seconds["epoch"] is None else f" ({seconds['epoch']:.2f} an epoch)"
    facts = {
        "accuracy": "none (NaN)"
        if accuracy is None
        else Text.assemble((f"{accuracy:.2%}", "bold"), " of the test images"),
        "loss": "none (NaN)" if result["loss"] is None else f"{result['loss']:.4f}",
        "champion": Text.assemble(Text.from_markup(decided), printable(f": {result['reason']}")),
        "test split": f"has made {many(result['numbers']['decisions'], 'decision')} before this one",
        "weights": result["weights"],
        "dataset": result["dataset"],
        "metrics": result["metrics"],
        "report": whole(f"{result['store']}/{Ref.parse(result['metrics']).folder}/report.html"),
        "seconds": f"prepare {seconds['prepare']:.1f}, train {seconds['train']:.1f}{epoch}, "
        f"evaluate {seconds['evaluate']:.1f}, in all {seconds['total']:.1f}",
    }
    name = Ref.parse(result["weights"]).name
    verbs = (f"predict IMAGE... --weights {name}@champion", f"history {name}", f"lineage {name}@champion")
    following = f"next: {', '.join(f'[bold]lookbook {verb}[/]' for verb in verbs)}"
    print_facts("retrained", facts, following)


def scoring(result: dict[str, Any]) -> None:
    errors = ", ".join(f"{rows:,} {kind}" for kind, rows in result["errors"].items()) or "none"
    work = f"{result['predicted']:,} scored now, {result['reused']:,} taken over"
    facts = {
        "entries": Text.assemble((f"{result['images']:,}", "bold"), f": {work}"),
        "errors": errors,
        "classes": ", ".join(f"{label} {rows:,}" for label, rows in result["classes"].items()),
        "predictions": result["predictions"],
        "rows": whole(_rows(result["path"])),
        "report": whole(f"{result['path'].removesuffix('/data')}/report.html"),
        "seconds": f"{result['seconds']:.1f} ({result['images_per_second']:,.0f} images/s)",
    }
    if result["differs"]:
        facts["differs"] = text_of("; ".join(result["differs"].values()), style="yellow")
    print_facts("scored", facts)


def _rows(path: str) -> str:
    """In a bucket the versions of a table share its files, which the manifest names."""
    return f"{path}/*.parquet" if path.endswith("/data") else f"the files under `at` in {path}/manifest.json"


def predictions(result: dict[str, Any]) -> None:
    paths = [whole(each["path"]) for each in result["results"]]
    for path, each in zip(paths, result["results"], strict=True):
        path.pad_right(max(map(len, paths)) - len(path) + 2)
        if each["error"]:
            path.append_text(text_of(f"{each['error']}: {each['detail']}", style="red"))
        else:
            path.append_text(text_of(f"{each['label']} {each['confidence']:.1%}", style="bold"))
        print_out(path)


def artifacts(result: list[dict[str, Any]]) -> None:
    if not result:
        print_out("the store is empty; [bold]lookbook retrain[/] fills it")
        return
    table = table_of("artifact", "made", "size", "from", prose=("from",))
    for each in result:
        made_from = ", ".join(map(str, each["inputs"].values()))
        table.add_row(*map(text_of, (each["ref"], each["created"], size(each["bytes"]), made_from)))
    print_out(table)


def artifact(result: dict[str, Any]) -> None:
    identity, provenance = result["identity"], result["provenance"]
    facts: dict[str, Any] = {"path": whole(result["path"]), "size": size(result["bytes"])}
    facts |= {"pinned": result["pinned"]} if result["pinned"] else {}
    facts |= {f"from {name}": value for name, value in identity["inputs"].items()}
    facts |= identity["settings"]
    facts |= {name: value for name, value in identity["facts"].items() if not isinstance(value, (dict, list))}
    if classes := identity["facts"].get("classes"):
        facts["classes"] = ", ".join(classes)
    for side, counts in identity["facts"].get("counts", {}).items():
        facts[side] = many(counts["items"], "image")
    if bad := identity["facts"].get("bad"):
        facts["left out"] = _some([f"{path}: {why}" for path, why in bad.items()])
    if findings := result.get("findings"):
        facts["warnings"] = "\n".join(each["text"] for each in findings)
    if numbers := result.get("numbers"):
        from artifacts.metrics import Numbers

        facts |= _measured(Numbers.from_document(numbers))
    if production := result.get("production"):
        from tasks.reports.labelling import production_facts

        facts |= production_facts(production)
    facts |= {name: value for name, value in provenance.items() if not isinstance(value, (dict, list))}
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())
    files = {**identity["files"], **result["rendered"]}
    facts["files"] = "\n".join(f"{name}  {many(entry['bytes'], 'byte')}" for name, entry in files.items())
    print_facts(result["ref"], {name: each if isinstance(each, Text) else plain(each) for name, each in facts.items()})


def _measured(numbers: "Numbers") -> dict[str, str]:
    """The essentials of an evaluation. Those of an older Lookbook have fewer numbers."""
    facts = {"accuracy": with_interval(numbers), "loss": shown(numbers.loss, "{:.4f}")}
    facts |= {f"in the top {k}": f"{value:.2%}" for k, value in numbers.top_k.items()}
    if numbers.brier is not None:
        facts["Brier score"] = f"{numbers.brier:.4f}"
    if numbers.calibration:
        own = f" (uncalibrated {numbers.uncalibrated.error:.2%})" if numbers.uncalibrated else ""
        facts["calibration"] = f"{numbers.calibration['error']:.2%} off{own}"
    lines = [
        f"{name}: precision {shown(each.precision)}, recall {shown(each.recall)}, F1 {shown(each.f1)}, "
        f"{many(each.support, 'image')}"
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
    made = tree.add(text_of("made from it:" if result["made_into"] else "nothing was made from it", "dim"))
    _made_into(made, result["made_into"])
    print_out(tree)


def _made_from(tree: Tree, inputs: dict[str, Any]) -> None:
    for name, each in inputs.items():
        if isinstance(each, str):
            tree.add(text_of(f"{name}: {each}"))
        elif problem := each.get("problem"):
            tree.add(Text.assemble(text_of(f"{name}: {each['ref']}  "), text_of(problem, "red")))
        else:
            _made_from(_branch(tree.add(text_of(f"{name}: {each['ref']}  {each['created']}")), each), each["made_from"])


def _made_into(tree: Tree, outputs: list[dict[str, Any]]) -> None:
    for each in outputs:
        _made_into(tree.add(text_of(f"{each['ref']}  {each['created']}")), each["made_into"])


def _branch(tree: Tree, made: dict[str, Any]) -> Tree:
    if "folder" in made:
        tree.add(whole(f"folder: {made['folder']}"))
    if "licence" in made:
        tree.add(text_of(f"licence: {made['licence']}"))
    if made["settings"]:
        tree.add(text_of(f"settings: {plain(made['settings'])}", "dim"))
    return tree


def history(result: list[dict[str, Any]]) -> None:
    if not result:
        print_out("nothing was decided yet; [bold]lookbook retrain[/] trains the first champion")
        return
    table = table_of(
        "name", "number", "at", "by", "decision", "challenger", "champion", "split used", "reason", prose=("reason",)
    )
    for event in result:
        judged, version = (event[which].rpartition("@")[2] for which in ("challenger", "ref"))
        used = event["numbers"].get("decisions")  # by how many decisions before; none where a person decided
        decided = (event["name"], event["number"], event["at"], event["by"], event["action"], judged, version)
        columns = (*decided, "" if used is None else many(used, "time"), event["reason"])
        table.add_row(*(text_of(str(column)) for column in columns))
    print_out(table)


def decision(event: dict[str, Any]) -> None:
    print_out(Text.assemble((event["ref"], "bold"), text_of(f" is champion ({event['action']}: {event['reason']})")))


def verification(result: dict[str, Any]) -> None:
    for sentence in result["corrupt"]:
        print_out(text_of(sentence, style="red"))
    bad = len(result["corrupt"])
    print_out(f"{many(result['checked'], 'file')} checked, {f'{bad:,} corrupt' if bad else 'all sound'}")
    for each in result.get("repair", ()):
        print_out(Text.assemble((each["ref"], "bold"), text_of(f": {_mended(each)}")))


def _mended(repair: dict[str, Any]) -> str:
    """What was done about a damaged version, or can be."""
    made = f"; made from it: {', '.join(repair['dependants']) or 'nothing'}"
    if repair["whole"]:
        return "it is whole by now"
    if repair["same"]:
        same = f"by the same bytes in {repair['same']}"
        return f"mended {same}" if repair["mended"] else f"add --yes to mend it {same}"
    if repair["refused"]:
        return f"it stays, as {repair['refused']}{made}"
    if repair["bytes"] is None:
        return f"add --yes to remove it{made}"
    return f"removed, {size(repair['bytes'])} are free now{made}"


def collection(result: dict[str, Any]) -> None:
    if not result["removed"]:
        print_out("nothing to remove")
    else:
        table = table_of("removed" if result["done"] else "would go", "size", "why", prose=("why",))
        for each in result["removed"]:
            table.add_row(text_of(each["what"]), size(each["bytes"]), text_of(each["why"]))
        print_out(table)
    for note in result["notes"]:
        print_out(text_of(note, style="red"))
    stays = ", ".join(f"{why} ({count:,})" for why, count in sorted(result["stays"].items(), key=lambda each: -each[1]))
    stay = "1 version stays" if result["kept"] == 1 else f"{result['kept']:,} versions stay"
    print_out(text_of(f"{stay}{f': {stays}' if stays else ''}"))
    if result["done"]:
        print_out(f"{size(result['bytes'])} are free now")
    elif result["removed"]:
        print_out(f"{size(result['bytes'])} would be free; nothing was removed: add [bold]--yes[/] to do it")


def pin(event: dict[str, Any]) -> None:
    if event["action"] == "pin":
        print_out(Text.assemble((event["ref"], "bold"), text_of(f" stays, whatever is collected: {event['reason']}")))
    else:
        print_out(Text.assemble((event["ref"], "bold"), " goes when nothing else keeps it"))


def copied(result: dict[str, Any]) -> None:
    rest = f"; there already: {result['present']:,}" if result["present"] else ""
    rest += f", of these mended: {result['mended']:,}" if result["mended"] else ""
    print_out(f"versions and records copied: {result['copied']:,}, {many(result['bytes'], 'byte')}{rest}")


def export(result: dict[str, Any]) -> None:
    others = many(result["other_labels"], "other label") if result["other_labels"] else "the same labels"
    facts = {
        "weights": result["weights"],
        "graph": whole(result["path"]),
        "beside it": "labels.txt, lookbook.json",
        "checked": f"{many(result['images'], 'test image')}: {others}, probabilities differ from those of predict by "
        f"at most {result['max_difference']:.1e}" + (f" ({result['why']})" if result["why"] else ""),
        "size": many(result["bytes"], "byte"),
        "seconds": f"{result['seconds']:.1f}",
    }
    print_facts(f"exported as {result['format']}", facts)


def backbone(result: dict[str, Any]) -> None:
    told = {name: str(result[name]) for name in ("architecture", "features", "source", "licence", "citation")}
    told["SHA-256 of its file"] = result["sha256"]
    print_facts("pretrained network", {"backbone": Text(result["ref"], "bold"), **told})


def backbones(result: list[dict[str, Any]]) -> None:
    if not result:
        print_out("no pretrained network yet; [bold]lookbook backbone add efficientnet-lite0[/] takes one over")
        return
    table = table_of("backbone", "architecture", "features", "licence", "source", "SHA-256", prose=("licence",))
    for each in result:
        licence, source = text_of(each["licence"]), text_of(each["source"])
        features, digest = str(each["features"]), f"{each['sha256'][:16]}…"
        table.add_row(each["ref"], each["architecture"], features, licence, source, digest)
    print_out(table)


def operation(result: dict[str, Any]) -> None:
    facts = {
        "page": Text(result["url"], "bold"),
        **({"labelling": Text(result["review"], "bold")} if result["review"] else {}),
        "pools": "cpu (retrain, score), gpu (train), with a worker each",
        "deployments": "retrain/by-hand, retrain/weekly, score/by-hand, score/nightly, collect/sundays",
        "logs": whole(result["logs"]),
    }
    following = "Open the page, then Deployments, a deployment, Run, Custom run."
    ending = "Ctrl-C ends it." if result["ours"] else "It was up already; the `lookbook up` that brought it ends it."
    print_facts("lookbook is up", facts, following, ending)


def deployed(result: dict[str, Any]) -> None:
    facts = {
        "page": whole(result["api"].removesuffix("/api")),
        **{name: "\n".join(result[name]) for name in ("pools", "deployments", "automations")},
    }
    workers = "\n".join(f"prefect worker start --type process --pool {pool}" for pool in result["pools"])
    print_facts("deployed", facts, f"workers, where they run:\n{workers}")
