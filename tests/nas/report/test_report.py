"""The report page: what it shows, that it opens offline, and that a run folder cannot put markup into it."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latency_tables.predictor import Latency
from nas.errors import RunError
from nas.report import build_report, front_figure
from nas.report.words import milliseconds
from nas.result import load_result
from nas.runs.front import FrontMember
from search_spaces import get_space
from tests.support.report_runs import TARGET, front_document, make_trials, write_run

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    return partial(write_run, tmp_path / "run")


class Page(HTMLParser):
    """Headings, texts, attributes and element names of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside == "script":
            self.scripts.append(data)
        elif inside != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    @property
    def figures(self) -> dict[str, Any]:
        figures: dict[str, Any] = json.loads(self.scripts[0])
        return figures


def test_page_has_every_section(make_run: MakeRun) -> None:
    run = make_run(training={"data": "digits", "test_accuracy": 0.9631})
    page = Page(build_report(run))
    for title in ("Recommended: trial", "Front", "Network of trial", "Search progress", "more than size?"):
        assert title in page.text
    for title in ("Training and verification", "Sources", "Settings", "Environment and versions"):
        assert title in page.text
    assert set(page.figures) == {"front", "hypervolume", "course", "params", "macs"}
    assert "96.3 %" in page.text
    assert "resumed 1 python 3.12.2" in page.text
    assert f"nas search --resume {run}" in page.text
    assert "calibrated from 22 published figures" in page.text


def test_page_of_untrained_networks_says_what_would_rank_by_accuracy(make_run: MakeRun) -> None:
    run = make_run()
    page = Page(build_report(run))
    assert "networks are ranked by length distortion, and not by accuracy" in page.text
    assert f"nas pick --target {TARGET} --limit 16ms" in page.text
    (run / "front.json").write_text((run / "front.json").read_text().replace("length_distortion", "accuracy"))
    (run / "trials.jsonl").write_text((run / "trials.jsonl").read_text().replace("length_distortion", "accuracy"))
    assert "What would rank by accuracy" not in Page(build_report(run)).text


def test_headline_and_recommendation_give_the_numbers(make_run: MakeRun) -> None:
    run = make_run()
    document = json.loads((run / "front.json").read_text())
    page = Page(build_report(run))
    sizes = f"evaluated {document['evaluated']} networks of elastic for pixel6 under a limit of 16 ms"
    assert sizes in page.text
    assert f"{len(document['front'])} of them form the front" in page.text
    chosen = re.search(r"Recommended: trial (\d+)", page.text)
    assert chosen is not None
    pick = next(member for member in document["front"] if member["number"] == int(chosen[1]))
    assert f"{pick['params'] / 1e6:.1f} M parameters" in page.text
    latency = pick["latency"][TARGET]
    assert f"{latency['ms']:.2f} ms ({latency['low_ms']:.2f} to {latency['high_ms']:.2f})" in page.text


def test_front_table_lists_every_member_in_order(make_run: MakeRun) -> None:
    run = make_run()
    document = json.loads((run / "front.json").read_text())
    source = Page(build_report(run)).source
    table = source[source.index("<h2>Front</h2>") : source.index("<h2>Network of trial")]
    numbers = re.findall(r"<tr(?: class=\"chosen\")?><td>(\d+)", table)
    assert [int(number) for number in numbers] == [member["number"] for member in document["front"]]
    assert table.count('class="chosen"') == 1


def test_kinds_along_the_front_are_in_words(make_run: MakeRun) -> None:
    from nas.report.reading import read_run
    from nas.report.stages import stage_table

    run = make_run(space_name="mixers-mini")
    page = Page(build_report(run))
    assert "Kinds along the front" in page.texts
    space, members = get_space("mixers-mini"), read_run(run).front.front
    for member in members:
        labels = space.labels(member.architecture)
        names = [f"S2.{part}" for part in ("mixer", "mixer_odd", "position", "ffn", "entry")]
        assert ", ".join(dict.fromkeys(labels[name] for name in names)) in page.texts
    stages = stage_table(members[0], None, "no-such-target")
    assert stages is not None
    assert stages.rows[2].depth == f"{members[0].architecture['S2.depth']} + entry"
    assert f"ffn {space.labels(members[0].architecture)['S2.ffn']}" in stages.rows[2].choices


