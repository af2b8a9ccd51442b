"""What networks cost on devices: tables of kernel times, and predictions from them. Importing it brings in no torch."""

from latency_tables.errors import BusyMachineError, LatencyError, NoEvidenceError, TableError, TableMissingError
from latency_tables.kernels import Kernel, fuse
from latency_tables.predictor import Latencies, Latency, LatencyPredictor
from latency_tables.table import LatencyTable
from latency_tables.targets import (
    TargetInfo,
    load_target,
    provenance_line,
    require_comparable,
    staleness,
    target_names,
    user_table_path,
)

__all__ = [
    "BusyMachineError",
    "Kernel",
    "Latencies",
    "Latency",
    "LatencyError",
    "LatencyPredictor",
    "LatencyTable",
    "NoEvidenceError",
    "TableError",
    "TableMissingError",
    "TargetInfo",
    "fuse",
    "load_target",
    "provenance_line",
    "require_comparable",
    "staleness",
    "target_names",
    "user_table_path",
]
