"""Measuring on a recorded phone: what is kept, what is thrown away, and in which state the phone is left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from latency_tables.benchmark_model import RepeatSettings
from latency_tables.errors import BusyMachineError, LatencyError, ProfileError, TransportError
from latency_tables.phone import PhoneCampaign, PhoneModel, PhoneOptions, measure_on_phone
from latency_tables.phone_repeats import PhoneRepeat, Rounds, plan_round, summarise_repeats, usable
from latency_tables.transports import open_transport
from search_spaces.errors import UnknownNameError
from tests.support.recorded_phone import RECORDED, RecordedPhone, make_phone

PROGRAM = RECORDED / "benchmark_model"
OPTIONS = PhoneOptions(PROGRAM, rounds=Rounds(needed=2, limit=4))
MODE = "power set-fixed-performance-mode-enabled"


class Clock:
    """Time that passes only while somebody sleeps; each sleep may change the phone."""

    def __init__(self, while_asleep: Callable[[], None] = lambda: None) -> None:
        self.seconds = 0.0
        self.sleeps: list[float] = []
        self.while_asleep = while_asleep

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.seconds += seconds
        self.while_asleep()

    def now(self) -> float:
        return self.seconds


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedPhone:
    return make_phone(tmp_path / "phone", monkeypatch, "1A2B3C4D")


def models(phone: RecordedPhone, **recordings: str) -> list[PhoneModel]:
    """Networks by name; what stands in a network's file is the recording that the program replays for it."""
    found = []
    for name, recording in recordings.items():
        path = phone.folder / f"{name}.tflite"
        path.write_text(f"{recording}.txt")
        found.append(PhoneModel(name, path))
    return found


def measure(
    networks: list[PhoneModel],
    options: PhoneOptions = OPTIONS,
    clock: Clock | None = None,
    records: list[Mapping[str, Any]] | None = None,
    **more: Any,
) -> PhoneCampaign:
    clock = clock or Clock()
    kept = [] if records is None else records
    with open_transport("adb") as transport:
        return measure_on_phone(
            transport,
            networks,
            options,
            on_repeat=lambda name, number, record: kept.append(json.loads(json.dumps(record))),
            sleep=clock.sleep,
            now=clock.now,
            **more,
        )


def test_a_session_from_facts_to_statistics(phone: RecordedPhone) -> None:
    clock = Clock()
    records: list[Mapping[str, Any]] = []
    told: list[tuple[str, int, int]] = []
    networks = models(phone, small="older", large="newer")
    session = measure(networks, clock=clock, records=records, progress=lambda *step: told.append(step))

    small, large = session.measurements
    assert (small.name, small.ms, small.clock, small.rounds, small.runs) == (
        "small",
        pytest.approx(3.78835),
        "device",
        2,
        4 * 264,
    )
    assert (large.ms, large.min_ms, large.p5_ms, large.p95_ms) == pytest.approx((23.467, 23.204, 23.266, 23.829))
    assert small.steady
    assert large.steady
    assert (session.anchor_drift, session.discarded, session.failures) == (0.0, 0, {})
    assert session.coverage["large"] == (("TfLiteXNNPackDelegate", 412, 412, 1),)

    assert (session.device.name, session.device.soc) == ("Pixel 6", "GS101")
    facts = session.facts
    assert (facts["mask"], facts["cores"], facts["governor"]) == ("c0", "2 x Cortex-X1 2.80 GHz", "sched_pixel")
    assert (facts["fixed_performance"], facts["visit_statistic"]) == ("on", "mean")
    assert facts["lowest_delegated_share"] == 1.0
    assert facts["program_sha256"] == hashlib.sha256(PROGRAM.read_bytes()).hexdigest()
    assert (facts["battery_start_celsius"], facts["thermal_status_end"]) == (28.4, 0)

    assert [record["model"] for record in records] == ["small", "large", "small"] * 2
    assert phone.lines("masks") == ["c0"] * 6
    assert "--warmup_runs=30 --num_runs=100 --use_xnnpack=true" in phone.lines("started")[0]
    assert phone.lines("commands") == [f"{MODE} true", f"{MODE} false"]
    assert clock.sleeps == [1.0] * 6
    repeats = [("measure", repeat, 6) for repeat in range(6)]
    assert told == [("send", 0, 2), repeats[0], ("send", 1, 2), *repeats[1:]]


def test_a_killed_session_goes_on_where_it_was(phone: RecordedPhone) -> None:
    networks = models(phone, a="older", b="newer")
    phone.change(gone_after_visits=4)
    records: list[Mapping[str, Any]] = []
    with pytest.raises(TransportError, match="the connection was lost before the command ended") as caught:
        measure(networks, records=records)
    assert f"adb shell cmd {MODE} false" in caught.value.hint
    assert [record["model"] for record in records] == ["a", "b", "a"]

    phone.change(gone_after_visits=None)
    whole = measure(networks, records=records, done=list(records))
    assert [record["model"] for record in records] == ["a", "b", "a"] * 2
    assert [record["number"] for record in records] == list(range(6))
    assert phone.lines("commands")[-1] == f"{MODE} false"
    assert [measurement.rounds for measurement in whole.measurements] == [2, 2]
    nothing_left = phone.repeats
    assert measure(networks, done=records) == whole
    assert phone.repeats == nothing_left


