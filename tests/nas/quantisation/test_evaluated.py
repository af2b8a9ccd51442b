"""Networks in integers before any file is written: judged in a search, run on borrowed tensors, finished."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nas.errors import UsageError
from nas.evaluation.evaluators import SupernetEvaluator
from nas.finishing.quantised import FewerBits, in_relu, wanted_precisions
from nas.quantisation.evaluated import in_integers
from nas.records.files import write_json
from nas.searching.resolution import resolve_settings
from search_spaces import SingleSpace, get_space
from supernets import Supernet
from supernets.data.image_data import ImageData


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    supernet = Supernet(get_space("resnas-mini", 2), seed=1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in supernet.parameters():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator))
    return supernet.eval()


def test_networks_are_judged_in_integers(supernet: Supernet, data: ImageData) -> None:
    smallest = supernet.space.smallest
    found = {
        precision: SupernetEvaluator(supernet, data, precision=precision).evaluate(smallest, 0).scores["cross_entropy"]
        for precision in ("fp32", "int8", "w2")
    }
    assert 0 < abs(found["int8"] - found["fp32"]) < abs(found["w2"] - found["fp32"])


def test_borrowed_tensors_compute_the_same_in_integers(supernet: Supernet, data: ImageData) -> None:
    smallest = supernet.space.smallest
    alone = Supernet(SingleSpace(supernet.space, smallest)).eval()
    alone.network.load_state_dict(supernet.extract(smallest).state_dict())
    images_BCHW, _ = next(iter(data.batches("search", 4)))
    module = alone.extract(smallest).eval()
    FewerBits.of(alone, data, 0, "int8")
    with torch.no_grad():
        inside_BK = alone(images_BCHW, smallest)
        plain_BK = module(alone.family.prepare(images_BCHW, images_BCHW.shape[-1]))
    assert 0 < (inside_BK - plain_BK).abs().max() < 0.2 * (plain_BK.max() - plain_BK.min())
    calibration_BCHW, _ = next(iter(data.train_batches(128, 0, epoch=0)))
    with torch.no_grad():
        expected_BK = in_integers(module, calibration_BCHW, "int8")(images_BCHW)
    assert (inside_BK - expected_BK).abs().max() < 0.5 * (inside_BK - plain_BK).abs().max()


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`precision` is 'int7', expected 'fp32' or 'int8'"):
        resolve_settings({"precision": "int7"})
    with pytest.raises(UsageError, match="nothing says how often networks in integers are right"):
        resolve_settings({"precision": "int8"})
    settings = resolve_settings({"precision": "int8", "data": "digits", "space": "elastic-mini", "target": "local"})
    assert settings.target == "local@int8"
    with pytest.raises(UsageError, match="`quantise` is 'int4', expected `int8`, `w4`, `w2`, `mixed`"):
        wanted_precisions("int4", None, None)
    with pytest.raises(UsageError, match="networks of space `resnas-mini` keep their activation"):
        in_relu(get_space("resnas-mini").smallest)


def test_precisions_that_were_chosen_are_found_by_the_network_that_they_are_of(tmp_path: Path) -> None:
    search, finished = tmp_path / "run", tmp_path / "run" / "finished"
    (finished / "quantised" / "network").mkdir(parents=True)
    architecture = get_space("elastic-mini").smallest.to_dict()
    write_json(search / "settings.json", {"command": "search"})
    write_json(finished / "settings.json", {"command": "finish", "architecture": architecture})
    with pytest.raises(UsageError, match="nobody has chosen precisions for the layers of network `knee`") as caught:
        wanted_precisions("mixed", search, None)
    assert caught.value.hint == f"nas quantise {search} --pick PICK"
    with pytest.raises(UsageError, match="for the layers of network `network`") as caught:
        wanted_precisions("mixed", finished, None)
    assert caught.value.hint == f"nas quantise {finished}"
    write_json(finished / "quantised" / "network" / "assignment.json", {"head": "int8"})
    assert wanted_precisions("mixed", finished, None) == {"head": "int8"}
    with pytest.raises(UsageError, match="network `knee`") as caught:
        wanted_precisions("mixed", search, None)
    assert f"nas finish {finished} --quantise mixed" in str(caught.value.hint)
