"""Supernets of AutoFormer and of PreNAS, which have the same tensors and differ in what their biases mean.

Sources: Chen et al., arXiv 2107.00651, and Wang et al., arXiv 2304.14636; names and layouts as in their reference
implementations. Rows of the fused projection take turns: row 3 c + p is channel c of part p (query, key, value). The
numbers of its bias do so in PreNAS; in AutoFormer they lie part after part, for as many channels as a network has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from search_spaces import BlockSpec, get_space, space_names
from search_spaces.autoformer import AutoformerSpace, PrenasSpace
from search_spaces.autoformer_blocks import AutoformerLayer, Head
from search_spaces.autoformer_definitions import HEAD_WIDTH
from search_spaces.resnas_blocks import PatchEmbed
from supernets.errors import CheckpointError
from supernets.family import family_of
from supernets.importing.base import Found, Imported, Origin, check_tensors, narrowed, number_of, published_shapes

PLACES = ("model", "state_dict")
WIDEST_RATIO = 4
OWN_OF_PRENAS = frozenset({"candfile", "switch_ln", "scale_attn", "scale_mlp", "scale_embed"})
"""Arguments of PreNAS's training command that AutoFormer's has not."""
QUIET = 0.1
"""Share of a bias's typical size below which a part of it counts as never trained."""
NAMES: Mapping[str, str] = {
    "patch.conv.": "patch_embed_super.proj.",
    "patch.class_token": "cls_token",
    "patch.position_embedding": "pos_embed",
    "attention_norm.": "attn_layer_norm.",
    "attention.qkv.": "attn.qkv.",
    "attention.key_positions.rows": "attn.rel_pos_embed_k.embeddings_table_v",
    "attention.key_positions.columns": "attn.rel_pos_embed_k.embeddings_table_h",
    "attention.value_positions.rows": "attn.rel_pos_embed_v.embeddings_table_v",
    "attention.value_positions.columns": "attn.rel_pos_embed_v.embeddings_table_h",
    "attention.project.": "attn.proj.",
    "feed_forward_norm.": "ffn_layer_norm.",
    "feed_forward.expand.": "fc1.",
    "feed_forward.project.": "fc2.",
    "head.norm.": "norm.",
    "head.classifier.": "head.",
}
"""What parts of our names are called in a file."""
_AUTOFORMER_PAGE = "https://github.com/microsoft/Cream/tree/main/AutoFormer"
_PRENAS_PAGE = "https://github.com/tinyvision/PreNAS"
ACCURACIES: Mapping[str, float] = {
    "autoformer-tiny": 75.3,
    "autoformer-small": 81.7,
    "autoformer-base": 82.4,
    "prenas-tiny": 77.1,
    "prenas-small": 81.8,
    "prenas-base": 82.6,
}
"""Top-1 accuracy on ImageNet in percent of each space's network `published`."""


@dataclass(frozen=True)
class AutoformerImporter:
    """Reads the supernets of one of the two.

    Attributes:
        expected: The files that it reads, in words for messages.
        space_type: Kind of its spaces.
    """

    expected: str
    space_type: type[AutoformerSpace]

    def recognises(self, found: Found, space: str | None) -> bool:
        """Whether a file has AutoFormer's tensors, and the arguments or biases of this one."""
        tensors = found.tensors(PLACES)
        if not {"pos_embed", "patch_embed_super.proj.weight", "blocks.0.attn.qkv.weight"} <= tensors.keys():
            return False
        if space is not None:
            return type(get_space(space)) is self.space_type
        return (_is_prenas(found, tensors) or False) is (self.space_type is PrenasSpace)

    def read(self, found: Found, space: str | None) -> Imported:
        """The supernet in a file.

        Raises:
            CheckpointError: It has another size than those that were published, or further parts.
        """
        tensors = found.tensors(PLACES)
        target = self._space(found, tensors, space)
        blocks, family = _published_blocks(target), family_of(target)
        shapes = published_shapes(target, family, blocks)
        check_tensors(found, tensors, {_name(name): shape for name, shape in shapes.items()})
        own = {name: tensors[_name(name)] for name in shapes}
        for name, tensor in own.items():
            if name.endswith("attention.qkv.weight") or (
                name.endswith("attention.qkv.bias") and self.space_type is PrenasSpace
            ):
                own[name] = tensor.reshape(-1, 3, *tensor.shape[1:]).transpose(0, 1).reshape(tensor.shape)
        notes: tuple[str, ...] = ()
        if space is None and _is_prenas(found, tensors) is None:
            notes = (
                "nothing in the file tells a supernet of AutoFormer from one of PreNAS, which have the same tensors: it"
                f" is read as `{target.name}`; `--space` names another space",
            )
        return Imported(narrowed(target, blocks, own), _origin(target), notes=notes)

    def _space(self, found: Found, tensors: Mapping[str, Tensor], asked: str | None) -> AutoformerSpace:
        """The space whose published supernet has the file's size."""
        head, qkv = tensors.get("head.weight"), tensors["blocks.0.attn.qkv.weight"]
        classes = None if head is None else len(head)
        names = space_names() if asked is None else [asked]
        spaces = [space for name in names if type(space := get_space(name, classes)) is self.space_type]
        size = (
            tensors["pos_embed"].shape[-1],
            number_of(tensors, r"blocks\.(\d+)\."),
            len(qkv) // (3 * HEAD_WIDTH),
            tensors["pos_embed"].shape[-2],
        )
        sizes = {space: _size(space) for space in spaces if isinstance(space, AutoformerSpace)}
        for space, expected in sizes.items():
            if size == expected:
                return space
        words = "width {}, {} blocks, {} heads and {} tokens"
        known = "; ".join(f"`{space.name}` has {words.format(*expected)}" for space, expected in sizes.items())
        raise CheckpointError(f"weights `{found.file}`: found a supernet of {words.format(*size)}; {known}")