def test_a_visit_that_was_throttled_is_taken_again_after_a_wait(phone: RecordedPhone) -> None:
    phone.write("heat_at_2", 'echo 2 > "$RECORDED_DEVICE/thermal"\n')

    def cool() -> None:
        if clock.seconds > 45:
            phone.write("thermal", "0\n")

    clock = Clock(cool)
    told: list[str] = []
    records: list[Mapping[str, Any]] = []
    session = measure(
        models(phone, only="newer"), clock=clock, records=records, progress=lambda what, *_: told.append(what)
    )
    assert [record["disturbed"] for record in records] == ["", "thermal status rose to 2", ""]
    assert (session.discarded, session.measurements[0].rounds) == (1, 2)
    assert clock.sleeps == [1.0, 1.0, *[10.0] * 5, 1.0]
    assert told.count("wait: thermal status 2, expected 0") == 5


def test_a_visit_whose_clock_was_limited_is_taken_again(phone: RecordedPhone) -> None:
    root = "$RECORDED_DEVICE/sys/devices/system/cpu/cpu6/cpufreq"
    phone.write("heat_at_1", f'echo 1704000 > "{root}/scaling_max_freq"\n')
    clock = Clock(lambda: phone.set_limit(2802000))
    records: list[Mapping[str, Any]] = []
    measure(models(phone, only="newer"), clock=clock, records=records)
    assert [record["disturbed"] for record in records] == ["core 6 was limited to 1.70 GHz", "", ""]


def test_a_visit_at_another_clock_does_not_count(phone: RecordedPhone) -> None:
    root = "$RECORDED_DEVICE/sys/devices/system/cpu"
    slow = f'for core in 6 7; do echo 2000000 > "{root}/cpu$core/cpufreq/scaling_cur_freq"; done\n'
    phone.write("heat_at_3", slow)
    clock = Clock(lambda: phone.set_limit(2802000))
    records: list[Mapping[str, Any]] = []
    options = PhoneOptions(PROGRAM, rounds=Rounds(needed=3, limit=6))
    session = measure(models(phone, only="newer"), options, clock=clock, records=records)
    assert [record["clock_khz"] for record in records] == [2802000, 2802000, 2000000, 2802000]
    assert (session.discarded, session.measurements[0].rounds) == (1, 3)


def test_a_phone_that_stays_warm_is_refused(phone: RecordedPhone) -> None:
    phone.write("battery", "367\n")
    clock = Clock()
    message = r"still too warm after 1 min: battery at 36\.7 °C, expected less than 35 °C"
    with pytest.raises(BusyMachineError, match=message) as caught:
        measure(models(phone, only="newer"), PhoneOptions(PROGRAM, wait_limit_s=60), clock=clock)
    assert "finished repeats are kept" in caught.value.hint
    assert clock.seconds == 60
    assert phone.repeats == 0
    assert phone.lines("commands") == [f"{MODE} true", f"{MODE} false"]


def test_a_phone_that_throttles_again_and_again_is_refused(phone: RecordedPhone) -> None:
    for repeat in range(1, 5):
        phone.write(f"heat_at_{repeat}", 'echo 1 > "$RECORDED_DEVICE/thermal"\n')
    clock = Clock(lambda: phone.write("thermal", "0\n"))
    with pytest.raises(
        BusyMachineError, match="`only`: 0 of 4 rounds can be used, expected 2: thermal status rose to 1"
    ):
        measure(models(phone, only="newer"), clock=clock)
    assert phone.repeats == 4


def test_ctrl_c_leaves_the_phone_as_it_was(phone: RecordedPhone) -> None:
    def interrupt(name: str, number: int, record: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), open_transport("adb") as transport:
        measure_on_phone(transport, models(phone, only="newer"), OPTIONS, on_repeat=interrupt, sleep=Clock().sleep)
    assert phone.lines("commands") == [f"{MODE} true", f"{MODE} false"]
    assert not (phone.folder / "data/local/tmp/nas").exists()


def test_a_phone_without_the_mode_is_measured_and_says_so(phone: RecordedPhone) -> None:
    phone.write("no_fixed_mode", "")
    networks = models(phone, only="newer")
    assert measure(networks).facts["fixed_performance"] == "not available"
    assert phone.lines("commands") == [f"{MODE} true"]
    free = PhoneOptions(PROGRAM, rounds=OPTIONS.rounds, fixed_performance=False)
    assert measure(networks, free).facts["fixed_performance"] == "off"
    assert phone.lines("commands") == [f"{MODE} true"]


def test_a_network_that_does_not_run_does_not_stop_the_others(phone: RecordedPhone) -> None:
    session = measure(models(phone, good="newer", bad="unloadable"))
    assert [measurement.name for measurement in session.measurements] == ["good"]
    assert "Didn't find op for builtin opcode 'GELU'" in session.failures["bad"]
    assert sum("1.tflite" in line for line in phone.lines("started")) == 1
    with pytest.raises(ProfileError, match="none of 1 networks can be measured; `bad`: "):
        measure(models(phone, bad="unloadable"))


