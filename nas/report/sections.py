"""The sections of the report, each a function from the run folder to HTML."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping

from latency_tables.predictor import Latency
from nas.objectives.objective import ACCURACY, AVERAGE_PRECISION, MEAN_IOU
from nas.records.network import SIZES
from nas.records.trial import State
from nas.report import markup
from nas.report.checks import flat_facts
from nas.report.figures import draw_front, draw_progress, draw_size, pick_of
from nas.report.markup import Column, Figures, Row
from nas.report.other_fronts import other_fronts
from nas.report.reading import ReportData, members_of, verified_share
from nas.report.stages import StageTable, choices_in_words, stage_table
from nas.report.statistics import Correlation, RankCorrelation, rank_correlation
from nas.report.words import MISSING, count, interval, milliseconds, plural, space_words, value, words
from nas.runs.front import FrontMember

FRONT_HEIGHT, SMALL_HEIGHT = 480, 330


def headline(run: ReportData) -> str:
    """Title and the result in a sentence."""
    front = run.front
    limit = "" if front.limit_ms is None else f" under a limit of {front.limit_ms:.5g} ms"
    networks = f"{plural(front.evaluated, 'network')} of {space_words(front.space)}"
    sentence = f"The search evaluated {networks} for {front.target}{limit}"
    latencies = [member.latency[front.target].ms for member in members_of(front) if front.target in member.latency]
    if not latencies:
        sentence += "; none of them makes a front."
    elif len(latencies) == 1:
        sentence += f"; one beats all others, at {milliseconds(latencies[0])} ms."
    else:
        sentence += (
            f"; {len(latencies)} of them form the front, from {milliseconds(min(latencies))} to"
            f" {milliseconds(max(latencies))} ms."
        )
    pick = pick_of(front)
    if pick is not None:
        sentence += (
            f" The recommended one has {count(pick.params)} parameters and {count(pick.macs)} MACs and is predicted to"
            f" take {interval(pick.latency[front.target])}."
        )
    return "\n".join(
        [
            markup.paragraph("Architecture search report", "kicker"),
            f"<h1>{markup.escape(title(run))}</h1>",
            markup.paragraph(sentence, "lead"),
        ]
    )


def title(run: ReportData) -> str:
    """The page's title: space, target, bound."""
    limit = "" if run.front.limit_ms is None else f" within {run.front.limit_ms:.5g} ms"
    return f"{space_words(run.front.space)} on {run.front.target}{limit}"


def recommendation(run: ReportData) -> str:
    """The recommended network in large numbers."""
    front, pick = run.front, pick_of(run.front)
    if pick is None:
        return markup.section(
            "No network to recommend",
            markup.paragraph(
                "The front is empty. Raise the limit, choose a space with smaller networks or search on."
                f" {_set_aside(run)}"
            ),
        )
    name, record = run.lead.name, pick.latency[front.target]
    span = f"{milliseconds(record.low_ms)} to {milliseconds(record.high_ms)} ms, {_kind(record)}"
    better = "higher" if run.lead.is_maximised else "lower"
    entries = [
        (words(name), value(pick.value(name), name), f"{better} is better"),
        ("predicted latency", MISSING if record.extrapolated else f"{milliseconds(record.ms)} ms", span),
        ("parameters", count(pick.params), ""),
        ("MACs", count(pick.macs), "per image"),
    ]
    for figure in (ACCURACY, AVERAGE_PRECISION, MEAN_IOU):
        tested = verified_share(front, f"test_{figure}")
        if tested is not None:
            entries.append((f"test {words(figure)}", value(tested, figure), "of the file that ships"))
    reason = (
        "The only network of the front."
        if len(members_of(front)) == 1
        else f"The best {words(name)} within the limits."
        if front.default_pick == "best"
        else f"The knee of the front: the best balance of latency and {words(name)}."
    )
    return markup.section(
        f"Recommended: trial {pick.number}", markup.paragraph(reason, "note"), markup.tiles(entries), kind="pick"
    )


def front_section(run: ReportData, figures: Figures) -> str:
    """The Pareto scatter and the table of the front."""
    front, pick = run.front, pick_of(run.front)
    if pick is None and not run.done:
        return ""
    plot = figures.place("front", draw_front(front, run.trials).to_json(), "Front of the search", FRONT_HEIGHT)
    note = (
        "No evaluated network is both faster and better than one on the front. Whiskers are the intervals of the"
        f" predictions; the limit applies to their upper end. {_set_aside(run)}"
    )
    table = front_table(run) if members_of(front) else ""
    return markup.section("Front", markup.paragraph(note, "note"), plot, table, *other_fronts(run))


