"""Which form a device's calibration takes: other devices' figures decide, never its own.

Devices with the same runtime and provider run the same kernels, so that their figures decide where there are any; else
those of all CPUs decide for a CPU, and those of all accelerators for an accelerator, each runtime with the same weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from latency_tables.calibrate import Sample, mean_error
from latency_tables.calibration_terms import FORMS
from latency_tables.errors import CalibrationError
from latency_tables.published_features import features_of
from latency_tables.table import LatencyTable

DEFAULT_FORMS = ("roofline", "line")
"""Where no other device's figures are known."""


@dataclass(frozen=True)
class CalibratedDevice:
    """What a device has to do with the choice of another's form.

    Attributes:
        provider: What the runtime computes with; empty where nobody says.
        is_cpu: Whether its processor is a CPU.
        samples: Its figures that were fitted.
    """

    device: str
    runtime: str
    provider: str
    is_cpu: bool
    samples: tuple[Sample, ...] = ()

    @classmethod
    def of_table(cls, table: LatencyTable) -> CalibratedDevice:
        """The device of a calibrated table, with the figures in it."""
        return cls(
            device=table.device.name,
            runtime=table.runtime.name,
            provider=table.runtime.provider,
            is_cpu="CPU" in table.device.processor,
            samples=samples_of(table),
        )

    @cached_property
    def errors(self) -> Mapping[str, float]:
        """The mean error of every form on families left out; infinite where the figures do not suffice."""
        errors = {}
        for name, form in FORMS.items():
            try:
                errors[name] = mean_error(self.samples, form)
            except CalibrationError:
                errors[name] = np.inf
        return errors

    def runs_as(self, other: CalibratedDevice) -> bool:
        """Whether the two run the same kernels; a runtime's name may hold the provider."""
        names = (self.runtime, f"{self.runtime} {self.provider}".strip())
        wanted = f"{other.runtime} {other.provider}".strip()
        return self.is_cpu == other.is_cpu and wanted.casefold() in [name.casefold() for name in names]


def ranked_forms(device: CalibratedDevice, known: Iterable[CalibratedDevice]) -> tuple[str, ...]:
    """The names of the forms, lowest mean error on families left out of other devices' figures first."""
    others = [other for other in known if other.device != device.device and other.samples]
    deciding = [other for other in others if other.runs_as(device)]
    deciding = deciding or [other for other in others if other.is_cpu == device.is_cpu]
    if not deciding:
        return DEFAULT_FORMS
    errors = {name: _error_over_devices(deciding, name) for name in FORMS}
    return tuple(sorted(FORMS, key=lambda name: errors[name]))


def samples_of(table: LatencyTable) -> tuple[Sample, ...]:
    """The figures in a table that were fitted."""
    return tuple(
        Sample(
            model=figure.model,
            family=figure.family,
            source=figure.source,
            measured_ms=figure.measured_ms,
            published_macs_m=figure.published_macs_m,
            macs=figure.macs,
            features=figure.features or features_of(figure.network, table.bytes_per_element),
            network=figure.network,
        )
        for figure in table.figures
        if figure.use == "fit"
    )


def _error_over_devices(devices: Sequence[CalibratedDevice], form: str) -> float:
    """The mean over runtimes of the mean over their devices."""
    errors: dict[str, list[float]] = {}
    for device in devices:
        errors.setdefault(f"{device.runtime} {device.provider}", []).append(device.errors[form])
    return float(np.mean([np.mean(of_runtime) for of_runtime in errors.values()]))