def _size(space: AutoformerSpace) -> tuple[int, int, int, int]:
    """Width, blocks, heads and tokens of a space's published supernet."""
    definition = space.definition
    tokens = 1 + (definition.image_side // definition.patch) ** 2
    return definition.shared_width, definition.depths[-1], definition.heads[-1], tokens


def _published_blocks(space: AutoformerSpace) -> dict[str, BlockSpec]:
    definition = space.definition
    width, side = definition.shared_width, definition.image_side // definition.patch
    layer = AutoformerLayer(side, width, definition.heads[-1], HEAD_WIDTH, WIDEST_RATIO * width)
    layers: dict[str, BlockSpec] = {f"blocks.{number}": layer for number in range(definition.depths[-1])}
    patch = PatchEmbed(definition.image_side, 3, width, definition.patch, class_tokens=1)
    return {"patch": patch, **layers, "head": Head(side, width, space.classes)}


def _name(own: str) -> str:
    """What a tensor of ours is called in a file."""
    block = re.match(r"blocks\.\d+\.", own)
    inside = own.removeprefix(block[0]) if block else own
    for ours, theirs in NAMES.items():
        if inside.startswith(ours):
            return (block[0] if block else "") + theirs + inside.removeprefix(ours)
    raise KeyError(own)


def _is_prenas(found: Found, tensors: Mapping[str, Tensor]) -> bool | None:
    """Whether a file is PreNAS's rather than AutoFormer's; None where nothing tells.

    The arguments of the training do. Else the bias of keys does, wherever it lies: it changes nothing that a network
    computes, so training leaves it at 0.
    """
    arguments = found.noted("args").keys()
    if arguments:
        return bool(OWN_OF_PRENAS & arguments)
    inside, taking_turns, total = 0.0, 0.0, 0.0
    for name, bias_3E in tensors.items():
        if name.endswith("attn.qkv.bias"):
            fewest = (len(bias_3E) // 3 // HEAD_WIDTH * 3 // 4) * HEAD_WIDTH
            total += float(bias_3E.square().mean())
            inside += float(bias_3E[len(bias_3E) // 3 : 2 * fewest].square().mean())
            taking_turns += float(bias_3E[1::3].square().mean())
    quiet = [part < QUIET**2 * total for part in (inside, taking_turns)]
    return None if quiet[0] == quiet[1] else quiet[1]


def _origin(space: AutoformerSpace) -> Origin:
    accuracies = {"published": ACCURACIES[space.name]} if space.name in ACCURACIES else {}
    if isinstance(space, PrenasSpace):
        title = "PreNAS (Wang, Ge, Chen and Sun)"
        return Origin(title, "2304.14636", _PRENAS_PAGE, "Apache-2.0", accuracies)
    remarks = ("the largest networks of these supernets are not the best: let images decide, not size",)
    title = "AutoFormer (Chen, Peng, Fu and Ling)"
    return Origin(title, "2107.00651", _AUTOFORMER_PAGE, "MIT", accuracies, remarks)


AUTOFORMER = AutoformerImporter("a supernet of AutoFormer (`supernet-tiny.pth`)", AutoformerSpace)
PRENAS = AutoformerImporter("one of PreNAS", PrenasSpace)
