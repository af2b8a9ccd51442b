"""A small valid latency table."""

from __future__ import annotations

from typing import Any

from latency_tables.table import SCHEMA

KERNEL = {
    "op": "pointwise_conv",
    "key": "pointwise_conv[8x4x4>16x4x4]",
    "features": [1, 2048, 1024, 1024],
    "median_ms": 0.02,
    "iqr_ms": 0.001,
    "min_ms": 0.019,
    "p95_ms": 0.03,
    "runs": 100,
    "networks": 3,
    "how": "in_situ",
}
ROOFLINE = {
    "op": "other",
    "launch_us": 2.0,
    "ms_per_million_macs": 0.01,
    "ms_per_megabyte_read": 0.1,
    "ms_per_megabyte_written": 0.2,
    "lowest": [1, 0, 0, 0],
    "highest": [1, 1e6, 1e6, 1e6],
    "direct": True,
    "low": 0.5,
    "high": 2.0,
    "n_fit": 12,
}


def validation_of(macs: dict[str, int], measured_ms: float = 1.0) -> dict[str, Any]:
    """A table's validation on networks with these names and multiply-accumulates."""
    times = {"measured_ms": measured_ms, "predicted_ms": measured_ms, "mac_line_ms": measured_ms}
    return {
        **document()["validation"],
        "rows": [{"network": name, "macs": count, **times} for name, count in macs.items()],
    }


def document(**changes: Any) -> dict[str, Any]:
    """A small valid table in its file form."""
    table: dict[str, Any] = {
        "schema": SCHEMA,
        "name": "bench/cpu",
        "aliases": ["bench"],
        "unit": "ms",
        "device": {"name": "Bench", "processor": "CPU"},
        "runtime": {"name": "ONNX Runtime", "version": "1.31", "fusion": "xnnpack"},
        "precision": "fp32",
        "threads": 1,
        "provenance": {"kind": "measured", "status": "measured here", "date": "2026-01-01", "tool_version": "0.1"},
        "overhead_ms": 0.05,
        "scale": 1.1,
        "interval": {"low": -0.1, "high": 0.2, "coverage": 0.9},
        "validation": {
            "how": "8 networks",
            "rows": [{"network": "a", "macs": 1000, "measured_ms": 1.0, "predicted_ms": 0.9, "mac_line_ms": 0.8}],
            "mean_error": 0.1,
            "rmspe": 0.1,
            "within_5_percent": 0.0,
            "within_10_percent": 1.0,
            "spearman": 1.0,
            "worst": 0.1,
            "mac_line_mean_error": 0.2,
            "mac_line_rmspe": 0.2,
        },
        "rooflines": [ROOFLINE],
        "kernels": [KERNEL],
    }
    return {**table, **changes}
