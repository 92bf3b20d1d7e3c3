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
            f"random{tested}. {learned_sentence(found.learned)}",
            table(("least often right when it says", "right", "95 % interval", "labelled"), rows),
        ]
    )


def learned_sentence(rows: int | None) -> str:
    """What an audit leaves out: `rows` of pictures that the weights have learned from; None where nobody knows."""
    if rows is None:
        return "Pictures that its weights have learned from may be among them: the audit does not know which these are."
    if not rows:
        return "Its weights have learned from none of the table's pictures."
    return f"Not counted: {many(rows, 'more row')} of pictures that its weights have learned from."