def front_table(run: ReportData) -> str:
    """The networks of the front, a row each."""
    front, pick = run.front, pick_of(run.front)
    columns = [
        Column("trial"),
        Column(f"latency on {front.target}, ms", True),
        Column("interval, ms", True),
        Column(words(run.lead.name), True),
        Column("parameters", True),
        Column("MACs", True),
        *(Column(words(cost), True) for cost in _further(run)),
        Column("latency is"),
    ]
    return markup.table(columns, [_front_row(member, run, chosen=member is pick) for member in members_of(front)])


def network_section(run: ReportData) -> str:
    """The recommended network stage by stage."""
    front, pick = run.front, pick_of(run.front)
    if pick is None:
        return ""
    heading = f"Network of trial {pick.number}"
    stages = stage_table(pick, _classes(run), front.target)
    if stages is None:
        choices = {words(name): setting for name, setting in choices_in_words(pick.architecture).items()}
        space = space_words(front.space)
        note = f"The space {space} does not give this network the size that the run says, so only choices are shown."
        return markup.section(heading, markup.paragraph(note, "note"), markup.pairs(choices))
    channels, *sides = stages.input_shape
    note = f"Input: {channels} x {' x '.join(map(str, sides))}. Depth counts the stage's blocks."
    return markup.section(heading, markup.paragraph(note, "note"), _stage_markup(stages, pick, front.target))


def progress_section(run: ReportData, figures: Figures) -> str:
    """How the search went."""
    done = run.done
    if not done:
        text = f"No trial has been evaluated. {_set_aside(run)}"
        return markup.section("Search progress", markup.paragraph(text, "note"))
    volume, course = (figure.to_json() for figure in draw_progress(run.front, done))
    note = (
        "Hypervolume is the share of the box between the worst and the best value of latency and"
        f" {words(run.lead.name)} that the front dominates; a flat end means that more trials would"
        " have changed little."
    )
    return markup.section(
        "Search progress",
        markup.paragraph(note, "note"),
        markup.side_by_side(
            markup.captioned(
                "Hypervolume", figures.place("hypervolume", volume, "Hypervolume by evaluations", SMALL_HEIGHT)
            ),
            markup.captioned(
                words(run.lead.name).capitalize(),
                figures.place("course", course, "Objective by trial number", SMALL_HEIGHT),
            ),
        ),
    )


def size_section(run: ReportData, figures: Figures) -> str:
    """Whether the objective says more than size."""
    name, done = run.lead.name, run.done
    if not done:
        return ""
    columns = [
        Column(f"{words(name)} against"),
        Column("Kendall tau"),
        Column("95 % interval"),
        Column("Spearman rho"),
        Column("95 % interval"),
        Column("networks", True),
    ]
    correlations = _correlations(run)
    rows = [
        Row((label, *_correlation(found.kendall), *_correlation(found.spearman), f"{found.count:,}"))
        for label, found in correlations.items()
    ]
    by_params, by_macs = (figure.to_json() for figure in draw_size(run.front, done))
    return markup.section(
        f"Is {words(name)} more than size?",
        markup.paragraph(_size_verdict(words(name), correlations), "note"),
        markup.table(columns, rows) if rows else "",
        markup.side_by_side(
            figures.place("params", by_params, "Objective by parameters", SMALL_HEIGHT),
            figures.place("macs", by_macs, "Objective by MACs", SMALL_HEIGHT),
        ),
    )


def sources_section(run: ReportData) -> str:
    """Where the numbers come from, and how to go on."""
    front, done = run.front, run.done
    kinds = sorted({record.kind for trial in done if (record := trial.latency.get(front.target)) and record.kind})
    outside = sum(trial.latency[front.target].extrapolated for trial in done)
    facts = {
        "latency": f"{', '.join(kinds)} table" if kinds else MISSING,
        "extrapolated": f"{outside:,} of {plural(len(done), 'network')} ({outside / len(done):.0%})"
        if done
        else MISSING,
        "seed": str(front.document.get("seed", MISSING)),
    }
    honesty = "No network like the extrapolated ones is behind the table: an estimate ranks them, a range is shown."
    folder = shlex.quote(str(run.path))
    return markup.section(
        "Sources",
        markup.bullets(front.sources) if front.sources else "",
        markup.pairs(facts),
        markup.paragraph(honesty, "note") if outside else "",
        "<h3>Go on</h3>",
        markup.commands([f"nas search --resume {folder}", *([f"nas export {folder}"] if front.front else [])]),
        markup.folded("Settings", markup.pairs(flat_facts(run.settings))) if run.settings else "",
        markup.folded("Environment and versions", markup.pairs(flat_facts(run.environment))) if run.environment else "",
    )


# -- parts -------------------------------------------------------------------------------------------------------


