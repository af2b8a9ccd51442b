"""Two runs on one page: what ships from each, both fronts, and what was asked differently."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from latency_tables.predictor import Latency
from nas.errors import UsageError
from nas.objectives.objective import AVERAGE_PRECISION, MACRO_AUROC, MEAN_IOU, lead_of
from nas.objectives.pareto import Costs, dominated_by
from nas.records.files import write_text
from nas.report import markup
from nas.report.checks import flat_facts
from nas.report.figures import draw_fronts, pick_of
from nas.report.markup import Figures
from nas.report.page import assemble
from nas.report.reading import ReportData, is_point, measured_latency, members_of, read_run, verified_share
from nas.report.sections import front_table
from nas.report.statistics import difference_interval, share_interval
from nas.report.words import MISSING, count, interval, is_share, space_words, value, words
from nas.runs.front import SearchFront

COMPARISON_FILE = "comparison.html"
HEIGHT = 560
MOST_IMAGES = 2**31
"""What the number of test images stays below, in a file that a run wrote."""
_NOT_ASKED = ("schema", "folder", "suggested", "sensitivities", "latency_fingerprint", "space_version")
"""What settings record beside what was asked."""
SIZES = {"params": "parameters", "macs": "MACs"}
_RAN_WITH = ("python", "platform", "machine", "processors", "versions", "git")
TEST = "test_accuracy"
_VERIFIED = {
    "search_accuracy": "accuracy of what ships, on the search part",
    "search_fidelity": "fidelity of what ships, on the search part",
    TEST: "accuracy of the file, on the test part",
    "test_balanced_accuracy": "balanced accuracy of the file, on the test part",
    "test_fidelity": "fidelity of the file, on the test part",
    "original_test_accuracy": "accuracy of the original model, on the test part",
    f"search_{MEAN_IOU}": "mean IoU of what ships, on the search part",
    f"test_{MEAN_IOU}": "mean IoU of the file's patches, on the test part",
    f"original_test_{MEAN_IOU}": "mean IoU of the original model's patches, on the test part",
    f"search_{AVERAGE_PRECISION}": "mean average precision of what ships, on the search part",
    f"test_{AVERAGE_PRECISION}": "mean average precision of the file, on the test part",
    f"test_{MACRO_AUROC}": "macro AUROC of the file, on the test part",
    f"original_test_{AVERAGE_PRECISION}": "mean average precision of the original model, on the test part",
}
"""What was found out about what ships, by name in ``front.json``."""
Pair = tuple[ReportData, ReportData]
Names = tuple[str, str]
Rows = dict[str, tuple[str, ...]]
Found = TypeVar("Found")


def build_comparison(first: Path, second: Path) -> Path:
    """Write a page that shows two runs beside one another into the folder of the first.

    Args:
        first: Run folder of a search.
        second: Run folder of another one, for the same target and about the same images.

    Returns:
        The page, ``comparison.html``; an earlier one is replaced in one step.

    Raises:
        UsageError: The runs cannot be compared.
        RunError: A folder holds no finished search.
        NasError: The page cannot be written.
    """
    runs = read_run(first), read_run(second)
    check_comparable(runs)
    page = first / COMPARISON_FILE
    write_text(page, render(runs))
    return page


def check_comparable(runs: Pair) -> None:
    """Make sure that numbers of two runs mean the same.

    Raises:
        UsageError: It is one run, or they differ in target, device, what ranks networks, or images.
    """
    first, second = runs
    if first.path.resolve() == second.path.resolve():
        raise UsageError(f"`{first.path}` and `{second.path}` are one run, expected two")
    for what, words_of in (
        ("latency counts on different targets", lambda run: f"`{run.front.target}`"),
        (f"`{first.front.target}` is not one device", lambda run: f"`{_device(run.front)}`"),
        ("networks are ranked by different things", lambda run: f"`{run.lead.name}`"),
        ("networks are judged on different images", _images),
    ):
        sides = words_of(first), words_of(second)
        differs = not _same_images(first.settings, second.settings) if words_of is _images else sides[0] != sides[1]
        if differs:
            raise UsageError(
                f"`{first.path}` and `{second.path}` cannot be compared: {what}, {sides[0]} and {sides[1]}",
                hint="compare two searches for the same target, on the same images",
            )


def render(runs: Pair) -> str:
    """The page as HTML."""
    figures, names = Figures(), _names(runs)
    title = f"{names[0]} and {names[1]} on {runs[0].front.target}"
    body = [
        markup.paragraph("Two searches beside one another", "kicker"),
        f"<h1>{markup.escape(title)}</h1>",
        _ships_section(runs, names),
        _fronts_section(runs, names, figures),
        _settings_section(runs, names),
    ]
    return assemble(f"Comparison: {title}", body, figures)


# -- what is compared ----------------------------------------------------------------------------------------------


def _device(front: SearchFront) -> str:
    """The target's device, as the first of the run's sources calls it."""
    source = front.sources[0] if front.sources else ""
    return source.partition(": ")[2].partition(";")[0].partition(",")[0]


def _same_images(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two runs judged networks on the same images, or looked accuracies up in the same table."""
    digests = [known.get("data_digest") or known.get("accuracies_digest") for known in (first, second)]
    if None in digests and any(known.get("data") for known in (first, second)):  # of a run of an earlier release
        return first.get("data") == second.get("data")
    return digests[0] == digests[1]


