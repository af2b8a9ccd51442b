"""Figures of one network under several names, and siblings that a check on families left out must not keep."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from latency_tables.errors import CalibrationError
from latency_tables.table import LatencyTable
from nas.latency import calibration
from nas.latency.calibration import CalibrationResult, calibrate_target
from nas.networks.resolve import resolve_network
from search_spaces import get_space
from tests.support.onnx_networks import save_network

HEAD = "model,latency_ms\n"
OWN = "elastic/T1,6\nasvit/small,30\nresnas/tiny,20\nelastic/S1,9\nasvit/base,60\nresnas/small,25\n"
"""Networks of three designs that are lowered, not traced."""

CONDITIONS = {"device": "X", "runtime": "Y", "precision": "fp32", "processor": "P", "threads": "1"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(calibration, "_rebuild", _rebuild)


_rebuild = functools.cache(calibration._rebuild)  # tracing a network takes a second


def calibrated(folder: Path, text: str) -> CalibrationResult:
    (folder / "figures.csv").write_text(text)
    return calibrate_target(folder / "figures.csv", "t", CONDITIONS)


def families(table: LatencyTable) -> dict[str, str]:
    return {figure.model: figure.family for figure in table.figures}


def test_networks_are_siblings_by_the_class_that_builds_them(tmp_path: Path) -> None:
    rows = "resnet18,21.2\nresnet34.tv_in1k,43\nelastic-mini/largest,0.5\nasvit-mini/largest,1\n"
    found = families(calibrated(tmp_path, HEAD + OWN + rows).table)
    assert found["resnet18"] == found["resnet34.tv_in1k"] == "resnet"
    assert found["elastic/T1"] == found["elastic/S1"] == found["elastic-mini/largest"] == "elasticvit"
    assert found["asvit/small"] == found["asvit/base"] == found["asvit-mini/largest"] == "asvit"
    assert len(set(found.values())) == 4


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("deit_tiny_patch16_224", "vit_tiny_patch16_224"),
        ("deit_tiny_distilled_patch16_224", "vit_small_patch16_224.augreg_in1k"),
        ("seresnet50", "resnet101"),
        ("wide_resnet50_2", "ecaresnet26t"),
        ("levit_128s", "levit_conv_256"),
        ("mobilenetv2_050", "mobilenetv2_140"),
        ("convnext_atto", "convnextv2_atto"),
        ("swin_tiny_patch4_window7_224", "timm:swin_tiny_patch4_window7_224/smallest"),
    ],
)
def test_the_design_of_two_siblings(one: str, two: str) -> None:
    assert calibration._design(resolve_network(one)) == calibration._design(resolve_network(two))


def test_a_published_name_and_a_name_of_timm_are_siblings(tmp_path: Path) -> None:
    rows = "MobileNet-V2-0.5x,3.1\nmobilenetv2_100,7.5\nmobilenet,6\nresnet18,20\n"
    found = families(calibrated(tmp_path, HEAD + OWN + rows).table)
    assert found["MobileNet-V2-0.5x"] == found["mobilenetv2_100"] == found["mobilenet"]
    assert found["resnet18"] == "ResNet"


def test_published_names_alone_keep_the_families_of_the_catalogue(tmp_path: Path) -> None:
    rows = "MobileNet-V2,7.5\nMobileNet-V2-0.5x,3.1\nmobilenet,7\nresnet18,20\nmnasnet,6\n"
    found = families(calibrated(tmp_path, HEAD + rows).table)
    assert found["MobileNet-V2"] == found["MobileNet-V2-0.5x"] == "MobileNetV2"
    assert (found["mobilenet"], found["mnasnet"]) == ("MobileNetV1", "MnasNet")


def test_what_a_file_states_counts_and_draws_unstated_siblings_in(tmp_path: Path) -> None:
    rows = "elastic/T1,6,Elastic\nelastic/T2,7,ELASTIC\nelastic/S1,9,\nasvit/small,30,A\nasvit/base,60,B\n"
    found = families(calibrated(tmp_path, f"model,latency_ms,family\n{rows}resnas/tiny,20,\n").table)
    assert found["elastic/T1"] == found["elastic/T2"] == found["elastic/S1"] == "Elastic"
    assert (found["asvit/small"], found["asvit/base"], found["resnas/tiny"]) == ("A", "B", "resnas")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("mobilenetv2_100", "MobileNet-V2"),
        ("resnet18", "resnet18.a1_in1k"),
        ("resnet18", "timm/resnet18"),
        ("elastic/S2", json.dumps(get_space("elastic").named["S2"].to_dict())),
    ],
)
def test_one_network_under_two_names(tmp_path: Path, one: str, two: str) -> None:
    quoted = two.replace('"', '""')
    result = calibrated(tmp_path, f'{HEAD}{OWN}"{one}",10\n"{quoted}",10.4\n')
    assert result.left_out == (f"{two}: is the network `{one}`, which counts once, with the mean of 10 and 10.4 ms",)
    (figure,) = [figure for figure in result.table.figures if figure.model == one]
    assert figure.measured_ms == pytest.approx(10.2)


def test_figures_of_one_network_that_disagree_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"`resnet18` and `resnet18\.a1_in1k` are one network: found 21"):
        calibrated(tmp_path, f"{HEAD}{OWN}resnet18,21.2\nresnet18.a1_in1k,900\n")


def test_families_of_onnx_files_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    save_network(path)
    result = calibrated(tmp_path, f"{HEAD}{OWN}{path},3\n")
    assert any("families of ONNX files are not stated" in note for note in result.table.provenance.notes)