def test_stage_table_adds_up_to_the_network(make_run: MakeRun) -> None:
    from nas.report.reading import read_run
    from nas.report.stages import stage_table

    pick = read_run(make_run()).front.front[0]
    stages = stage_table(pick, None, "no-such-target")
    assert stages is not None
    assert [row.name for row in stages.rows] == ["stem", "C1", "C2", "T1", "T2", "T3", "T4", "head"]
    assert sum(row.macs for row in stages.rows) == pick.macs
    assert sum(row.params for row in stages.rows) == pick.params
    first = stages.rows[3]
    assert first.width == pick.architecture["T1.width"]
    assert first.depth == f"{pick.architecture['T1.depth']} + entry"
    assert stages.rest_ms is None


def test_stage_table_of_a_run_with_other_classes(make_run: MakeRun) -> None:
    from nas.report.reading import read_run
    from nas.report.stages import stage_table

    pick = read_run(make_run()).front.front[0]
    space = get_space("elastic", classes=10)
    graph = space.lower(space.parse(pick.architecture.to_dict()))
    stages = stage_table(replace(pick, costs={"params": graph.params, "macs": graph.macs}), 10, TARGET)
    assert stages is not None
    assert stages.rows[-1].width == 10
    assert stage_table(pick, 10, TARGET) is None


@pytest.mark.parametrize("classes", [None, 7])
def test_a_network_is_shown_by_stages_where_its_classes_are_known(make_run: MakeRun, classes: int | None) -> None:
    run = make_run(count=3, space_name="mixers-mini", **({} if classes is None else {"classes": classes}))
    space, document = get_space("mixers-mini", classes=7), json.loads((run / "front.json").read_text())
    for entry in document["front"]:
        graph = space.lower(space.parse(entry["architecture"]))
        entry |= {"params": graph.params, "macs": graph.macs}
    (run / "front.json").write_text(json.dumps(document))
    text = Page(build_report(run)).text
    assert ("Depth counts the stage's blocks" in text, "so only choices are shown" in text) == (
        classes is not None,
        classes is None,
    )


def test_stage_latencies_come_from_the_table_that_the_run_used(make_run: MakeRun) -> None:
    from latency_tables.predictor import LatencyPredictor
    from latency_tables.targets import load_target
    from nas.report.reading import read_run
    from nas.report.stages import stage_table

    pick = read_run(make_run()).front.front[0]
    table, space = load_target(TARGET), get_space("elastic")
    ms = LatencyPredictor(table).graph(space.lower(space.parse(pick.architecture.to_dict()))).ms

    stages = stage_table(priced(pick, ms), None, TARGET)
    assert stages is not None
    assert stages.rest_ms == pytest.approx(table.overhead_ms)
    assert all(row.ms is not None and row.ms > 0 for row in stages.rows)
    assert sum(row.ms or 0.0 for row in stages.rows) == pytest.approx(ms - table.overhead_ms)
    rebuilt = stage_table(priced(pick, 1.02 * ms), None, TARGET)
    assert rebuilt is not None
    assert all(row.ms is None for row in rebuilt.rows)


def priced(member: FrontMember, ms: float) -> FrontMember:
    return replace(member, latency={TARGET: Latency(ms, ms, ms, "", False)})


def test_page_loads_nothing(make_run: MakeRun) -> None:
    """Neither an element nor the content policy lets the page ask anybody for anything."""
    page = Page(build_report(make_run()))
    for tag, attributes in page.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert not {"src", "href", "srcset", "action", "data"} & set(attributes)
    style = page.source[page.source.index("<style>") : page.source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] or "" for t, a in page.elements if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    for part in policy.split(";"):
        if part.strip().startswith("script-src"):
            assert re.fullmatch(r"script-src( 'sha256-[A-Za-z0-9+/=]{44}'){2}", part.strip())
    assert page.source.count("plotly.js v") == 1