def _images(run: ReportData) -> str:
    """What a run's networks were judged on, in words."""
    known = run.settings
    digest = known.get("data_digest") or known.get("accuracies_digest")
    place = known.get("data") or known.get("accuracies") or known.get("supernet")
    what = "none" if place is None else f"`{place}`"
    return what if digest is None else f"{what} (digest {str(digest)[:8]})"


def _names(runs: Pair) -> Names:
    """What the runs go by: the names of their folders, whole paths where these are alike."""
    first, second = (run.path.resolve() for run in runs)
    return (first.name, second.name) if first.name != second.name else (str(first), str(second))


# -- sections ------------------------------------------------------------------------------------------------------


def _ships_section(runs: Pair, names: Names) -> str:
    """What each run recommends or has exported, and what the second one's has more or less than the first one's."""
    first, second = (pick_of(run.front) for run in runs)
    if first is None or second is None:
        empty = names[0] if first is None else names[1]
        return markup.section("What ships", markup.paragraph(f"The front of {empty} is empty.", "note"))
    fronts, lead, target = [run.front for run in runs], runs[0].lead.name, runs[0].front.target
    rows: Rows = {"network": (f"trial {first.number}", f"trial {second.number}", "")}
    rows |= _row(f"{words(lead)}, in the search", (first.value(lead), second.value(lead)), *_figure(lead))
    for name, label in _VERIFIED.items():
        shares = verified_share(fronts[0], name), verified_share(fronts[1], name)
        rows |= _row(label, shares, *_figure(name)) if name != TEST else _test_rows(runs, label)
    rows |= _row("predicted latency", (first.latency[target], second.latency[target]), interval, _ms_more)
    measured = measured_latency(fronts[0]), measured_latency(fronts[1])
    rows |= _row("measured latency", measured, interval, _ms_more)
    for cost in dict.fromkeys((*SIZES, *first.costs, *second.costs)):
        text = count if cost in SIZES else partial(value, name=cost)
        sides = first.costs.get(cost), second.costs.get(cost)
        rows |= _row(SIZES.get(cost) or words(cost), sides, text, _share_more)
    note = (
        f"Differences are what {names[1]} has more or less than {names[0]}. Intervals of accuracies are 95 % intervals"
        " over the test images; that of a difference takes the two for different images, so it is rather too wide."
    )
    table = markup.beside((*names, "difference"), rows)
    return markup.section("What ships", table, markup.paragraph(note, "note"), kind="pick")


def _test_rows(runs: Pair, label: str) -> Rows:
    """Accuracy of the exported files on the test part, with intervals where the number of images is known."""

    def found(run: ReportData) -> _Tested | None:
        share, images = (verified_share(run.front, name) for name in (TEST, "test_images"))
        if share is None or not 0 <= share <= 1:
            return None
        return _Tested(share, int(images) if images is not None and 1 <= images < MOST_IMAGES else 0)

    def text(tested: _Tested) -> str:
        if tested.images < 1:
            return value(tested.share, TEST)
        low, high = share_interval(round(tested.share * tested.images), tested.images)
        return f"{value(tested.share, TEST)} ({100 * low:.1f} to {100 * high:.1f})"

    def more(one: _Tested, other: _Tested) -> str:
        points = _points_more(one.share, other.share)
        if min(one.images, other.images) < 1:
            return points
        low, high = difference_interval(one.share, other.share, (one.images, other.images))
        return f"{points} ({100 * low:+.1f} to {100 * high:+.1f})"

    return _row(label, (found(runs[0]), found(runs[1])), text, more)


