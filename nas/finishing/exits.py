"""Early exits of a finished network: trained, chosen, written in segments that ONNX Runtime runs, and checked there.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, K classes.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latency_tables.predictor import Latency, LatencyPredictor
from nas.errors import UsageError
from nas.events import Progress, StageStarted
from nas.exporting import early_exits
from nas.exporting.early_exits import EarlyExits
from nas.exporting.export import ProofError
from nas.finishing.exit_choice import Cost, ExitChooser, ExitPlan, Place, SeenLogits
from nas.finishing.settings import FinishSettings
from nas.records.files import replacing_folder, write_json
from search_spaces.graph import Op, OpGraph

if TYPE_CHECKING:
    from torch import nn

    from supernets.data.image_data import ImageData
    from supernets.early_exits import ExitChain, Exits

PLAN = "exits.json"
EPOCHS = 20
"""Passes over the training images, of which the network itself has had its own."""
MOST_EXITS = 3
TOLERANCE = 1e-3
"""Largest difference of a logit of the segments from the network's, as a share of the logits' range."""
PROOF_IMAGES = 16
BINS = 15
"""Of confidence, over which it is compared with accuracy."""


@dataclass(frozen=True)
class ExitRequest:
    """What is asked of exits.

    Attributes:
        most: Most exits.
        risk: Accuracy that may be lost, as a share of the images.
        limit_ms: Limit on the upper end of the worst latency; None for none.
        expected_limit_ms: Limit on the upper end of the mean latency; None for none.
    """

    most: int
    risk: float
    limit_ms: float | None
    expected_limit_ms: float | None

    @classmethod
    def of(cls, settings: FinishSettings) -> ExitRequest | None:
        """What settings ask for; None for no exits.

        Raises:
            UsageError: Limits without exits, or a value out of range.
        """
        if settings.exits is None:
            for name in ("limit_ms", "expected_limit_ms"):
                if getattr(settings, name) is not None:
                    raise UsageError(f"`{name}` without exits", hint="add `exits`, for example 2, or leave it out")
            return None
        if settings.quantise is not None:
            raise UsageError("`exits` beside `quantise`: segments compute in single precision", hint="leave one out")
        if settings.exits > MOST_EXITS:
            raise UsageError(f"`exits` is {settings.exits}, expected 1 to {MOST_EXITS}")
        if not 0 < settings.exit_risk < 1:
            raise UsageError(f"`exit_risk` is {settings.exit_risk:g}, expected more than 0 and less than 1")
        return cls(settings.exits, settings.exit_risk, settings.limit_ms, settings.expected_limit_ms)


def add_exits(
    chain: ExitChain,
    images: ImageData,
    request: ExitRequest,
    predictor: LatencyPredictor,
    folder: Path,
    *,
    epochs: int,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Give a network exits, and write it in segments.

    Args:
        chain: The network.
        images: Images: the training part is learned from, the search part chooses, the test part is judged on.
        request: What is asked for.
        predictor: Latency of the device.
        folder: Where the segments are written.
        epochs: Passes over the training part.
        seed: Seed of weights and images.
        progress: Told of the stages.

    Returns:
        What is known of the exits, ready for JSON.

    Raises:
        NoExitError: No exits keep to the limits, or none is safe.
        ProofError: The segments disagree with the network; nothing is written.
    """
    from supernets.early_exits import exit_logits, train_exits

    progress(StageStarted("exits"))
    exits = train_exits(chain, images, epochs, seed, lambda done, steps: None)
    logits, last_NK, labels_N = exit_logits(chain, exits, images)
    exits_NK = {place: found.double().numpy() for place, found in logits.items()}
    seen = SeenLogits(exits_NK, last_NK.double().numpy(), labels_N.numpy())
    costs = SegmentCosts(chain, exits, predictor)
    plan = ExitChooser(seen, costs, request.risk).choose(request.most, request.limit_ms, request.expected_limit_ms)
    with replacing_folder(folder) as draft:
        write_segments(chain, exits, plan, images, draft)
        facts = {**plan.to_dict(), **judge_segments(draft, chain, images)}
    return facts


class SegmentCosts:
    """Predicted latency of chains of segments, each of which costs what a network of its operators does."""

    def __init__(self, chain: ExitChain, exits: Exits, predictor: LatencyPredictor) -> None:
        from latency_tables.trace import trace

        self._chain, self._predictor = chain, predictor
        self._ops: dict[Place, tuple[Op, ...]] = {
            place: trace(found.cpu(), chain.shapes[place[0]], "an exit").blocks[0][1] for place, found in exits.items()
        }
        self._known: dict[tuple[int, int, Place | None], Latency] = {}

    def __call__(self, places: Sequence[Place]) -> Cost:
        """Milliseconds to each end of the network with these exits."""
        starts = [0, *(number + 1 for number, _ in places)]
        ends = [*(number for number, _ in places), len(self._chain.blocks) - 1]
        kinds = [*places, None]
        found = [self._segment(*key) for key in zip(starts, ends, kinds, strict=True)]
        return Cost(np.cumsum([latency.ms for latency in found]), np.cumsum([latency.high_ms for latency in found]))

    def _segment(self, first: int, last: int, place: Place | None) -> Latency:
        key = (first, last, place)
        if key not in self._known:
            blocks = [(name, tuple(spec.ops())) for name, spec in self._chain.blocks[first : last + 1]]
            blocks += [("exit", self._ops[place])] if place is not None else []
            shape = self._chain.shapes[first - 1] if first else (3, self._chain.side, self._chain.side)
            self._known[key] = self._predictor.graph(OpGraph(blocks, shape))
        return self._known[key]


