"""Cut hidden units and heads, predicted from those that are kept as they are in the whole network.

Legend of tensor suffixes: M drawn rows (tokens), I inputs, O outputs, K inputs that are kept, C inputs that are cut.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search_spaces import Architecture
from supernets.least_squares import DegenerateError, damped_factor, prefix_prediction, products
from supernets.narrowing import make_narrowing
from supernets.supernet import Supernet
from supernets.timm_models.branches import Reading, seen_inputs
from supernets.timm_models.calibration_rows import CalibrationRows


class Predictions:
    """Predictions of cut inputs of writers, from statistics that are taken once, when they are first needed.

    Args:
        supernet: Trained weights.
        rows: What is looked at.
        alpha: Damping, see `supernets.least_squares`.
    """

    def __init__(self, supernet: Supernet, rows: CalibrationRows, alpha: float) -> None:
        self._supernet, self._rows, self._alpha = supernet, rows, alpha
        self._factors: dict[tuple[str, str], tuple[Tensor, Tensor, Tensor]] = {}
        """Mean, covariance and its damped factor of a writer's inputs, by part and path."""
        self._changes: dict[tuple[str, str, bytes], tuple[Tensor, Tensor]] = {}
        """What is added to a writer's weight and bias in the whole network, by part, path and the inputs it keeps."""

    def fold_into(self, network: nn.Module, architecture: Architecture) -> None:
        """Fold the predictions of what a network lacks into its layers, in place.

        Raises:
            DegenerateError: Activations are not finite; the message names the block.
        """
        family = self._supernet.family
        if not self._factors:
            self._measure()
        for name, spec in self._supernet.space.blocks(architecture):
            part = network.get_submodule(name)
            for reading in self._predicted(name):
                full, active = family.sizes(self._rows.full_block(name)), family.sizes(spec)
                inputs = self._layer(name, reading).get_parameter("weight").shape[1]
                numbers = torch.arange(inputs, device=self._supernet.device)
                kept = make_narrowing(reading.columns, (inputs,), full, active).narrow(numbers)
                if len(kept) == inputs:
                    continue
                writer = part.get_submodule(reading.path)
                for key, change in zip(("weight", "bias"), self._change(name, reading, kept), strict=True):
                    tensor = writer._parameters[key]
                    if tensor is not None:
                        tensor.add_(change[: len(tensor)].to(tensor))

    def _layer(self, name: str, reading: Reading) -> nn.Module:
        return self._supernet.network.get_submodule(f"{name}.{reading.path}")

    def _change(self, name: str, reading: Reading, kept: Tensor) -> tuple[Tensor, Tensor]:
        """What makes up for cut inputs: to be added to the weight ``(O, K)`` and the bias ``(O,)`` of a writer."""
        key = name, reading.path, kept.cpu().numpy().tobytes()
        if key not in self._changes:
            layer = self._layer(name, reading)
            prediction_CK, offset_C, cut = self._prediction(name, reading, kept)
            cut_OC = layer.get_parameter("weight")[:, cut].double()
            self._changes[key] = (cut_OC @ prediction_CK).float(), (cut_OC @ offset_C).float()
        return self._changes[key]

    def _prediction(self, name: str, reading: Reading, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cut inputs from kept ones: matrix, offset, and which inputs are cut."""
        mean_I, gram_II, factor_II = self._factors[name, reading.path]
        is_cut = torch.ones(len(mean_I), dtype=torch.bool, device=mean_I.device)
        is_cut[kept] = False
        cut = is_cut.nonzero()[:, 0]
        if int(kept[-1]) == len(kept) - 1:
            prediction_CK = prefix_prediction(factor_II, len(kept))
        else:  # some of every head: no prefix
            damped_II = factor_II @ factor_II.T
            corner_KK = torch.linalg.cholesky(damped_II[kept][:, kept])
            prediction_CK = torch.cholesky_solve(gram_II[kept][:, cut], corner_KK).T
        return prediction_CK, mean_I[cut] - prediction_CK @ mean_I[kept], cut

    def _measure(self) -> None:
        inputs: dict[tuple[str, str], list[Tensor]] = {}
        flow = [self._supernet.family.prepare(x_BCHW, self._supernet.space.image_side) for x_BCHW in self._rows.images]
        for name in self._rows.parts:
            part = self._supernet.network.get_submodule(name)
            self._rows.layers(name, part, flow[0])
            paths = [reading.path for reading in self._predicted(name)]
            for number, x in enumerate(flow):
                for path, seen in seen_inputs(part, paths, x).items() if paths else ():
                    inputs.setdefault((name, path), []).append(self._rows.drawn(seen, number))
                flow[number] = part(x)
        for (name, path), drawn in inputs.items():
            a_MI = torch.cat(drawn).double()
            has_bias = self._supernet.network.get_submodule(f"{name}.{path}")._parameters["bias"] is not None
            mean_I = a_MI.mean(dim=0) if has_bias else torch.zeros_like(a_MI[0])
            gram_II = products(a_MI - mean_I, a_MI - mean_I) / len(a_MI)
            try:
                self._factors[name, path] = mean_I, gram_II, damped_factor(gram_II, self._alpha)
            except DegenerateError as error:
                raise DegenerateError(f"block `{name}`: {error}") from error

    def _predicted(self, name: str) -> list[Reading]:
        """The writers of a part whose cut inputs can be predicted: no norm stands between, which would rescale them."""
        axes = self._supernet.family.axes(self._rows.full_block(name))
        return [
            reading
            for group in self._rows.known_layers(name)
            for reading in group
            if reading.writes and axes.get(f"{reading.branch}.norm.weight") != reading.columns
        ]
