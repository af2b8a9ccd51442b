"""What the report says of a search for several devices, or within several bounds, beside the target's front."""

from __future__ import annotations

from nas.objectives.quantities import find_quantity
from nas.report import markup
from nas.report.markup import Column, Row
from nas.report.reading import ReportData
from nas.report.words import count, milliseconds, plural, value, words


def other_fronts(run: ReportData) -> list[str]:
    """All that was optimised and bounded, and the front of each device but the target, where there is more than one."""
    front = run.front
    if "fronts" not in front.document and "limits" not in front.document:
        return []
    bounds = [
        f"{words(limit.name)} {f'from {_bound(limit.name, limit.lower)} ' if limit.lower else ''}up to"
        f" {_bound(limit.name, limit.upper)}"
        for limit in front.limits
    ]
    text = f"{plural(len(front.front), 'network')} on the front over all objectives."
    if bounds:
        text += f" Every network shown holds all bounds at once: {'; '.join(bounds)}."
    parts = [markup.paragraph(text, "note")]
    name = run.lead.name
    for target, members in front.fronts.items():
        if target == front.target:
            continue
        columns = [
            Column("trial"),
            Column(f"latency on {target}, ms", True),
            Column("interval, ms", True),
            Column(words(name), True),
            Column("parameters", True),
            Column("MACs", True),
        ]
        rows = []
        for member in members:
            record = member.latency[target]
            interval_text = f"{milliseconds(record.low_ms)} to {milliseconds(record.high_ms)}"
            sizes = (count(member.params), count(member.macs))
            quality = value(member.value(name), name)
            rows.append(Row((str(member.number), milliseconds(record.ms), interval_text, quality, *sizes)))
        parts += [f"<h3>Front on {markup.escape(target)}</h3>", markup.table(columns, rows)]
    return parts


def _bound(name: str, end: float) -> str:
    quantity = find_quantity(name)
    return f"{end:,g}" if quantity is None or quantity.unit in ("", "ms") else quantity.text(end)
