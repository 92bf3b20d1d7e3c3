"""An audit in a report: how good the predictions were that people looked at."""

from tasks.reports.numbers import many
from tasks.reports.tables import cell, table
from tasks.reviewing.production import Production

_WORST = 5


def markdown(found: Production) -> str:
    """How good the predictions were that people looked at, for a report."""
    if found.accuracy is None:
        return (
            f"Audit {found.audit} of `{found.table}`: people have labelled {found.labelled:,} of {found.drawn:,} rows "
            "drawn at random. How many predictions are right is told when all of them are labelled."
        )
    tested = f"; on their test images the same weights have {found.test_accuracy:.1%}" if found.test_accuracy else ""
    worst = sorted(found.precision.items(), key=lambda each: each[1].value)[:_WORST]
    rows = [
        (cell(name), f"{share.value:.1%}", f"{share.low:.1%} to {share.high:.1%}", f"{share.items:,}")
        for name, share in worst
    ]
    return "\n\n".join(
        [
            f"**{found.accuracy.value:.1%}** of the predictions in `{found.table}` are right (95 % interval "
            f"{found.accuracy.low:.1%} to {found.accuracy.high:.1%}), by an audit of {found.drawn:,} rows drawn at "
            f"random{tested}. {learned_sentence(found.learned, found.compared)}",
            table(("least often right when it says", "right", "95 % interval", "labelled"), rows),
        ]
    )


def learned_sentence(rows: int | None, compared: bool) -> str:
    """What an audit leaves out: `rows` of pictures that the weights have learned from; None where nobody knows.
    compared: whether they are known by their pixels, or by their files alone."""
    if rows is None:
        return "Pictures that its weights have learned from may be among them: the audit does not know which these are."
    if compared:
        if not rows:
            return "Its weights have learned from none of the pictures that were drawn."
        return f"Not counted: about {many(rows, 'more row')} of pictures that its weights have learned from."
    files = (
        f"Not counted: {many(rows, 'more row')} of files that its weights have learned from."
        if rows
        else "Its weights have learned from none of the table's files."
    )
    return f"{files} Other files of pictures that they have learned from may be among those drawn."