def test_a_delegate_that_declines_is_a_failure(phone: RecordedPhone) -> None:
    options = PhoneOptions(PROGRAM, repeat=RepeatSettings(delegate="edgetpu"), rounds=OPTIONS.rounds)
    with pytest.raises(ProfileError, match="the NNAPI delegate declined the graph"):
        measure(models(phone, only="declined"), options)
    assert "--nnapi_accelerator_name=google-edgetpu" in phone.lines("started")[0]


def test_output_in_other_encodings_is_read(phone: RecordedPhone) -> None:
    text = (phone.folder / "outputs/newer.txt").read_bytes()
    (phone.folder / "outputs/odd.txt").write_bytes(b"\xff\xfe caf\xe9\r\n" + text.replace(b"\n", b"\r\n"))
    assert measure(models(phone, only="odd")).measurements[0].ms == 23.467


def test_a_missing_program_says_where_to_get_it(phone: RecordedPhone, tmp_path: Path) -> None:
    with pytest.raises(LatencyError, match="no such program") as caught:
        measure(models(phone, only="newer"), PhoneOptions(tmp_path / "benchmark_model"))
    assert "nightly/latest/android_aarch64_benchmark_model" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"), [(b"\x7fELF\x02\x01\x01", "benchmark_model"), (None, "not found|denied")]
)
def test_a_program_that_does_not_run_there_says_what_to_get(
    phone: RecordedPhone, tmp_path: Path, content: bytes | None, message: str
) -> None:
    program = tmp_path / "benchmark_model"
    program.write_bytes(content if content is not None else b"#!/no/such/linker\n")
    with pytest.raises(LatencyError, match=f"`benchmark_model` does not run on the device: .*({message})") as caught:
        measure(models(phone, only="newer"), PhoneOptions(program))
    assert "android_aarch64_benchmark_model" in caught.value.hint
    assert phone.lines("commands")[-1] == f"{MODE} false"


def test_sessions_that_make_no_sense_are_refused_before_the_phone_is_touched(phone: RecordedPhone) -> None:
    twice = models(phone, only="newer") * 2
    for networks in ([], twice):
        with pytest.raises(LatencyError, match="expected at least one and distinct names"):
            measure(networks)
    with pytest.raises(UnknownNameError, match="unknown benchmark program: `benchmark-model`"):
        measure(twice[:1], PhoneOptions(PROGRAM, tool="benchmark-model"))
    assert phone.lines("commands") == []


def test_more_threads_than_fast_cores_are_refused(phone: RecordedPhone) -> None:
    options = PhoneOptions(PROGRAM, repeat=RepeatSettings(threads=4), rounds=Rounds(needed=1))
    with pytest.raises(LatencyError, match=r"4 threads, but 2 core\(s\) in `c0`: 2 x Cortex-X1"):
        measure(models(phone, only="newer"), options)
    wider = PhoneOptions(PROGRAM, repeat=RepeatSettings(threads=4), rounds=Rounds(needed=1), mask="f0")
    assert measure(models(phone, only="newer"), wider).facts["mask"] == "f0"


def seen(model: str, number: int, ms: float = 10.0, **more: Any) -> PhoneRepeat:
    return PhoneRepeat(model, number, 0, ms=ms, min_ms=ms, p5_ms=ms, p95_ms=ms, runs=100, **more)


def test_a_round_whose_anchor_drifted_does_not_count() -> None:
    repeats = [seen("a", 0), seen("b", 0), seen("a", 0, 10.6), seen("a", 1), seen("b", 1), seen("a", 1, 10.4)]
    assert {repeat.round for repeat in usable(repeats, "a", Rounds())} == {1}
    rounds = Rounds(needed=1)
    assert plan_round(["a", "b"], repeats[:3], 1, rounds) == ["a", "b", "a"]
    assert plan_round(["a", "b"], repeats, 2, rounds) == []


def test_an_unsteady_network_gets_more_rounds() -> None:
    repeats = [
        seen(name, number, ms)
        for number in range(3)
        for name, ms in (("a", 10), ("b", 20 + 2 * number), ("c", 5), ("a", 10))
    ]
    assert plan_round(["a", "b", "c"], repeats, 3, Rounds()) == ["a", "b", "a"]
    assert not summarise_repeats("b", [repeat for repeat in repeats if repeat.model == "b"]).steady


def test_a_round_that_was_broken_off_is_finished() -> None:
    names, rounds = ["a", "b", "c"], Rounds()
    assert plan_round(names, [], 0, rounds) == ["a", "b", "c", "a"]
    assert plan_round(names, [seen("a", 0), seen("b", 0)], 0, rounds) == ["c", "a"]
    assert plan_round(names, [seen(name, 0) for name in "abca"], 0, rounds) == []
    assert plan_round(["a"], [], 0, rounds) == ["a"]
