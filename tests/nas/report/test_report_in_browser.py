"""The report in a browser: nothing fails, nothing sticks out, and plots are there for eyes, ears and keys."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from latency_tables.runtimes.browser import find_browser
from nas.report import build_report
from tests.support.chromium import Chromium
from tests.support.report_runs import write_run

PLOTS = "[...document.querySelectorAll('.plot')]"
OVERLAPS = """
[...document.querySelectorAll(".plot")].filter(plot => {
  const [legend, title] = [".legend", ".xtitle"].map(name => plot.querySelector(name)?.getBoundingClientRect());
  return legend && legend.height && legend.top < title.bottom;
}).length
"""
WIDTH_WHEN_SETTLED = """
new Promise(done => {
  const end = Date.now() + 5000, width = () => document.documentElement.scrollWidth;
  const look = () => width() <= innerWidth || Date.now() > end ? done(width()) : setTimeout(look, 50);
  setTimeout(look, 50);
})
"""
"""Plots are drawn anew a while after a window has got another size."""


@pytest.mark.skipif(find_browser() is None, reason="there is no browser")
def test_report_in_a_browser(tmp_path: Path) -> None:
    long = "vit_small_patch14_reg4_dinov2_of_nobody_that_is_installed_here"
    page = build_report(write_run(tmp_path / "run", 12, space=long, space_name="elastic-mini"))
    with Chromium() as browser:
        browser.look(1400, "light")
        browser.open(page)
        colours = set()
        for scheme in ("dark", "light"):
            for width in (400, 800, 1400):
                browser.look(width, scheme)
                assert browser.run(WIDTH_WHEN_SETTLED) == width
                assert browser.run(f"{PLOTS}.filter(plot => plot.querySelector('svg').clientWidth > innerWidth)") == []
                assert browser.run(OVERLAPS) == 0, f"a legend lies over an axis at {width} px"
            colours.add(browser.run("getComputedStyle(document.querySelector('.xtitle')).fill"))
        assert len(colours) == 2, "plots are drawn in the colours of the scheme"

        names = browser.run(f"{PLOTS}.map(plot => plot.getAttribute('aria-label'))")
        assert len(names) == len(set(names)) == 5
        told = []
        for _ in names:
            browser.press("Tab")
            while browser.run("document.activeElement.className") == "scroll":  # tables that scroll take the focus too
                browser.press("Tab")
            browser.press("ArrowRight")
            browser.run("new Promise(done => setTimeout(done, 60))")  # plotly shows no two labels within 50 ms
            browser.press("ArrowRight")
            told.append(browser.run("document.activeElement.nextElementSibling.textContent"))
            shown = browser.run("document.activeElement.querySelector('.hoverlayer').textContent")
            assert shown.replace("\xa0", " ")[:5] in told[-1], "the label beside the point"
        assert re.match(r"front, with interval, 2 of \d+: trial \d+; length distortion", told[0])
        assert told[1].startswith("hypervolume, 2 of ")
        browser.press("ArrowDown")
        assert browser.run("document.activeElement.nextElementSibling.textContent") != told[-1]
        assert browser.complaints == []