def test_policy_admits_the_scripts_as_written(make_run: MakeRun) -> None:
    import base64
    import hashlib

    page = Page(build_report(make_run(20)))
    policy = next(a["content"] or "" for t, a in page.elements if t == "meta" and "http-equiv" in a)
    assert len(page.scripts) == 3
    for script in page.scripts[1:]:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


def test_hostile_folder_cannot_add_markup(make_run: MakeRun) -> None:
    honest = make_run(30)
    expected = [tag for tag, _ in Page(build_report(honest)).elements]
    document = json.loads((honest / "front.json").read_text())
    for record in document["front"]:
        record["latency"][TARGET]["kind"] = HOSTILE
    document["sources"] = [HOSTILE]
    (honest / "front.json").write_text(json.dumps(document))
    (honest / "settings.json").write_text(json.dumps({"schema": HOSTILE, "controller": [HOSTILE], HOSTILE: 1}))
    assert [tag for tag, _ in Page(build_report(honest)).elements] == expected


@pytest.mark.parametrize("field", ["target", "objective", "space", "choice"])
def test_hostile_names_stay_text(make_run: MakeRun, field: str) -> None:
    run = make_run(30)
    names = {"target": TARGET, "objective": "length_distortion", "space": "elastic", "choice": "T1.depth"}
    for file in ("front.json", "trials.jsonl"):
        text = (run / file).read_text()
        (run / file).write_text(text.replace(json.dumps(names[field]), json.dumps(HOSTILE)))
    page = Page(build_report(run))
    tags = {tag for tag, _ in page.elements}
    assert "img" not in tags
    assert sum(tag == "script" for tag, _ in page.elements) == 3
    assert "<img" not in page.scripts[0]
    for figure in page.figures.values():
        for text in re.findall(r"<[^>]*", json.dumps(figure)):
            assert text in ("<b", "</b", "<br", "<extra", "</extra")


def test_empty_search(make_run: MakeRun) -> None:
    page = Page(build_report(make_run(0)))
    assert "No network to recommend" in page.text
    assert "nas export" not in page.text
    assert "No trial has been evaluated" in page.text
    assert page.figures == {}
    assert len(page.source) < 100_000


def test_nothing_within_the_limit(make_run: MakeRun) -> None:
    page = Page(build_report(make_run(25, limit_ms=0.5)))
    assert "Set aside: 25 networks over the limit." in page.text
    assert "No network to recommend" in page.text


def test_one_evaluated_network(make_run: MakeRun) -> None:
    page = Page(build_report(make_run(1, limit_ms=1000.0)))
    assert "evaluated 1 network of" in page.text
    assert "The only network of the front." in page.text
    assert "no rank correlation can be told" in page.text
    assert len(page.figures["front"]["data"]) == 3


def test_front_without_trials(make_run: MakeRun) -> None:
    run = make_run()
    (run / "trials.jsonl").unlink()
    (run / "environment.json").unlink()
    page = Page(build_report(run))
    assert "Recommended: trial" in page.text
    assert set(page.figures) == {"front"}


def test_unfinished_last_line_is_left_out(make_run: MakeRun) -> None:
    whole = build_report(make_run(40, trials_line='{"number": 40, "sta'))
    assert "Search progress" in Page(whole).text


def test_broken_line_inside_is_an_error(make_run: MakeRun) -> None:
    run = make_run(3, trials_line="{broken\n{}\n")
    with pytest.raises(RunError, match="line 4: not JSON"):
        build_report(run)


@pytest.mark.parametrize("value", [10**19, -(2**63)])
def test_numbers_beyond_what_arrays_hold_are_drawn_as_others(make_run: MakeRun, value: int) -> None:
    trial = make_trials(4, 16.0)[3]
    trial |= {"number": 3, "objectives": {"length_distortion": value}}
    assert "Search progress" in Page(build_report(make_run(3, trials_line=json.dumps(trial) + "\n"))).text


def test_more_operations_than_arrays_hold_are_refused(make_run: MakeRun) -> None:
    trial = {**make_trials(4, 16.0)[3], "number": 3, "macs": 2**63}
    with pytest.raises(RunError, match="`macs`: found '9223372036854775808', expected a whole number"):
        build_report(make_run(3, trials_line=json.dumps(trial) + "\n"))


