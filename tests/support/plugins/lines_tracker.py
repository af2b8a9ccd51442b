"""A tracker that writes lines of JSON into the run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping

from nas.training.trackers import Tracker


class Lines(Tracker):
    module, requirement = "json", "nothing"

    def log(self, series: str, step: int, values: Mapping[str, float]) -> None:
        with (self.run / "lines.txt").open("a", encoding="utf-8") as file:
            file.write(json.dumps([series, step, dict(values)]) + "\n")

    def close(self) -> None:
        pass
