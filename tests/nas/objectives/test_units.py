"""Values with units: what is read, what is refused, and that the product reads what it prints."""

from __future__ import annotations

import pytest

from nas.errors import UsageError
from nas.objectives.units import (
    COUNT,
    DURATION,
    LATENCY,
    NUMBER,
    SHARE,
    SIZE,
    Measure,
    format_count,
    format_duration,
    three_digits,
)


@pytest.mark.parametrize(
    ("measure", "text", "value"),
    [
        (DURATION, "1h30m", 5400.0),
        (DURATION, "1.5h", 5400.0),
        (DURATION, "90m", 5400.0),
        (DURATION, "1d 2h", 93600.0),
        (DURATION, " 6M12S ", 372.0),
        (DURATION, "1h00m", 3600.0),
        (LATENCY, "800us", 0.8),
        (LATENCY, "800\N{GREEK SMALL LETTER MU}s", 0.8),
        (COUNT, "1.7944G", 1.7944e9),
        (COUNT, "5.", 5.0),
        (SIZE, "1.5 MiB", 1.5 * 2**20),
        (SHARE, "97.5%", 0.975),
        (SHARE, "0", 0.0),
        (NUMBER, "+2.5e-1", 0.25),
    ],
)
def test_values_are_read(measure: Measure, text: str, value: float) -> None:
    assert measure.parse(text) == pytest.approx(value)


@pytest.mark.parametrize("seconds", [1, 59, 60, 372, 3600, 5400, 90000, 987654])
def test_durations_that_are_printed_are_read(seconds: int) -> None:
    shown = format_duration(seconds)
    assert format_duration(DURATION.parse(shown)) == shown
    assert COUNT.parse(format_count(seconds)) == pytest.approx(seconds, rel=1e-2)


@pytest.mark.parametrize(
    ("measure", "text", "message"),
    [
        (LATENCY, "1e309ms", "not finite, expected a latency"),
        (COUNT, "1e400", "not finite, expected a count"),
        (DURATION, "1e400s", "not finite, expected a time"),
        (SIZE, f"{'9' * 400}MB", "not finite, expected a size"),
        (DURATION, "200000000d", "expected at most"),
        (COUNT, "nan", "`nan`, expected a count"),
        (NUMBER, "inf", "`inf`, expected a number"),
        (NUMBER, "-1", "expected 0 or more: a number"),
        (SHARE, "101%", "expected at most 1: a share"),
        (LATENCY, "-3ms", "expected more than 0: a latency"),
        (LATENCY, "0ms", "expected more than 0: a latency"),
        (DURATION, "1m1h", "expected a time"),
        (DURATION, "1h-30m", "expected a time"),
        (DURATION, "1h30", "has no unit, expected a time"),
        (COUNT, "1M500k", "expected a count"),
        (COUNT, "", "expected a count"),
        (COUNT, "\N{ARABIC-INDIC DIGIT THREE}M", "expected a count"),
    ],
)
def test_values_without_a_meaning_are_refused(measure: Measure, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        measure.parse(text)


def test_large_numbers_have_no_exponents() -> None:
    shown = [format_count(count) for count in (999_400_000, 999_600_000, 1_234_567_890_123)]
    assert shown == ["999M", "1G", "1235G"]
    assert [three_digits(ms) for ms in (0.0012345, 12.345, 999.6, 1234.5, 12345)] == [
        "0.00123",
        "12.3",
        "1000",
        "1234",
        "12345",
    ]
