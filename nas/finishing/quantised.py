"""Finishing a network for fewer bits: what it then computes, and training it with rounded numbers.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, arXiv 1712.05877: numbers are rounded in the forward pass, and gradients pass through the rounding. The
teacher is the network itself in fp32.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from nas.errors import UsageError
from nas.evaluation.evaluators import calibration_batches
from nas.exporting.kept import assignment_of
from nas.quantisation.evaluated import OrderedQuantisation, Wanted, integer_mode
from nas.quantisation.watching import names_in_order
from search_spaces import Architecture

if TYPE_CHECKING:
    from latency_tables.onnx_quantised import Precision
    from supernets.data.image_data import ImageData
    from supernets.supernet import Supernet

INT8, MIXED = "int8", "mixed"
QUANTISED = (INT8, "w4", "w2", MIXED)
"""What a network can be finished for."""
EPOCHS = 2


def wanted_precisions(quantise: str, run: Path | str | None, pick: str | None) -> Wanted:
    """What layers are to compute in.

    Args:
        quantise: One of `QUANTISED`.
        run: The run that is finished, which keeps the precisions of ``mixed``.
        pick: The network of its front.

    Raises:
        UsageError: There is no such choice, or nobody has chosen precisions for ``mixed``.
    """
    if quantise not in QUANTISED:
        raise UsageError(f"`quantise` is {quantise!r}, expected {', '.join(f'`{name}`' for name in QUANTISED)}")
    if quantise != MIXED:
        return cast("Precision", quantise)
    found = None if run is None else assignment_of(Path(run), pick or "knee")
    if found is None:
        raise UsageError(
            f"`quantise` is `{MIXED}`, but nobody has chosen precisions for the layers of network `{pick or 'knee'}`",
            "nas quantise RUN --pick PICK",
        )
    return found


def compute_in(network: Supernet, architecture: Architecture, images: ImageData, seed: int, wanted: Wanted) -> None:
    """Have a network alone compute in fewer bits from now on; its layer norms are equalised first.

    Args:
        network: The network, in a space of its own, on its device.
        architecture: The network.
        images: Images whose training part ranges are found on.
        seed: Seed of the choice of images.
        wanted: What its layers compute in.
    """
    from supernets.batch_norm import reestimate_batch_norm

    batches = [x_BCHW.to(network.device) for x_BCHW in calibration_batches(images, seed)]
    module = network.extract(architecture).eval()
    reestimate_batch_norm(module, batches)
    mode = integer_mode(module, batches[0], wanted)
    order = names_in_order(module, batches[0][:1])
    network.network.load_state_dict(module.state_dict())
    network.mode = lambda: OrderedQuantisation(mode, order)
