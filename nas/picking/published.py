"""Models of timm with the accuracy on ImageNet-1k that timm's author has published, and what they compute.

``imagenet.csv`` beside this file says where its numbers come from; `benchmarks/published_models.py` makes both files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nas.errors import RunError
from nas.picking.packed_graphs import unpack
from search_spaces.csv_table import Column, CsvTable
from search_spaces.graph import OpGraph

ACCURACIES, GRAPHS = "imagenet.csv", "graphs.npz"
SOURCE = "top-1 accuracy on the 50,000 validation images of ImageNet-1k, published by timm (results-imagenet.csv)"
COLUMNS = ("model", "px", "top1", "licence", "searchable", "graph")
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class PublishedModel:
    """A trained model.

    Attributes:
        name: What `timm.create_model` takes, with the tag of the weights.
        image_side: Side in pixels of the images that accuracy was taken on.
        accuracy: Share of the validation images that it is right on.
        licence: Licence of the weights; ``unknown`` where timm says none.
        is_searchable: Whether `nas search --model` takes it.
        graph: What it computes at that size.
    """

    name: str
    image_side: int
    accuracy: float
    licence: str
    is_searchable: bool
    graph: OpGraph


@cache
def published_models(folder: Path = FOLDER) -> tuple[PublishedModel, ...]:
    """All models, the most accurate first.

    Raises:
        RunError: The files that this package brings are damaged.
    """
    columns = [Column(name, is_required=True) for name in COLUMNS]
    table = CsvTable(folder / ACCURACIES, "published accuracies", columns, RunError)
    numbers = table.numbers("px", "top1", "searchable", "graph")
    rows = zip(table.texts("model"), table.texts("licence"), *numbers.values(), strict=True)
    graphs = unpack(folder / GRAPHS)
    return tuple(
        PublishedModel(name, int(px), top1 / 100, licence, searchable == 1, graphs[int(graph)])
        for name, licence, px, top1, searchable, graph in rows
        if px is not None and top1 is not None and graph is not None
    )