def test_a_verified_network_that_is_none_is_refused(make_run: MakeRun) -> None:
    with pytest.raises(RunError, match="`verified` is int, expected an object"):
        build_report(make_run(6, verified=3))


@pytest.mark.parametrize("change", ["space", "params"])
def test_space_that_has_changed_shows_the_choices(make_run: MakeRun, change: str) -> None:
    run = make_run(30)
    document = json.loads((run / "front.json").read_text())
    for member in document["front"]:
        if change == "space":
            member["architecture"]["space"] = "elsewhere"
        else:
            member["params"] += 1
    (run / "front.json").write_text(json.dumps(document))
    page = Page(build_report(run))
    assert "so only choices are shown" in page.text
    assert "T1 mlp ratio" in page.text.replace(".", " ")


@pytest.mark.parametrize(("ratio", "warns"), [(1.04, False), (0.85, True)])
def test_verification_compares_measured_with_predicted(make_run: MakeRun, ratio: float, warns: bool) -> None:
    run = make_run(40)
    document = json.loads((run / "front.json").read_text())
    winner = document["front"][0]
    measured = ratio * winner["latency"][TARGET]["ms"]
    latency = {TARGET: {"ms": measured, "kind": "measured"}}
    document["verified"] = {"number": winner["number"], "latency": latency, "onnx_accuracy": 0.5}
    (run / "front.json").write_text(json.dumps(document))
    page = Page(build_report(run))
    assert f"{100 * (ratio - 1):+.1f} %" in page.text
    assert ("differ by more than 10%" in page.text) is warns
    assert "onnx accuracy 50.0 %" in page.text
    markers = [trace for trace in page.figures["front"]["data"] if trace["meta"]["role"] == "measured"]
    assert [list(trace["x"]) for trace in markers] == [[measured]]


def test_what_ships_stands_at_its_own_accuracy(make_run: MakeRun) -> None:
    run = make_run(40)
    for name in ("front.json", "trials.jsonl"):
        (run / name).write_text((run / name).read_text().replace("length_distortion", "accuracy"))
    document = json.loads((run / "front.json").read_text())
    winner = document["front"][0]
    latency = {TARGET: {"ms": winner["latency"][TARGET]["ms"], "kind": "measured"}}
    found = {"search_accuracy": 0.9, "test_accuracy": 0.8}
    document["verified"] = {"number": winner["number"], "pick": "best", "latency": latency, **found}
    (run / "front.json").write_text(json.dumps(document))
    page = Page(build_report(run))
    (marker,) = [trace for trace in page.figures["front"]["data"] if trace["meta"]["role"] == "measured"]
    assert list(marker["y"]) == [0.9]
    assert "80.0 % of the file that ships" in page.text
    assert f"Recommended: trial {winner['number']}" in page.text


@pytest.mark.parametrize("is_uneven", [False, True])
def test_accuracy_by_class_is_shown_and_uneven_classes_are_warned_of(make_run: MakeRun, is_uneven: bool) -> None:
    run = make_run(20)
    document = json.loads((run / "front.json").read_text())
    by_class = {"<common>": {"images": 98, "accuracy": 1.0}, "rare": {"images": 2, "accuracy": 0.0}}
    by_class |= {"odd": {"images": "many"}, "odder": 3}  # type: ignore[dict-item]
    document["verified"] = {
        "number": document["front"][0]["number"],
        "test_balanced_accuracy": 0.5,
        "test_commonest_accuracy": 0.98,
        "test_is_uneven": is_uneven,
        "test_by_class": by_class,
    }
    (run / "front.json").write_text(json.dumps(document))
    page = Page(build_report(run))
    for text in (
        "test balanced accuracy 50.0 %",
        "test commonest accuracy 98.0 %",
        "rare 2 0.00%",
        "<common> 98 100.00%",
    ):
        assert text in page.text
    assert ("the commonest class has 98 test images and the rarest 2" in page.text) is is_uneven
    document["verified"]["test_by_class"] = [1]
    (run / "front.json").write_text(json.dumps(document))
    assert "Accuracy by class" not in Page(build_report(run)).text


