"""What every export format has to do: its file gives the network's logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import Tensor, nn

from nas.errors import MissingDependencyError, NasError
from nas.exporting.formats.base import ExportedNetwork, ExportFormat, FileFormat
from nas.exporting.formats.onnx_file import ONNX_FILE
from nas.networks.onnx import export_onnx
from nas.quantisation.watching import weighted_layers
from search_spaces import SearchSpace, get_space
from supernets import build_network, family_of


class ExportFormatContract(ABC):
    """What every export format has to do. Subclass it, give `make_format`, and let pytest find the subclass."""

    @abstractmethod
    def make_format(self) -> ExportFormat:
        """The format, a new object each time."""

    def make_space(self) -> SearchSpace:
        """A space whose smallest network the format can write."""
        return get_space("elastic-mini")

    def test_a_network_is_written_and_gives_equal_logits(self, tmp_path: Path) -> None:
        """To 1e-4 of their range; a form that is not exact by design gives finite ones of the right shape."""
        form, space = self.make_format(), self.make_space()
        try:
            form.check(space, True)
        except NasError as error:
            if error.exit_code == MissingDependencyError.exit_code:
                pytest.skip(f"{error}; {error.hint}")
            raise
        if not isinstance(form, FileFormat):
            return
        network = _exported(space, tmp_path)
        path = tmp_path / form.file
        form.write(network, path)
        assert path.stat().st_size > 0
        with torch.no_grad():
            expected_BK = network.module(network.images_BCHW)
        found_BK = form.run(path, network.images_BCHW)
        assert found_BK.shape == expected_BK.shape
        assert found_BK.isfinite().all()
        if form.tolerance is not None:
            largest = (found_BK - expected_BK).abs().max() / (expected_BK.max() - expected_BK.min())
            assert float(largest) <= 1e-4

    def test_batches_of_any_size_are_taken_where_it_says_so(self, tmp_path: Path) -> None:
        """Images at once give what each gives alone."""
        form, space = self.make_format(), self.make_space()
        if not isinstance(form, FileFormat) or not form.any_batch:
            return
        try:
            form.check(space, True)
        except MissingDependencyError as error:
            pytest.skip(f"{error}; {error.hint}")
        network = _exported(space, tmp_path, dynamic_batch=True)
        path = tmp_path / form.file
        form.write(network, path)
        images_BCHW = network.images_BCHW[:3]
        alone_BK, together_BK = form.run(path, images_BCHW), form.run_together(path, images_BCHW)
        largest = (together_BK - alone_BK).abs().max() / (alone_BK.max() - alone_BK.min())
        assert float(largest) <= (1e-4 if form.tolerance is not None else 1e-2)

    def test_what_does_not_suit_is_refused_with_a_hint(self) -> None:
        """Before anything is written: weights are random, so that there are no images to calibrate on."""
        refusal: NasError | None = None
        try:
            self.make_format().check(self.make_space(), False)
        except NasError as error:
            refusal = error
        assert refusal is None or refusal.hint

    def test_a_missing_package_is_named_with_the_line_that_installs_it(self) -> None:
        """Whatever else the format needs."""
        form = self.make_format()
        form.packages = {}
        try:
            form.check(self.make_space(), True)
        except MissingDependencyError as error:
            pytest.skip(f"{error}; {error.hint}")
        except NasError:
            pass  # what else it refuses comes behind what is missing
        form.packages = {"no_such_module": "no-such-package>=3"}
        with pytest.raises(MissingDependencyError, match="`no_such_module` is not installed") as caught:
            form.check(self.make_space(), True)
        assert caught.value.hint == 'pip install "no-such-package>=3"'


def _exported(space: SearchSpace, folder: Path, dynamic_batch: bool = False) -> ExportedNetwork:
    network, onnx, images_BCHW = _network(space, dynamic_batch)
    path = folder / ONNX_FILE.file
    path.write_bytes(onnx)
    layers = weighted_layers(network, images_BCHW[:1])
    assignment = {layer.name: "fp32" if layer.reads_image else "int8" for layer in layers}
    return ExportedNetwork(network, path, images_BCHW, lambda: [images_BCHW], assignment)


@lru_cache(maxsize=2)
def _network(space: SearchSpace, dynamic_batch: bool) -> tuple[nn.Module, bytes, Tensor]:
    """The smallest network of a space, its ONNX file and images at its side."""
    torch.manual_seed(0)
    network = build_network(space, space.smallest).eval()
    side = space.input_shape(dict(space.smallest.settings))[-1]
    images_BCHW = torch.randn(4, 3, space.image_side, space.image_side, generator=torch.Generator().manual_seed(2))
    with TemporaryDirectory(prefix="nas-contract-") as folder:
        path = Path(folder) / ONNX_FILE.file
        export_onnx(network, side, path, dynamic_batch=dynamic_batch)
        return network, path.read_bytes(), family_of(space).prepare(images_BCHW, side)
