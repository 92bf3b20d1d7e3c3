"""What people said of pictures, in a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from tasks.reports.audit import learned_sentence
from tasks.reports.lines import print_out, table_of, text_of
from tasks.reports.numbers import many

_SHOWN = 5


def review(result: dict[str, Any]) -> None:
    print_out(Text.assemble("label pictures at ", (result["url"], "bold"), "; Ctrl-C ends it"))


def written(result: dict[str, Any]) -> None:
    print_out(text_of(f"{many(result['labels'], 'label')} in {result['file']}"))


def read(result: dict[str, Any]) -> None:
    conflicting = result["conflicting"]
    print_out(
        text_of(
            f"{many(result['labels'], 'label')} on record: {result['new']:,} new, {result['unchanged']:,} as before, "
            f"{len(conflicting):,} where something else was said"
        )
    )
    for each in conflicting[:_SHOWN]:
        shown = each["path"] or each["sha256"][:12]
        print_out(text_of(f"  {shown}: {each['was']} ({each['by']}, {each['at']}) is {each['label']} now"))
    if len(conflicting) > _SHOWN:
        print_out(text_of(f"  ... and {len(conflicting) - _SHOWN:,} more (--json tells all)"))
    if result["unseen"]:
        print_out(
            text_of(
                f"{result['unseen']:,} of them of contents in no row of the newest table: they count where a "
                "picture with that content is learned from"
            )
        )
    if unknown := result["unknown"]:
        shown = ", ".join(unknown[:_SHOWN]) + (" ..." if len(unknown) > _SHOWN else "")
        print_out(text_of(f"left out, as the newest table has no such path: {len(unknown):,} ({shown})", style="red"))


def production_facts(production: Mapping[str, Any]) -> dict[str, str]:
    """How good a table is by its audit (`tasks.reviewing.production`, as a dict), for people."""
    labelled = f"{production['labelled']:,} of {production['drawn']:,} drawn rows labelled"
    accuracy, tested = production["accuracy"], production["test_accuracy"]
    if accuracy is None:
        return {"accuracy here": f"not known yet: {labelled}"}
    learned = learned_sentence(production["learned"], production["compared"])
    facts = {"accuracy here": f"{_interval(accuracy)}; {labelled}. {learned}"}
    if tested is not None:
        facts["on the test images"] = f"{tested:.2%}"
    lines = [f"{name}: right in {_interval(share)}" for name, share in production["precision"].items()]
    return {**facts, "when it says": "\n".join(lines)}


def _interval(share: Mapping[str, float]) -> str:
    return f"{share['value']:.1%} (95 % interval {share['low']:.1%} to {share['high']:.1%})"


def events(result: list[dict[str, Any]]) -> None:
    table = table_of("when", "who", "said", "the model had said", "seen in", "")
    for each in result:
        back = each["taken_back"]
        said = each["label"] or {"none": "none of the classes", "bad": "a bad picture"}[each["verdict"]]
        model = f"{each['predicted']} {each['confidence']:.0%}" if each["confidence"] is not None else ""
        seen = f"{each['path'] or each['sha256'][:12]}, {each['table'] or 'imported'}"
        table.add_row(
            *map(text_of, (each["at"], each["by"], said, model, seen, f"taken back {back['at']}" if back else ""))
        )
    print_out(table)
