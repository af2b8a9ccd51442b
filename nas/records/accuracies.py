"""Tables of known accuracies: CSV files that name networks and say how accurate each is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nas.errors import UsageError
from search_spaces.csv_table import Column, CsvTable

_ACCURACY = Column("accuracy", ("acc", "top1", "top_1"), is_required=True, units={"": 1.0, "%": 1.0, "percent": 1.0})


@dataclass(frozen=True)
class KnownAccuracy:
    """A row of a table.

    Attributes:
        line: Number of its line.
        network: The network as written.
        accuracy: A share of images.
    """

    line: int
    network: str
    accuracy: float


def read_accuracies(path: Path, networks: Column) -> list[KnownAccuracy]:
    """The rows of a table; columns other than those of networks and of accuracies are ignored.

    Accuracies are shares from 0 to 1 or percentages from 0 to 100, all alike.

    Args:
        path: Path of the file.
        networks: The column that names networks.

    Raises:
        UsageError: The file or a line of it cannot be used; the message names the line.
    """
    table = CsvTable(path, "accuracies", (networks, _ACCURACY), UsageError)
    texts, numbers = table.texts(networks.name), table.numbers(_ACCURACY.name)[_ACCURACY.name]
    rows = []
    for line, text, number in zip(table.lines, texts, numbers, strict=True):
        if not text:
            table.fail(line, f"no {networks.name}", f"leave no fields of `{networks.name}` empty")
        if number is None or not 0 <= number <= 100:
            found = "nothing" if number is None else f"{number:g}"
            table.fail(line, f"accuracy is {found}, expected a share from 0 to 1 or a percentage from 0 to 100")
        rows.append(KnownAccuracy(line, text, number))
    percentage = next((row for row in rows if row.accuracy > 1), None)
    share = next((row for row in rows if 0 < row.accuracy <= 1), None)
    says_unit = table.says_unit(_ACCURACY.name)
    if percentage and share and not says_unit:
        table.fail(
            share.line,
            f"accuracy is {share.accuracy:g}, in line {percentage.line} it is {percentage.accuracy:g}: shares and"
            " percentages mixed?",
            "give all as percentages and name the column `accuracy_%`",
        )
    whole = 100.0 if percentage or says_unit else 1.0
    return [KnownAccuracy(row.line, row.network, row.accuracy / whole) for row in rows]
