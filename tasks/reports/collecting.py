"""The report of a collection in Prefect's UI: what went, what stays and why, and how the store has grown."""

from collections import Counter

from artifacts.collecting.collector import Collection
from artifacts.collecting.growth import growth
from artifacts.collecting.inventory import Inventory
from artifacts.store import Store
from tasks.reports.numbers import many, size
from tasks.reports.pictures import data_uri, growth_chart
from tasks.reports.tables import cell, table

_SHOWN = 30


def markdown(store: Store, found: Collection, *, done: bool) -> str:
    """GitHub's markdown with the chart inside. done: whether what goes went."""
    went = "went" if done else "would go"
    free = "are free now" if done else "would be free; run it again with `remove` to have it gone"
    parts = [f"**{many(len(found.removed), 'removal')}**, {size(found.bytes)} {free}."]
    parts += [f"**Look at this:** {cell(note)}" for note in found.notes]
    if found.removed:
        rules: Counter[str] = Counter()
        bytes_of: Counter[str] = Counter()
        for each in found.removed:
            rules[each.rule] += 1
            bytes_of[each.rule] += each.bytes
        rows = [(cell(rule), f"{count:,}", size(bytes_of[rule])) for rule, count in rules.most_common()]
        parts.append(table((f"what {went}", "number", "size"), rows))
    stays = sorted(found.stays.items(), key=lambda each: -each[1])
    parts.append(table(("what stays", "versions"), [(cell(why), f"{count:,}") for why, count in stays]))
    sizes = [(kind, size(total)) for kind, total in sorted(found.kept_bytes.items())]
    parts.append(table(("kind", "size of what stays"), sizes))
    if grown := growth(store, Inventory(store).look()):
        parts.append(f"![bytes by kind over time]({data_uri(growth_chart(grown), 'png')})")
        parts.append("Files that several versions share count for each of them.")
    if found.removed:
        largest = sorted(found.removed, key=lambda each: -each.bytes)[:_SHOWN]
        rows = [(cell(each.what), cell(each.why), size(each.bytes)) for each in largest]
        parts.append(table((f"the largest that {went}", "why", "size"), rows))
    return "\n\n".join(parts)
