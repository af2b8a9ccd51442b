"""Kinds of networks, and for which of them a table may be believed."""

from __future__ import annotations

import pytest

from latency_tables.errors import TableError
from latency_tables.kinds import CONVOLUTIONAL, HYBRID, PLAIN, THE_LINE, believed_kinds, describe_belief, network_kind
from latency_tables.published_features import features_of
from latency_tables.table import LatencyTable
from latency_tables.table_validation import KindError
from tests.support.tables import document


@pytest.mark.parametrize(
    ("network", "kind"),
    [
        ("mobile-ml-benchmark/vit-base-patch32-384", PLAIN),
        ("mobile-ml-benchmark/deit-tiny-distilled-patch16-224", PLAIN),
        ("mobile-ml-benchmark/swin-tiny-patch4-window7-224", PLAIN),
        ("ai-hub/beit_base_patch16_224", PLAIN),
        ("mobile-ml-benchmark/mit-b0", HYBRID),
        ("mobile-ml-benchmark/cvt-13", HYBRID),
        ("mobile-ml-benchmark/mobilevit-xx-small", HYBRID),
        ("ai-hub/levit_128s", HYBRID),
        ("published/MNv4-Hybrid-M@256", HYBRID),
        ("mobile-ml-benchmark/regnety002", CONVOLUTIONAL),
        ("ai-hub/convnext_tiny", CONVOLUTIONAL),
    ],
)
def test_the_kind_of_a_network(network: str, kind: str) -> None:
    assert network_kind(features_of(network, 1)) == kind


def test_the_same_network_takes_more_bytes_in_a_wider_precision() -> None:
    narrow, wide = (features_of("mobile-ml-benchmark/resnet18", size) for size in (1, 4))
    assert wide["conv"][:2] == narrow["conv"][:2]
    assert wide["conv"][2:] == pytest.approx([4 * amount for amount in narrow["conv"][2:]])
    with pytest.raises(TableError, match="network `ai-hub/none`: found nothing"):
        features_of("ai-hub/none", 1)


def calibrated(*kinds: tuple[str, int, float], slope: float = 1.0) -> LatencyTable:
    """A table that was calibrated, with these numbers of networks and errors by kind."""
    entries = [
        KindError(kind=kind, networks=count, families=1, mean_error=error, mac_line_mean_error=1, within_interval=1)
        for kind, count, error in kinds
    ]
    table = LatencyTable.from_dict(document(), "here")
    no_bytes = table.rooflines[0].model_copy(update={"ms_per_megabyte_read": 0.0, "launch_us": 0.0})
    rooflines = tuple(
        no_bytes.model_copy(update={"op": op, "ms_per_million_macs": 1 + slope * number})
        for number, op in enumerate(("conv", "other"))
    )
    return table.model_copy(
        update={
            "rooflines": rooflines,
            "validation": table.validation.model_copy(update={"by_kind": tuple(entries)}),
            "provenance": table.provenance.model_copy(update={"kind": "calibrated"}),
        }
    )


def test_a_table_is_believed_for_kinds_that_it_predicts_without_their_family() -> None:
    table = calibrated((CONVOLUTIONAL, 9, 0.08), (PLAIN, 4, 0.3), (HYBRID, 1, 0.01))
    assert believed_kinds(table) == (CONVOLUTIONAL,), "30 % is too much, and one network too few"
    assert describe_belief(table) == "CNNs 8%"
    assert describe_belief(calibrated((PLAIN, 4, 0.3))) == "ranking alone"


def test_a_line_through_macs_passes_for_nothing_more() -> None:
    table = calibrated((CONVOLUTIONAL, 9, 0.08), (PLAIN, 4, 0.1), slope=0.0)
    assert believed_kinds(table) == ()
    assert describe_belief(table) == THE_LINE
