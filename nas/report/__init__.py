"""The report page of a run, the page that compares two, and the figure of a front for notebooks."""

from nas.report.comparison import build_comparison
from nas.report.figures import front_figure
from nas.report.page import build_report

__all__ = ["build_comparison", "build_report", "front_figure"]
