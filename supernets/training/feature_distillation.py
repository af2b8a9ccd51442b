"""Learning what a whole network sees in images, in place of labels: its features, and its map of patches.

The loss of a network S inside a whole one T is half of one minus the cosine of the features of images, A c_S and c_T,
plus half of the mean over patches of one minus that of A' p_S and p_T. A and A' are square, begin as identities, and
are shared by networks of all widths, which use their first columns: the channels of a narrower network are the first of
the whole one. They are trained along, and no part of the network.

Related: Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024, arXiv 2304.07193, whose
smaller models learn from the largest one. Deviations: cosines in place of prototypes, and no masked patches.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, D features of the whole network, E of a
narrower one, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces import Architecture, SearchSpace
from search_spaces.timm_models import MERGED, MERGING, TimmBlock
from supernets.early_exits import PatchMap
from supernets.features import classifiers_in, watched
from supernets.supernet import Supernet
from supernets.training.losses import Seen

PREFIX = "feature_maps/"
"""What the names of A and A' begin with in a checkpoint."""
WHOLE, PATCHES = "of the whole", "of patches"


def see(run: Callable[[], object], head: nn.Module, space: SearchSpace, architecture: Architecture) -> Seen:
    """What a network sees while it runs.

    Args:
        run: Runs the network on images at its side.
        head: Its last part.
        space: Space of the network.
        architecture: The network.

    Raises:
        SupernetError: The network has no dense classifier.
    """
    side = space.input_shape(dict(architecture.settings))[-1]
    with watched(classifiers_in(head, space, head="")) as whole, _tokens(head) as tokens:
        run()
    patch_map = None if _merges(space, architecture) else PatchMap.of(tokens[0].shape[1:], side)
    return Seen(whole[0].flatten(1), None if patch_map is None else patch_map.patches(tokens[0]))


class FeatureTeacher:
    """What the whole network of a supernet sees, without gradients.

    Args:
        supernet: Put into evaluation mode.
        precision: Precision of its products, float32 or bfloat16.
    """

    def __init__(self, supernet: Supernet, precision: torch.dtype = torch.float32) -> None:
        self._supernet, self._precision = supernet.eval().requires_grad_(False), precision
        *_, (last, _) = supernet.space.blocks(supernet.space.largest)
        self._head = supernet.network.get_submodule(last)

    @torch.no_grad()
    def __call__(self, images_BCHW: Tensor) -> Seen:
        """What it sees in images ``(B, 3, H, W)`` of any side."""
        supernet, space = self._supernet, self._supernet.space
        x_BCHW = supernet.family.prepare(images_BCHW, space.input_shape(dict(space.largest.settings))[-1])
        is_reduced = self._precision != torch.float32
        with torch.autocast(images_BCHW.device.type, self._precision, enabled=is_reduced):
            return see(lambda: supernet.network(x_BCHW), self._head, space, space.largest)

    @property
    def features(self) -> tuple[int, int]:
        """How many features an image has, and a patch; 0 where patches are on no grid."""
        side = self._supernet.space.image_side
        seen = self(torch.zeros(1, 3, side, side, device=self._supernet.device))
        return seen.whole_BE.shape[1], 0 if seen.patches_BEHW is None else seen.patches_BEHW.shape[1]


class FeatureLoss:
    """The loss, with the matrices that narrower networks' features go through.

    Args:
        features: Features of the teacher, as `FeatureTeacher.features` has them.
        device: Where the matrices are.

    Attributes:
        trained: The matrices A and A', by name.
    """

    def __init__(self, features: tuple[int, int], device: torch.device) -> None:
        sizes = dict(zip((WHOLE, PATCHES), features, strict=True))
        self.trained = {
            f"{PREFIX}{name}": nn.Parameter(torch.eye(size, device=device)) for name, size in sizes.items() if size
        }

    def __call__(self, seen: Seen, wanted: Seen) -> Tensor:
        """The mean over images; features of the whole image alone count where either network has no map."""
        whole = self._distance(WHOLE, seen.whole_BE, wanted.whole_BE)
        if seen.patches_BEHW is None or wanted.patches_BEHW is None:
            return whole
        found_BHWE, side = seen.patches_BEHW.permute(0, 2, 3, 1), seen.patches_BEHW.shape[-2:]
        wanted_BDHW = wanted.patches_BEHW.float()
        if wanted_BDHW.shape[-2:] != side:
            wanted_BDHW = F.interpolate(wanted_BDHW, side, mode="bilinear", align_corners=False)
        return (whole + self._distance(PATCHES, found_BHWE, wanted_BDHW.permute(0, 2, 3, 1))) / 2

    def state(self) -> dict[str, Tensor]:
        """The matrices, for a checkpoint."""
        return {name: matrix.detach() for name, matrix in self.trained.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        with torch.no_grad():
            for name, matrix in self.trained.items():
                matrix.copy_(state[name])

    def _distance(self, name: str, found: Tensor, wanted: Tensor) -> Tensor:
        """One minus the mean cosine, over all but the last dimension."""
        matrix_DE = self.trained[f"{PREFIX}{name}"][:, : found.shape[-1]]
        return 1 - F.cosine_similarity(F.linear(found.float(), matrix_DE), wanted.float(), dim=-1).mean()


@contextmanager
def _tokens(head: nn.Module) -> Iterator[list[Tensor]]:
    """What flows behind the norm of a head while the block lasts; what flows into the head where that has none."""
    found = [torch.empty(0)]
    norm = dict(head.named_children()).get("norm")

    def keep_output(_: nn.Module, inputs: object, output: Tensor) -> None:
        found[0] = output

    def keep_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found[0] = inputs[0]

    handle = head.register_forward_pre_hook(keep_input) if norm is None else norm.register_forward_hook(keep_output)
    try:
        yield found
    finally:
        handle.remove()


def _merges(space: SearchSpace, architecture: Architecture) -> bool:
    """Whether a network merges tokens."""
    return any(
        isinstance(spec, TimmBlock) and name.startswith(MERGING) and dict(spec.sizes)[MERGED] > 0
        for name, spec in space.blocks(architecture)
    )
