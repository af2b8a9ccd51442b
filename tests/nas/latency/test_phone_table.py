"""From a recorded phone to a table and to a bound on a search."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from latency_tables import LatencyPredictor, load_target
from latency_tables.build import SampledNetwork
from latency_tables.errors import TransportError
from latency_tables.phone import measure_on_phone
from latency_tables.runtimes import get_runtime
from latency_tables.transports import open_transport
from nas.events import StageProgress
from nas.latency.phone import build_phone_table
from nas.latency.request import BuildRequest
from search_spaces import get_space
from tests.support.recorded_phone import RECORDED, RecordedPhone, make_phone

SPACE = get_space("elastic-mini")
REQUEST = BuildRequest((SPACE.name,), "adb:1A2B3C4D", "litert", name="recorded", program=RECORDED / "benchmark_model")


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordedPhone]:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path / "cache"))
    rested = functools.partial(measure_on_phone, sleep=lambda seconds: None)
    monkeypatch.setattr("nas.latency.phone.measure_on_phone", rested)
    return make_phone(tmp_path / "phone", monkeypatch, "1A2B3C4D")


def networks(folder: Path) -> list[SampledNetwork]:
    """Networks whose files are as large as their MACs are many, which is what the recorded phone goes by."""
    rows = SPACE.sample(6, np.random.default_rng(0))
    found = []
    for number, architecture in enumerate(SPACE.decode(rows)):
        graph = SPACE.lower(architecture)
        path = folder / f"{number}.tflite"
        path.write_bytes(b"\0\0\0\0TFL3" + bytes(graph.macs // 2))
        found.append(SampledNetwork(f"{SPACE.name}/{number}", graph, path))
    return found


@pytest.mark.slow
def test_a_table_of_a_phone_bounds_a_search(phone: RecordedPhone, tmp_path: Path) -> None:
    sampled = networks(tmp_path)
    stages: list[str] = []

    def build() -> None:
        with open_transport(REQUEST.device) as transport:
            table = build_phone_table(
                REQUEST,
                get_runtime("litert"),
                sampled,
                transport,
                tmp_path,
                lambda event: stages.append(event.name) if isinstance(event, StageProgress) else None,
            )
        path = tmp_path / "cache" / "latency" / "recorded.json"
        path.parent.mkdir(parents=True)
        table.save(path)

    phone.change(gone_after_visits=9)
    with pytest.raises(TransportError, match="the connection was lost"):
        build()
    phone.change(gone_after_visits=None)
    build()
    assert phone.repeats == 3 * 7 + 1  # three rounds, the anchor twice in each; one broke off and is taken again
    assert set(stages) == {"phone: send", "phone: measure"}

    table = load_target("recorded")
    assert (table.device.name, table.device.processor, table.runtime.name) == ("Pixel 6", "GS101", "LiteRT")
    assert (table.provenance.kind, table.provenance.protocol["mask"]) == ("measured", "c0")
    assert table.provenance.protocol["fixed_performance"] == "on"
    assert table.kernels == ()
    measured = {row.network: row.measured_ms for row in table.validation.rows}
    for network in sampled:
        expected = (200 + network.path.stat().st_size // 2000 + 1) / 1000
        assert measured[network.name] == pytest.approx(expected, abs=0.0011)
    slow = LatencyPredictor(table).graph(SPACE.lower(SPACE.largest))
    fast = LatencyPredictor(table).graph(SPACE.lower(SPACE.smallest))
    assert slow.ms > fast.ms > 0