def test_no_temporary_files_stay(make_run: MakeRun) -> None:
    run = make_run(20)
    before = {path.name for path in run.iterdir()}
    page = build_report(run)
    first = page.read_text(encoding="utf-8")
    assert build_report(run) == run / "report.html"
    assert {path.name for path in run.iterdir()} == before | {"report.html"}
    assert page.read_text(encoding="utf-8") == first


def test_foreign_folders_are_refused(tmp_path: Path, make_run: MakeRun) -> None:
    with pytest.raises(RunError, match="not found") as caught:
        build_report(tmp_path / "nowhere")
    assert "nas search" in caught.value.hint
    (tmp_path / "other").mkdir()
    with pytest.raises(RunError, match=r"no `front.json`") as caught:
        build_report(tmp_path / "other")
    assert caught.value.hint
    (tmp_path / "other" / "trials.jsonl").write_text("")
    with pytest.raises(RunError) as caught:
        build_report(tmp_path / "other")
    assert "--resume" in caught.value.hint
    (tmp_path / "other" / "settings.json").write_text('{"command": "finish"}')
    with pytest.raises(RunError, match="holds a `finish` run, expected a search") as caught:
        build_report(tmp_path / "other")
    assert "finish.json" in caught.value.hint
    assert not (tmp_path / "other" / "report.html").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected a JSON object"),
        ("{", "cannot be read"),
        ('{"schema": 99}', "schema 99, expected 1"),
        ('{"schema": 1, "space": "elastic"}', "target"),
    ],
)
def test_foreign_front_is_refused(make_run: MakeRun, text: str, message: str) -> None:
    run = make_run(0)
    (run / "front.json").write_text(text)
    with pytest.raises(RunError, match=message):
        build_report(run)


def test_figure_for_notebooks() -> None:
    trials = make_trials(80, 16.0)
    document = front_document(trials, 16.0)
    figure = front_figure(document, trials)
    roles = [trace.meta["role"] for trace in figure.data]
    assert roles == ["trial", "front", "pick"]
    front = figure.data[1]
    assert list(front.x) == [member["latency"][TARGET]["ms"] for member in document["front"]]
    assert np.allclose(
        np.add(front.x, front.error_x.array), [m["latency"][TARGET]["high_ms"] for m in document["front"]]
    )
    assert np.allclose(
        np.subtract(front.x, front.error_x.arrayminus), [m["latency"][TARGET]["low_ms"] for m in document["front"]]
    )
    assert figure.layout.shapes[0].x0 == 16.0
    assert "T4: width" in front.hovertext[0]
    assert [trace.meta["role"] for trace in front_figure(document).data] == ["front", "pick"]


def test_latencies_have_three_digits_however_small() -> None:
    assert [
        milliseconds(ms) for ms in (0.0, 0.0964, 0.4, 1.234, 12.34, 123.4)
    ] == "0.00 0.0964 0.400 1.23 12.3 123".split()


def test_a_result_is_plotted_with_all_that_was_evaluated(make_run: MakeRun) -> None:
    result = load_result(make_run(30))
    figure = result.plot()
    assert [trace.meta["role"] for trace in figure.data] == ["trial", "front", "pick"]
    assert len(figure.data[0].x) == result.evaluated


def test_accuracy_is_written_in_per_cent() -> None:
    trials = make_trials(30, 16.0, "elastic-mini")
    document = json.loads(
        json.dumps(front_document(trials, 16.0, "elastic-mini")).replace("length_distortion", "accuracy")
    )
    figure = front_figure(document)
    assert figure.layout.yaxis.tickformat == ".1%"
    assert figure.layout.yaxis.title.text == "accuracy, higher is better"
    latency = document["front"][-1]["latency"]
    document["model"] = {"name": "m", "weights": "w", "license": None, "accuracy": 0.6, "latency": latency}
    whole = front_figure(document).data[-1]
    assert (whole.name, *whole.y) == ("the whole model", 0.6)
    assert whole.x[0] == latency[TARGET]["ms"]
