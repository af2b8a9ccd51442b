"""Targets by name: the shipped tables and those that users have built on this machine."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from latency_tables.errors import TableError, TableMissingError
from latency_tables.runtimes import find_runtime
from latency_tables.table import LatencyTable
from latency_tables.worker import processor_name
from search_spaces.errors import UnknownNameError
from search_spaces.files import cache_dir

LOCAL = "local"
"""The target that stands for the machine this runs on."""
BROWSER = "browser"
"""The device that stands for a browser of this machine."""

_SHIPPED = Path(__file__).parent / "tables"
_KIND_RANK = {"measured": 2, "transferred": 1, "calibrated": 0}


@dataclass(frozen=True)
class TargetInfo:
    """What a list of targets shows.

    Attributes:
        kind: Kind of the table: ``measured``, ``calibrated``, ``transferred``; or ``not built``, or ``unreadable``.
        error: How wrong the table tends to be, or why there is none.
        path: The table's file; None where there is none.
        table: The table; None where there is none.
        alias_of: The name that an alias stands for; empty for a name.
    """

    name: str
    kind: str
    description: str
    error: str
    path: Path | None
    table: LatencyTable | None = None
    alias_of: str = ""


def user_table_path(name: str) -> Path:
    """The file under which this machine keeps the table of target ``name``."""
    return cache_dir() / "latency" / f"{name.replace('/', '_')}.json"


def target_names() -> list[TargetInfo]:
    """All targets, aliases behind the names they stand for; a table that cannot be read is listed as such."""
    tables, unreadable = _tables()
    infos = []
    for name in sorted(tables):
        path, table = tables[name]
        alias_of = "" if name == table.name else table.name
        description = f"alias of {alias_of}: {_describe(table)}" if alias_of else _describe(table)
        kind, how_wrong = table.provenance.kind, error_summary(table)
        infos.append(TargetInfo(name, kind, description, how_wrong, path, table, alias_of))
    for path, error in unreadable.items():
        infos.append(TargetInfo(path.stem, "unreadable", "table on this machine", str(error), path))
    if all(info.name != LOCAL for info in infos):
        hint = _missing_local().hint
        infos.append(TargetInfo(LOCAL, "not built", "this machine with ONNX Runtime", hint, None))
    return infos


def load_target(name: str) -> LatencyTable:
    """The table of a target, by its name or alias; a measured table goes before a calibrated one, then the newer.

    Args:
        name: The target; ``local@int8`` is the table of one of its precisions.

    Raises:
        UnknownNameError: No target has this name.
        TableMissingError: The target is known but has no table yet, or none in that precision.
        TableError: The target's file is broken.
    """
    name, _, precision = name.partition("@")
    tables, unreadable = _tables(name)
    if name in tables:
        table = tables[name][1]
        return table.in_precision(precision or table.precision)
    for path, error in unreadable.items():
        if path == user_table_path(name) or path.stem == name:
            raise error
    if name == LOCAL:
        raise _missing_local()
    raise UnknownNameError("target", name, {*_tables()[0], LOCAL}, "`nas targets` lists them")


def provenance_line(table: LatencyTable) -> str:
    """One line for reports: device, runtime, precision, threads, kind, what on, how wrong."""
    threads = "1 thread" if table.threads == 1 else f"{table.threads} threads"
    batch = f", {table.batch} images at a time" if table.batch > 1 else ""
    evidence = (
        f"from {sum(figure.use == 'fit' for figure in table.figures)} published figures, {table.provenance.status}"
        if table.provenance.kind == "calibrated"
        else f"on {table.provenance.date}"
    )
    return (
        f"{table.name}: {_describe(table)}, {table.precision}, {threads}{batch}; {table.provenance.kind} {evidence};"
        f" {error_summary(table)}"
    )


def staleness(table: LatencyTable) -> str:
    """Why a table no longer describes the machine that it was measured on, in one phrase.

    Empty where nothing speaks against it: for calibrated tables, and for devices behind a transport, which only a
    connection to them could ask.
    """
    if table.provenance.kind != "measured" or table.provenance.transport:
        return ""
    runtime = find_runtime(table.runtime.name, table.runtime.provider, table.precision)
    if runtime is None or runtime.own_environment:
        return ""
    if table.provenance.host != platform.node():
        return f"measured on `{table.provenance.host}`, this is `{platform.node()}`"
    processor = processor_name()
    if table.device.processor != processor:
        return f"measured on the processor `{table.device.processor}`, this is `{processor}`"
    installed = runtime.installed_version()
    if installed is None:
        return f"{table.runtime.name} is not installed any more"
    if table.runtime.version != installed:
        return f"measured with {table.runtime.name} {table.runtime.version}, installed is {installed}"
    return ""


def require_comparable(first: LatencyTable, second: LatencyTable) -> None:
    """Make sure that times of two tables may stand side by side.

    Raises:
        TableError: Their runtimes, precisions, thread counts or sizes of batches differ.
    """
    facts = [
        ("runtime", _runtime(first), _runtime(second)),
        ("precision", first.precision, second.precision),
        ("threads", first.threads, second.threads),
        ("batch", first.batch, second.batch),
    ]
    differences = [f"{name} {ours} and {theirs}" for name, ours, theirs in facts if ours != theirs]
    if differences:
        raise TableError(
            f"latency tables `{first.name}` and `{second.name}` cannot be compared: found {', '.join(differences)};"
            " expected the same runtime, precision, threads and batch",
            "choose two tables of the same conditions, see `nas targets`",
        )


def error_summary(table: LatencyTable) -> str:
    """How wrong the table tends to be, in one phrase."""
    validation = table.validation
    return (
        f"mean error {validation.mean_error:.1%} on {len(validation.rows)} held-out networks"
        f" ({validation.how}; MAC line {validation.mac_line_mean_error:.1%})"
    )


def _describe(table: LatencyTable) -> str:
    return f"{table.device.name} {table.device.processor}, {table.runtime.name} {table.runtime.version}".rstrip()


def _runtime(table: LatencyTable) -> str:
    return " ".join(filter(None, (table.runtime.name, table.runtime.version, table.runtime.provider)))


def _missing_local() -> TableMissingError:
    return TableMissingError(
        f"target `{LOCAL}` has no latency table yet: expected `{user_table_path(LOCAL)}`",
        "nas latency build --target local",
    )


def _tables(wanted: str = "") -> tuple[dict[str, tuple[Path, LatencyTable]], dict[Path, TableError]]:
    """All tables by name and alias, and what is wrong with the others; of one name, without reading those of others."""
    tables: dict[str, tuple[Path, LatencyTable]] = {}
    unreadable: dict[Path, TableError] = {}
    for path in _files():
        if wanted and not _may_be_named(path, wanted):
            continue
        try:
            table = LatencyTable.load(path)
        except TableError as error:
            unreadable[path] = error
            continue
        for name in (table.name, *table.aliases):
            if name not in tables or _precedence(table) >= _precedence(tables[name][1]):
                tables[name] = (path, table)
    return tables, unreadable


def _may_be_named(path: Path, name: str) -> bool:
    """Whether a file may hold the table of a target: looking for a name costs little beside checking a table."""
    if path == user_table_path(name) or path.stem == name:
        return True
    try:
        content = path.read_bytes()
        return json.dumps(name).encode() in content or name.encode() in content
    except OSError:
        return True


def _files() -> Iterator[Path]:
    yield from sorted(_SHIPPED.glob("*.json"))
    yield from sorted((cache_dir() / "latency").glob("*.json"))


def _precedence(table: LatencyTable) -> tuple[int, str]:
    return _KIND_RANK[table.provenance.kind], table.provenance.date