def _front_row(member: FrontMember, run: ReportData, *, chosen: bool) -> Row:
    front = run.front
    name, record = run.lead.name, member.latency.get(front.target)
    cells = (
        f"{member.number}, recommended" if chosen else str(member.number),
        milliseconds(record.ms if record and not record.extrapolated else None),
        f"{milliseconds(record.low_ms)} to {milliseconds(record.high_ms)}" if record else MISSING,
        value(member.value(name), name),
        count(member.params),
        count(member.macs),
        *(value(member.value(cost), cost) for cost in _further(run)),
        _kind(record) if record else MISSING,
    )
    return Row(cells, chosen)


def _stage_markup(stages: StageTable, pick: FrontMember, target: str) -> str:
    has_ms = stages.rest_ms is not None
    columns = [
        Column("stage"),
        Column("depth"),
        Column("width", True),
        Column("output, pixels", True),
        Column("choices"),
        Column("parameters", True),
        Column("MACs", True),
        *([Column("predicted, ms", True)] if has_ms else []),
    ]
    rows = [
        Row(
            (
                row.name,
                row.depth,
                str(row.width),
                row.extent or MISSING,
                row.choices or MISSING,
                count(row.params),
                count(row.macs),
                *([milliseconds(row.ms)] if has_ms else []),
            )
        )
        for row in stages.rows
    ]
    if stages.rest_ms:
        rows.append(Row(("fixed cost per image", *[MISSING] * 6, milliseconds(stages.rest_ms))))
    latency = [milliseconds(pick.latency[target].ms)] if has_ms else []
    total = Row(("whole network", "", "", "", "", count(pick.params), count(pick.macs), *latency))
    return markup.table(columns, rows, total)


def _correlations(run: ReportData) -> dict[str, RankCorrelation]:
    name, done = run.lead.name, run.done
    sizes: dict[str, list[float]] = {
        "parameters": [trial.value("params") for trial in done],
        "MACs": [trial.value("macs") for trial in done],
    }
    for score in sorted({score for trial in done for score in trial.scores}):
        sizes[f"{words(score)} (reported beside)"] = [trial.scores.get(score, math.nan) for trial in done]
    found = {}
    for label, sizes_n in sizes.items():
        paired = [(trial.value(name), size) for trial, size in zip(done, sizes_n, strict=True) if not math.isnan(size)]
        correlation = rank_correlation([objective for objective, _ in paired], [size for _, size in paired])
        if correlation is not None:
            found[label] = correlation
    return found


def _correlation(correlation: Correlation) -> tuple[str, str]:
    return f"{correlation.value:+.2f}", f"{correlation.low:+.2f} to {correlation.high:+.2f}"


def _size_verdict(name: str, correlations: Mapping[str, RankCorrelation]) -> str:
    sizes = {label: correlations[label] for label in ("parameters", "MACs") if label in correlations}
    if not sizes:
        return "Too few networks, or all of one size: no rank correlation can be told."
    label, strongest = max(sizes.items(), key=lambda item: abs(item[1].kendall.value))
    strength = abs(strongest.kendall.value)
    verdict = (
        f"Mostly not: ranking by {label} alone gives nearly the same order"
        if strength >= 0.7
        else f"In part: its order and the order by {label} agree to some degree"
        if strength >= 0.4
        else "Yes: size alone says little about its order"
    )
    sign = "agree" if strongest.kendall.value > 0 else "disagree"
    share = (1 + strength) / 2
    return (
        f"{verdict} (of two networks that differ, both {sign} about {share:.0%} of the time). The search chose these"
        " networks, so the correlation holds for them and not for the whole space."
    )


def _further(run: ReportData) -> list[str]:
    """The costs of the front's members beside their sizes, by name, but for the one that leads."""
    names = dict.fromkeys(name for member in members_of(run.front) for name in member.costs)
    return [name for name in names if name not in (*SIZES, run.lead.name)]


def _set_aside(run: ReportData) -> str:
    over = sum(trial.state is State.INFEASIBLE for trial in run.trials)
    failed = sum(trial.state is State.FAILED for trial in run.trials)
    parts = []
    if over:
        parts.append(f"{plural(over, 'network')} over the limit")
    if failed:
        parts.append(f"{plural(failed, 'network')} that could not be evaluated")
    return f"Set aside: {' and '.join(parts)}." if parts else ""


def _kind(record: Latency) -> str:
    return f"{record.kind or 'of unknown kind'}{', without evidence' if record.extrapolated else ''}"


def _classes(run: ReportData) -> int | None:
    for source in (run.front.document, run.settings, run.section("training")):  # older releases wrote the others
        classes = source.get("classes")
        if isinstance(classes, int) and classes > 1:
            return classes
    return None