def segments_of(chain: ExitChain, exits: Exits, places: Sequence[Place]) -> list[nn.Module]:
    """The segments of a network with these exits, in order, on the CPU."""
    starts = [0, *(number + 1 for number, _ in places)]
    ends = [*(number for number, _ in places), len(chain.blocks) - 1]
    behind = [*(exits[place] for place in places), None]
    return [chain.segment(*each).cpu().eval() for each in zip(starts, ends, behind, strict=True)]


def write_segments(chain: ExitChain, exits: Exits, plan: ExitPlan, images: ImageData, folder: Path) -> None:
    """Write each segment as an ONNX file, the plan, and the file that runs them.

    Raises:
        ProofError: They disagree with the network.
    """
    import torch

    from latency_tables.runtimes.onnx_file import OPSET, quiet_exporters

    segments = segments_of(chain, exits, plan.places)
    x_BCHW, _ = next(iter(images.batches("search", PROOF_IMAGES)))
    flow = chain.family.prepare(x_BCHW, chain.side)
    names = [f"segment_{number}.onnx" for number in range(1, len(segments) + 1)]
    with torch.no_grad():
        shown = flow[:1]
        for segment, name in zip(segments, names, strict=True):
            outputs = ["logits"] if segment is segments[-1] else ["next", "logits"]
            with quiet_exporters():
                torch.onnx.export(
                    segment, (shown,), str(folder / name), dynamo=False, opset_version=OPSET,
                    input_names=["flow"], output_names=outputs,
                )  # fmt: skip
            found, flow = segment(shown), segment(flow)
            shown, flow = (found[0], flow[0]) if isinstance(found, tuple) else (found, flow)
    write_json(folder / PLAN, {"schema": 1, "segments": names, **plan.to_dict()})
    shutil.copyfile(early_exits.__file__, folder / Path(early_exits.__file__).name)
    whole, images_BCHW = EarlyExits(folder, threshold=1.0), chain.family.prepare(x_BCHW, chain.side).numpy()
    found_BK = np.concatenate([whole(image_CHW[None])[0] for image_CHW in images_BCHW])
    expected_BK = flow.numpy()
    difference = float(np.abs(found_BK - expected_BK).max() / max(np.ptp(expected_BK), 1e-12))
    if not difference <= TOLERANCE:
        raise ProofError(
            f"the segments give logits that differ by {difference:.2g} of their range from the network's, expected at"
            f" most {TOLERANCE:g}; nothing was written"
        )


def judge_segments(folder: Path, chain: ExitChain, images: ImageData) -> dict[str, Any]:
    """What segments are worth on the test part, in ONNX Runtime, beside the whole network."""
    early, whole = EarlyExits(folder), EarlyExits(folder, threshold=1.0)
    rows: list[tuple[int, bool, bool, bool, float]] = []
    for x_BCHW, labels_B in images.batches("test", 64):
        for image_CHW, label in zip(chain.family.prepare(x_BCHW, chain.side).numpy(), labels_B.tolist(), strict=True):
            (found_1K, number), (last_1K, _) = early(image_CHW[None]), whole(image_CHW[None])
            temperature = [*early.temperatures, 1.0][number]
            said, last = int(found_1K.argmax()), int(last_1K.argmax())
            sure = early_exits.confidence(found_1K, temperature)
            rows.append((number, said == label, last == label, said == last, sure))
    taken, right, whole_right, agrees, sureness = (np.array(column) for column in zip(*rows, strict=True))
    return {
        "test_images": len(rows),
        "test_shares": (np.bincount(taken, minlength=len(early.segments)) / len(rows)).tolist(),
        "test_accuracy": float(right.mean()),
        "test_whole_accuracy": float(whole_right.mean()),
        "test_agreement": float(agrees.mean()),
        "test_calibration_error": calibration_error(sureness, right),
    }


def calibration_error(sure: Any, right: Any) -> float:
    """The mean difference of confidence from accuracy, over bins of confidence, weighted by their images."""
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    found = [(bins == number, float((bins == number).mean())) for number in set(bins.tolist())]
    return float(sum(share * abs(sure[members].mean() - right[members].mean()) for members, share in found))
