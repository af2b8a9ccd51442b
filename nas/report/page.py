"""The report page: one file that holds all it needs and opens without a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from nas.records.files import write_text
from nas.report import sections
from nas.report.checks import checks_section, robustness_section
from nas.report.kinds import kinds_section
from nas.report.markup import Figures, escape
from nas.report.ranking import ranking_section
from nas.report.reading import ReportData, read_run
from nas.report.shipping import shipping_section

REPORT_FILE = "report.html"


def build_report(run: Path) -> Path:
    """Write the report of a run next to its data.

    Args:
        run: The run folder; it must hold a front, trials may be missing.

    Returns:
        The page, ``report.html`` in the run folder; an earlier one is replaced in one step.

    Raises:
        RunError: There is no such folder, or it holds something else than a run.
        NasError: The page cannot be written.
    """
    page = run / REPORT_FILE
    write_text(page, render(read_run(run)))
    return page


def render(run: ReportData) -> str:
    """The page of a run as HTML."""
    figures = Figures()
    body = [
        sections.headline(run),
        sections.recommendation(run),
        ranking_section(run),
        sections.front_section(run, figures),
        kinds_section(run),
        sections.network_section(run),
        sections.progress_section(run, figures),
        sections.size_section(run, figures),
        checks_section(run),
        robustness_section(run),
        shipping_section(run),
        sections.sources_section(run),
    ]
    return assemble(f"Report: {sections.title(run)}", body, figures)


def assemble(title: str, body: Sequence[str], figures: Figures) -> str:
    """A page that holds all it needs.

    Args:
        title: Plain text.
        body: Sections as HTML; empty ones are left out.
        figures: What they draw.
    """
    plotly = _plotly() if figures.documents else ""
    script = _resource("page.js") if figures.documents else ""
    return Template(_resource("template.html")).substitute(
        title=escape(title),
        policy=_policy(plotly, script),
        style=_resource("page.css"),
        body="\n".join(filter(None, body)),
        figures=_script_data(figures),
        plotly=plotly,
        script=script,
    )


def _policy(*scripts: str) -> str:
    """A content security policy: our scripts and no others, and no request to anywhere."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:;"
        " base-uri 'none'; form-action 'none'"
    )


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    bundle: str = get_plotlyjs()
    return bundle.replace("\r\n", "\n")  # a page's parser does so too, and the digest must agree


def _script_data(figures: Figures) -> str:
    entries = ",".join(f'"{name}":{document}' for name, document in figures.documents.items())
    return f"{{{entries}}}".replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _resource(name: str) -> str:
    return files("nas.report").joinpath(name).read_text(encoding="utf-8")
