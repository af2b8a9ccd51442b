"""The settings of `nas scale`, each typed once: see `nas.runs.settings` for what is made from them."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from nas.runs.settings import RunSettings, Setting

GROWTH, PLACE = "Growth", "Where it runs"


@dataclass(frozen=True)
class ScaleSettings(RunSettings):
    """The settings of `nas scale`."""

    network: Annotated[
        str | None,
        Setting(
            "Network to grow, for example asvit/seed, 'asvit:TOPOLOGY' or elastic/S1.",
            GROWTH,
            option="from",
            metavar="NETWORK",
        ),
    ] = None
    up_to: Annotated[str, Setting("Size to grow to: 80M parameters, 1.2G MACs, or 30ms.", GROWTH, metavar="SIZE")] = (
        "80M"
    )
    _: KW_ONLY
    target: Annotated[str, Setting("Device whose latency is predicted, see `nas targets`.", GROWTH)] = "pixel6"
    ties: Annotated[str, Setting("How ties are broken: published or sensible.", GROWTH)] = "published"
    repeats: Annotated[int, Setting("Draws of the weights per network.", GROWTH, least=1)] = 5
    seed: Annotated[int, Setting("Seed of weights, circles and noise, as in the paper.", GROWTH, least=0)] = 27
    workers: Annotated[
        int,
        Setting(
            "Processes that compute; the numbers do not depend on it.",
            PLACE,
            "1 in Python, one per processor on the command line",
            least=1,
            is_recorded=False,
        ),
    ] = 1