def _fronts_section(runs: Pair, names: Names, figures: Figures) -> str:
    """Both fronts in one picture, how many networks of each the other one beats, and both as tables."""
    fronts = dict(zip(names, (run.front for run in runs), strict=True))
    costs = [_costs(run.front) for run in runs]
    if not len(costs[0]) or not len(costs[1]):
        return ""
    beaten = [int(dominated_by(ours, theirs).sum()) for ours, theirs in (costs, costs[::-1])]
    note = (
        "A network is beaten by one that is nowhere worse and somewhere better in latency and"
        f" {words(runs[0].lead.name)}: {beaten[0]:,} of the {len(costs[0]):,} networks of {names[0]} are beaten by one"
        f" of {names[1]}, and {beaten[1]:,} of {len(costs[1]):,} the other way round."
    )
    if runs[0].front.sources[:1] != runs[1].front.sources[:1]:
        note += " The two rest on different latency tables, which may be a part of what latencies differ by."
    plot = figures.place("fronts", draw_fronts(fronts).to_json(), "The fronts of both searches", HEIGHT)
    tables = [markup.folded(f"The front of {name}", front_table(run)) for name, run in zip(names, runs, strict=True)]
    return markup.section("Fronts", markup.paragraph(note, "note"), plot, *tables)


def _costs(front: SearchFront) -> Costs:
    """Latency on the target and the leading objective of the front, both less is better, ``[f, 2]``."""
    lead = lead_of(front.objectives)
    members = [member for member in members_of(front) if is_point(front, member)]
    costs = [(member.latency[front.target].ms, lead.cost(member.value(lead.name))) for member in members]
    return np.array(costs, dtype=np.float64).reshape(-1, 2)


def _settings_section(runs: Pair, names: Names) -> str:
    """What was asked differently, and what ran with something else."""
    asked = [
        flat_facts({name: entry for name, entry in run.settings.items() if name not in _NOT_ASKED})
        | {"space": space_words(run.front.space), "networks evaluated": f"{run.front.evaluated:,}"}
        for run in runs
    ]
    ran = [flat_facts({name: run.environment.get(name) for name in _RAN_WITH}) for run in runs]
    differs, ran_differs = _differing(asked), _differing(ran)
    return markup.section(
        "What differs",
        markup.beside(names, differs) if differs else markup.paragraph("Both were asked the same.", "note"),
        markup.folded("Versions and machine", markup.beside(names, ran_differs)) if ran_differs else "",
        *(_sources(run, name) for run, name in zip(runs, names, strict=True)),
    )


def _differing(sides: Sequence[Mapping[str, str]]) -> dict[str, tuple[str, str]]:
    first, second = sides
    both = {name: (first.get(name, MISSING), second.get(name, MISSING)) for name in {**first, **second}}
    return {name: pair for name, pair in both.items() if pair[0] != pair[1]}


def _sources(run: ReportData, name: str) -> str:
    return f"<h3>{markup.escape(name)} rests on</h3>{markup.bullets(run.front.sources)}" if run.front.sources else ""


# -- rows ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tested:
    """Accuracy on the test part; the number of images is 0 where it is not known."""

    share: float
    images: int


def _row(
    label: str,
    sides: tuple[Found | None, Found | None],
    text: Callable[[Found], str],
    more: Callable[[Found, Found], str],
) -> Rows:
    """A row about both runs; none where neither knows of it."""
    first, second = sides
    if first is None and second is None:
        return {}
    texts = [MISSING if side is None else text(side) for side in sides]
    return {label: (*texts, MISSING if first is None or second is None else more(first, second))}


def _figure(name: str) -> tuple[Callable[[float], str], Callable[[float, float], str]]:
    """How a figure is written, and how a difference of two."""
    return partial(value, name=name), _points_more if is_share(name) else lambda one, other: f"{other - one:+.4g}"


def _points_more(first: float, second: float) -> str:
    return f"{100 * (second - first):+.1f} points"


def _ms_more(first: Latency, second: Latency) -> str:
    """Nothing where a table has no evidence for one of them."""
    return MISSING if first.extrapolated or second.extrapolated else _share_more(first.ms, second.ms)


def _share_more(first: float, second: float) -> str:
    return f"{100 * (second / first - 1):+.1f} %" if first > 0 else MISSING
