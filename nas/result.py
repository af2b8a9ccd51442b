"""What a search found: the front, and what can be done with its members."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas.runs.front import SearchFront, read_front

if TYPE_CHECKING:
    import plotly.graph_objects


class SearchResult(SearchFront):
    """The answer of a search, see `nas.runs.front.SearchFront` for what can be read from it."""

    def export(
        self,
        pick: str | int | None = None,
        output: Path | str | None = None,
        data: Path | str | None = None,
        formats: Sequence[str] = (),
        dynamic_batch: bool = False,
    ) -> Path:
        """Write one member as a checkpoint and ONNX file that have been proven to agree; see `nas.exporting.export`.

        Args:
            pick: The member, as in `pick`.
            output: Folder to write; None takes ``exports/<pick>`` in the run folder.
            data: Where the run's images lie now; None for where they lay.
            formats: What to write beside both, for example ``["onnx-int8"]``.
            dynamic_batch: Write ONNX files for batches of any size.
        """
        from nas.exporting.members import export_member

        folder = None if output is None else Path(output)
        images = None if data is None else str(data)
        return export_member(self, pick, folder, formats, images, dynamic_batch).folder

    def report(self) -> Path:
        """Write ``report.html`` into the run folder, and return its path."""
        from nas.report import build_report

        return build_report(self.run)

    def plot(self) -> plotly.graph_objects.Figure:
        """The front, and behind it all networks that were evaluated, as a plotly figure."""
        from nas.report.figures import draw_front
        from nas.report.reading import read_trials

        return draw_front(self, read_trials(self.run / "trials.jsonl", self.space))

    def __repr__(self) -> str:
        return f"SearchResult(run={str(self.run)!r}, front={len(self.front)} networks, evaluated={self.evaluated})"


def load_result(run: Path | str) -> SearchResult:
    """The result of a finished search from its run folder.

    Raises:
        RunError: The folder holds no readable result.
    """
    result = SearchResult(Path(run), read_front(Path(run)))
    result.check()
    return result
