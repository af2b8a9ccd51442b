"""The report page of a run, and the figure of its front for notebooks."""

from nas.report.figures import front_figure
from nas.report.page import build_report

__all__ = ["build_report", "front_figure"]
