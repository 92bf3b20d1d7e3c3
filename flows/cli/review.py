"""Verbs about what people say of pictures: review, labels."""

import secrets
from dataclasses import asdict

import click

from flows.cli.verb import Result, open_store, say, verb


@verb(show="labelling.review")
@click.argument("name", required=False)
@click.option("--audit", type=click.IntRange(1, 100_000), help="Draw a random sample of this many rows.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Seed of that sample; by default a new one each time.")
def review(name: str | None, audit: int | None, seed: int | None) -> Result:
    """Open a page where people label what a model was least sure of, until Ctrl-C.

    NAME is the name of a table of predictions that `lookbook score` made, or a ref of its newest version. The
    labels are in the store at once, and a retraining with --labels NAME learns from them. With --audit the page
    shows a random sample instead, of pictures that the model has not learned from. When all of it is labelled, the
    page and `lookbook show predictions/NAME@latest` tell how good the predictions are.

    \b
    Example:
      lookbook review shoes
      lookbook review shoes --audit 200
    """
    from flows.review import address, listening, serve

    if audit and not name:
        raise click.UsageError("expected a NAME with --audit, found none")
    settings, store = open_store()
    page = "/"
    if name:
        from artifacts import predictions
        from tasks.reviewing.production import draw_audit

        table = predictions.load(store, store.current("predictions", name))
        name = table.artifact.ref.name
        page = f"/review/{name}"
        if audit:
            drawn = draw_audit(store, settings, table, audit, secrets.randbelow(2**31) if seed is None else seed)
            say(f"drew {len(drawn.pictures):,} rows of {drawn.table}")
            if drawn.learned:
                say(f"left out: about {drawn.learned:,} rows of pictures that its weights have learned from")
            page += "?mode=audit"
    with listening(settings) as sockets:
        yield {"url": address(settings, sockets) + page}
        serve(settings, sockets)


@click.group()
def labels() -> None:
    """Export, import and look up what people said about pictures (`lookbook review`).

    \b
    Example:
      lookbook labels export shoes labels.csv
      lookbook labels import shoes corrections.csv
      lookbook labels history shoes a/b.jpg
    """


@verb(show="labelling.written", name="export")
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False))
def export_labels(name: str, file: str) -> Result:
    """Write the label that counts for each picture to FILE: .csv or .parquet.

    \b
    Example:
      lookbook labels export shoes labels.csv
    """
    from artifacts.refs import name_in
    from tasks.shared.labels import export

    _, store = open_store()
    return {"file": file, "labels": export(store, name_in(name, "predictions"), file)}


@verb(show="labelling.read", name="import")
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--new-classes", is_flag=True, help="Accept classes that the weights of the newest table don't know.")
def import_labels(name: str, file: str, new_classes: bool) -> Result:
    """Read labels from another tool in FILE: .csv or .parquet.

    FILE has a column `label`, and a column `sha256` (of the picture's file) or `path` (as in the newest table called
    NAME). It may have a column `verdict`: class, none (of these classes) or bad (a bad picture). What the file says
    counts from now on. The result tells of each row whether it is new, counted already, changes what somebody said
    before, or names a path that the table does not have. A file with two labels for one content is refused, and so is
    one of which no row can be used. Paths may have backslashes, be absolute, or differ in case or form of Unicode.

    \b
    Example:
      lookbook labels import shoes corrections.csv
    """
    from artifacts.refs import name_in
    from tasks.shared.labels import read_in

    _, store = open_store()
    return asdict(read_in(store, name_in(name, "predictions"), file, new_classes=new_classes))


@verb(show="labelling.events", name="history", only_shows=True)
@click.argument("name")
@click.argument("picture")
def label_history(name: str, picture: str) -> Result:
    """Show all that was said about PICTURE (a path, or the first digits of a content's SHA-256), oldest first.

    \b
    Example:
      lookbook labels history shoes a/b.jpg
    """
    from artifacts.refs import name_in
    from tasks.shared.labels import told_of

    _, store = open_store()
    return told_of(store, name_in(name, "predictions"), picture)


for each in (export_labels, import_labels, label_history):
    labels.add_command(each)
