"""What benchmark programs and devices print, in all the forms that their versions know."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

import pytest

from latency_tables.benchmark_model import (
    TOOLS,
    Coverage,
    RepeatSettings,
    parse_benchmark_model,
    parse_litert_benchmark,
)
from latency_tables.device_facts import (
    Core,
    affinity_mask,
    describe_cores,
    fastest_cores,
    masked_cores,
    parse_conditions,
    parse_facts,
)
from latency_tables.errors import LatencyError, ProfileError
from tests.support.recorded_phone import RECORDED

OUTPUTS = RECORDED / "outputs"
X1, A76, A55 = "0x41/0xd44", "0x41/0xd0b", "0x41/0xd05"
PIXEL6 = (
    *(Core(number, A55, 124, 1803000) for number in range(4)),
    *(Core(number, A76, 427, 2253000) for number in (4, 5)),
    *(Core(number, X1, 1024, 2802000) for number in (6, 7)),
)


def recorded(name: str) -> str:
    return (OUTPUTS / f"{name}.txt").read_text()


def test_newer_programs_give_a_median() -> None:
    timing = parse_benchmark_model(recorded("newer"), "", RepeatSettings())
    assert (timing.runs, timing.ms, timing.median_ms) == (100, 23.467, 23.467)
    assert timing.mean_ms == pytest.approx(23.5028)
    assert (timing.min_ms, timing.max_ms, timing.p5_ms, timing.p95_ms, timing.std_ms) == pytest.approx(
        (23.204, 24.39, 23.266, 23.829, 0.171)
    )
    assert timing.coverage == (Coverage("TfLiteXNNPackDelegate", 412, 412, 1),)


def test_older_programs_give_a_mean() -> None:
    timing = parse_benchmark_model(recorded("older"), "", RepeatSettings())
    assert (timing.runs, timing.median_ms, timing.p5_ms, timing.p95_ms, timing.coverage) == (264, None, None, None, ())
    assert timing.ms == timing.mean_ms == pytest.approx(3.78835)


def test_slow_networks_are_given_in_scientific_notation() -> None:
    timing = parse_benchmark_model(recorded("scientific"), "", RepeatSettings())
    assert (timing.runs, timing.ms) == (51, 2950.0)
    assert timing.coverage == (Coverage("TfLiteXNNPackDelegate", 88, 90, 3),)


def test_a_single_run_has_no_statistics() -> None:
    timing = parse_benchmark_model(recorded("one_run"), "", RepeatSettings())
    assert (timing.runs, timing.std_ms) == (1, 0.0)
    assert timing.ms == timing.min_ms == timing.max_ms == pytest.approx(159880.121)


def test_litert_programs_have_another_summary() -> None:
    timing = parse_benchmark_model(recorded("litert"), "", RepeatSettings())
    assert (timing.runs, timing.ms) == (2112, pytest.approx(0.462))


def test_other_ends_of_line_change_nothing() -> None:
    text = recorded("newer")
    assert parse_benchmark_model(text.replace("\n", "\r\n"), "", RepeatSettings()) == parse_benchmark_model(
        text, "", RepeatSettings()
    )


@pytest.mark.parametrize(
    ("name", "delegate", "message"),
    [
        ("declined", "edgetpu", "the NNAPI delegate declined the graph"),
        ("ignored_flag", "xnnpack-fp16", "does not know --xnnpack_force_fp16=true, and would measure something else"),
        ("unloadable", "xnnpack", "measured nothing: ERROR: Didn't find op for builtin opcode 'GELU'"),
        ("contradiction", "xnnpack", r"contradicts itself: an average of 11\.5028 ms, and one of 23\.5028 ms"),
    ],
)
def test_what_would_be_another_number_is_refused(name: str, delegate: str, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        parse_benchmark_model(recorded(name), "", RepeatSettings(delegate=delegate))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "Segmentation fault\n", "INFO: count=1 curr=5\n", recorded("newer")[:-700]])
def test_output_that_breaks_off_is_no_number(text: str) -> None:
    with pytest.raises(ProfileError, match="measured nothing"):
        parse_benchmark_model(text, "", RepeatSettings())


def test_command_lines() -> None:
    model, results = PurePosixPath("/data/local/tmp/nas/0.tflite"), PurePosixPath("/data/local/tmp/nas/results.json")
    settings = RepeatSettings(delegate="xnnpack-fp16", threads=2, warm_up_runs=3, runs=7)
    command = TOOLS["benchmark_model"].command("/data/local/tmp/nas/benchmark_model", model, results, settings)
    assert command[1:] == [
        "--graph=/data/local/tmp/nas/0.tflite",
        "--num_threads=2",
        "--warmup_runs=3",
        "--num_runs=7",
        "--use_xnnpack=true",
        "--xnnpack_force_fp16=true",
    ]
    assert "--use_gpu" in TOOLS["litert-benchmark"].command("p", model, results, RepeatSettings(delegate="gpu"))
    with pytest.raises(ProfileError, match="has no delegate `edgetpu`"):
        TOOLS["litert-benchmark"].command("p", model, results, RepeatSettings(delegate="edgetpu"))


LITERT = {
    "accelerators": ["CPU"],
    "fully_accelerated": True,
    "latency": {
        "init_ms": 189.48,
        "warmup_avg_ms": 6.49,
        "avg_ms": 2.41,
        "min_ms": 2.35,
        "max_ms": 2.89,
        "median_ms": 2.39,
        "std_ms": 0.07,
        "p5_ms": 2.36,
        "p95_ms": 2.63,
        "num_runs": 20,
    },
}


def test_litert_benchmark_writes_json() -> None:
    timing = parse_litert_benchmark("noise", json.dumps(LITERT), RepeatSettings())
    assert (timing.runs, timing.ms, timing.mean_ms, timing.p95_ms) == (20, 2.39, 2.41, 2.63)
    with pytest.raises(ProfileError, match="left a part of the graph to the CPU"):
        parse_litert_benchmark("", json.dumps({**LITERT, "fully_accelerated": False}), RepeatSettings(delegate="gpu"))
    for broken in ("", "[]", '{"latency": {}}', '{"latency": {"avg_ms": null}}'):
        with pytest.raises(ProfileError, match="measured nothing: ERROR: no such model"):
            parse_litert_benchmark("ERROR: no such model\n", broken, RepeatSettings())


def test_the_fastest_class_is_asked_for_and_never_assumed() -> None:
    assert affinity_mask(fastest_cores(PIXEL6)) == "c0"
    assert describe_cores(PIXEL6) == "2 x Cortex-X1 2.80 GHz + 2 x Cortex-A76 2.25 GHz + 4 x Cortex-A55 1.80 GHz"
    reversed_order = [Core(7 - core.number, core.part, core.capacity, core.max_khz) for core in PIXEL6]
    assert affinity_mask(fastest_cores(reversed_order)) == "3"


def test_little_cores_with_the_higher_clock_are_not_the_fastest() -> None:
    cores = [*(Core(n, A55, 400, 2100000) for n in range(4)), *(Core(n, A76, 1024, 2000000) for n in range(4, 8))]
    assert affinity_mask(fastest_cores(cores)) == "f0"


def test_a_prime_core_of_the_same_part_is_a_class_of_its_own() -> None:
    cores = [*(Core(n, A76, None, 2400000) for n in range(3)), Core(3, A76, None, 2840000)]
    assert affinity_mask(fastest_cores(cores)) == "8"


def test_a_board_of_equal_cores_needs_no_clock() -> None:
    assert affinity_mask(fastest_cores([Core(number, A76) for number in range(4)])) == "f"


def test_cores_that_cannot_be_told_apart_need_a_mask() -> None:
    cores = [Core(0, A55), Core(1, A76)]
    with pytest.raises(LatencyError, match=r"1 x Cortex-A55.*does not tell which is fastest") as caught:
        fastest_cores(cores)
    assert "by a mask in hex" in caught.value.hint
    assert masked_cores(cores, "2") == (cores[1],)


@pytest.mark.parametrize("mask", ["0", "", "0x2", "4", "6", "g", "-1", "c0; reboot"])
def test_masks_that_mean_no_core_are_refused(mask: str) -> None:
    with pytest.raises(LatencyError, match="expected hex with a bit for some of the cores 0, 1"):
        masked_cores([Core(0, A55), Core(1, A76)], mask)


def test_a_phone_describes_itself() -> None:
    text = (
        "ro.product.model=Pixel 6\nro.product.device=oriole\nro.soc.model=GS101\nro.build.fingerprint=g/oriole:14\n"
        "ro.product.cpu.abi=arm64-v8a\nboard=\nkernel=Linux 5.10 aarch64\n"
        "processor\t: 0\nBogoMIPS\t: 49.15\nCPU implementer\t: 0x41\nCPU part\t: 0xd05\n\n"
        "processor\t: 6\nCPU implementer\t: 0x41\nCPU part\t: 0xd44\n\nHardware\t: GS101\n"
        "/sys/devices/system/cpu/cpu6/cpu_capacity:1024\n/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq:1803000\n"
        "/sys/devices/system/cpu/cpu6/cpufreq/cpuinfo_max_freq:2802000\n"
        "/sys/devices/system/cpu/cpu6/cpufreq/scaling_governor:sched_pixel\n"
    )
    facts = parse_facts(text)
    assert (facts.name, facts.code_name, facts.soc, facts.abi) == ("Pixel 6", "oriole", "GS101", "arm64-v8a")
    assert facts.cores == (Core(0, A55, None, 1803000), Core(6, X1, 1024, 2802000, "sched_pixel"))


def test_a_pc_describes_itself() -> None:
    facts = parse_facts("ro.product.model=\nboard=\nkernel=Linux 6.1 x86_64\nprocessor\t: 0\nmodel name\t: AMD EPYC\n")
    assert (facts.name, facts.build, facts.cores) == ("", "Linux 6.1 x86_64", (Core(0, "AMD EPYC"),))


def test_warmth_is_the_current_one() -> None:
    text = (
        "/sys/devices/system/cpu/cpu7/cpufreq/scaling_cur_freq:2802000\n"
        "grep: /sys/devices/system/cpu/cpu6/cpufreq/scaling_cur_freq: Permission denied\n"
        "IsStatusOverride: false\nThermal Status: 2\nCached temperatures:\n\tTemperature{mValue=99.0, mStatus=4}\n"
        "Current Battery Service state:\n  level: 87\n  temperature: 318\n[Log]\n level:12, temperature:990\n"
    )
    conditions = parse_conditions(text)
    assert (conditions.thermal_status, conditions.battery_celsius, conditions.battery_percent) == (2, 31.8, 87)
    assert (conditions.clocks_khz, conditions.limits_khz) == ({7: 2802000}, {})
    assert parse_conditions("") == parse_conditions("Can't find service: battery\n")
    assert parse_conditions("").battery_celsius is None
