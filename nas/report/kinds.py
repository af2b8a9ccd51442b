"""Which kinds of operators the networks of the front have, where the space lets one choose among kinds."""

from __future__ import annotations

from collections import Counter

from nas.report import markup
from nas.report.markup import Column, Row
from nas.report.reading import ReportData, members_of
from nas.report.stages import choices_in_words
from nas.report.words import milliseconds, value, words
from search_spaces import get_space
from search_spaces.errors import SearchSpaceError


def kinds_section(run: ReportData) -> str:
    """The kinds of every stage along the front, and how often each occurs; empty where nothing of that is chosen."""
    front, members = run.front, members_of(run.front)
    try:
        names = [choice.name for choice in get_space(front.space).choices if choice.labels]
    except SearchSpaceError:
        return ""
    if not names or not members:
        return ""
    stages: dict[str, list[str]] = {}
    for name in names:
        stages.setdefault(name.partition(".")[0], []).append(name)
    chosen = [choices_in_words(member.architecture) for member in members]
    lead = run.lead.name
    rows = [
        Row(
            (
                str(member.number),
                milliseconds(member.latency[front.target].ms if front.target in member.latency else None),
                value(member.value(lead), lead),
                *(", ".join(dict.fromkeys(kinds[name] for name in stage)) for stage in stages.values()),
            )
        )
        for member, kinds in zip(members, chosen, strict=True)
    ]
    columns = [Column("trial"), Column("latency, ms", True), Column(words(lead), True), *map(Column, stages)]
    counts = [
        Row((words(name.replace(".", " ")), ", ".join(f"{kind} {count}" for kind, count in counted.most_common())))
        for name in names
        if (counted := Counter(kinds[name] for kinds in chosen))
    ]
    note = "In every column stand the kinds that the network has there, in the order of its choices."
    return markup.section(
        "Kinds along the front",
        markup.paragraph(note, "note"),
        markup.table(columns, rows),
        markup.folded(
            f"How many of the {len(members)} networks have each kind",
            markup.table([Column("choice"), Column("kinds")], counts),
        ),
    )
