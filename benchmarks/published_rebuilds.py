"""The networks behind published figures, rebuilt by the sources' own names.

Beside the catalogue of `latency_tables.published_models` there are:

- mobile-ml-benchmark (arXiv 2510.25166): convolutional networks of pytorchcv, vision transformers of Hugging Face. Its
  DeiT, ViT, Swin, EfficientFormer and MobileViT are rebuilt with timm, the others with transformers.
- Qualcomm AI Hub Models: torchvision's and timm's networks, all at 224 px except MobileViT at 256 px, which the code of
  the models says; some model cards say other sizes.
- timm: by name, at the published size.

pytorchcv and transformers are needed here only: ``pip install pytorchcv transformers``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
from torch import nn

from latency_tables.errors import CalibrationError
from latency_tables.figures import RebuiltNetwork, rebuild_published
from latency_tables.published_models import PUBLISHED_MODELS
from latency_tables.table_validation import Features
from latency_tables.trace import trace

Made = tuple[nn.Module, int]
"""A network and the side of its input in pixels."""

_FAMILIES_BY_START = {
    "vit": "ViT",
    "deit": "ViT",
    "swin": "Swin",
    "cvt": "CvT",
    "mit-": "MiT",
    "mobilevit": "MobileViT",
    "efficientformer": "EfficientFormer",
    "bagnet": "BagNet",
    "bninception": "Inception",
    "densenet": "DenseNet",
    "diracnet": "DiracNet",
    "dla": "DLA",
    "efficientnet_edge": "EfficientNet-Edge",
    "fbnet": "FBNet",
    "fdmobilenet": "MobileNetV1",
    "ghostnet": "GhostNet",
    "hardnet": "HarDNet",
    "hrnet": "HRNet",
    "mnasnet": "MnasNet",
    "mobilenetv2": "MobileNetV2",
    "mobilenetv3": "MobileNetV3",
    "mobilenet": "MobileNetV1",
    "peleenet": "PeleeNet",
    "proxyless": "ProxylessNAS",
    "regnet": "RegNet",
    "resnext": "ResNeXt",
    "spnasnet": "Single-Path NAS",
    "squeeze": "SqueezeNet",
    "vovnet": "VoVNet",
    "beit": "ViT",
    "convnext": "ConvNeXt",
    "efficientnetv2": "EfficientNetV2",
    "efficientnet": "EfficientNet",
    "efficientvit": "EfficientViT-MIT",
    "googlenet": "Inception",
    "inception": "Inception",
    "levit": "LeViT",
    "shufflenet": "ShuffleNetV2",
    "resnet": "ResNet",
    "preresnet": "ResNet",
    "seresnet": "ResNet",
    "sepreresnet": "ResNet",
    "wide_resnet": "ResNet",
}
_MIT = {
    "b0": ([2, 2, 2, 2], [32, 64, 160, 256]),
    "b1": ([2, 2, 2, 2], [64, 128, 320, 512]),
    "b2": ([3, 4, 6, 3], [64, 128, 320, 512]),
    "b3": ([3, 4, 18, 3], [64, 128, 320, 512]),
    "b4": ([3, 8, 27, 3], [64, 128, 320, 512]),
    "b5": ([3, 6, 40, 3], [64, 128, 320, 512]),
}
_TIMM_NAMES = {
    "efficientformer-l1-300": "efficientformer_l1",
    "efficientformer-l3-300": "efficientformer_l3",
    "efficientformer-l7-300": "efficientformer_l7",
    "mobilevit-small": "mobilevit_s",
    "mobilevit-x-small": "mobilevit_xs",
    "mobilevit-xx-small": "mobilevit_xxs",
}
_MOBILEVIT_SIDE = 256
_TIMM_PLAIN = frozenset(
    "vision_transformer vision_transformer_relpos vision_transformer_sam deit beit eva cait naflexvit".split()
)


class Rebuilder:
    """Rebuilds networks by the names of their sources; what was rebuilt before is not built again.

    Args:
        known: Features by key of networks that are known already.
    """

    def __init__(self, known: Mapping[str, Mapping[str, Features]]) -> None:
        self.known: dict[str, Mapping[str, Features]] = dict(known)
        self.used: dict[str, Mapping[str, Features]] = {}

    def source(self, origin: str) -> Callable[[str, int | None], RebuiltNetwork]:
        """What rebuilds the networks of one origin: ``published``, ``mobile-ml-benchmark``, ``ai-hub`` or ``timm``."""
        return functools.partial(self._rebuild, origin)

    def _rebuild(self, origin: str, name: str, side: int | None) -> RebuiltNetwork:
        key = f"{origin}/{name}" + (f"@{side}" if side else "")
        if key not in self.known:
            self.known[key] = _elements(origin, name, side)
        self.used[key] = self.known[key]
        return RebuiltNetwork(_family(origin, name), self.known[key], key=key)


def _elements(origin: str, name: str, side: int | None) -> Mapping[str, Features]:
    if origin == "published":
        return rebuild_published(name, side).elements
    with torch.device("meta"):
        module, made_side = _MAKERS[origin](name, side)
    return RebuiltNetwork.of_graph("", trace(module.eval(), (3, made_side, made_side), name)).elements


def _family(origin: str, name: str) -> str:
    if origin == "published":
        if name not in PUBLISHED_MODELS:
            raise CalibrationError("its layers are not in the catalogue of published networks")
        return PUBLISHED_MODELS[name].family
    if origin == "timm":
        from timm.models import model_entrypoint

        module = model_entrypoint(name).__module__.rpartition(".")[2]
        return "ViT" if module in _TIMM_PLAIN else module
    return next(family for start, family in _FAMILIES_BY_START.items() if name.startswith(start))


def _mobile_ml_benchmark(name: str, side: int | None) -> Made:
    import timm

    if name.startswith(("cvt", "mit-")):
        return _hugging_face(name), 384 if name.endswith("-384") else 224
    if name in _TIMM_NAMES:
        return timm.create_model(_TIMM_NAMES[name]), _MOBILEVIT_SIDE if name.startswith("mobilevit") else 224
    if name.startswith(("vit", "deit", "swin")):
        wanted = name.removesuffix("-in21k").replace("-", "_")
        headless = {"num_classes": 0} if name.endswith("-in21k") else {}
        return timm.create_model(wanted, **headless), int(wanted[-3:])
    from pytorchcv.model_provider import get_model

    module = get_model(name)
    _spell_activations(module)
    return module, 224


def _hugging_face(name: str) -> nn.Module:
    import transformers

    if name.startswith("cvt"):
        depths = [1, 2, 10] if "13" in name else [1, 4, 16]
        return _Logits(transformers.CvtForImageClassification(transformers.CvtConfig(depth=depths, num_labels=1000)))
    depths, widths = _MIT[name.removeprefix("mit-")]
    settings = transformers.SegformerConfig(depths=depths, hidden_sizes=widths, num_labels=1000)
    return _Logits(transformers.SegformerForImageClassification(settings))


class _Logits(nn.Module):
    """A model of Hugging Face that returns its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        logits_BK: torch.Tensor = self.model(x_BCHW).logits
        return logits_BK


def _spell_activations(module: nn.Module) -> None:
    """Put the operators that a converter recognises in the place of activations that are spelt out."""
    spelt = {"HSwish": nn.Hardswish, "HSigmoid": nn.Hardsigmoid, "GhostHSigmoid": nn.Hardsigmoid, "Swish": nn.SiLU}
    for name, child in module.named_children():
        if type(child).__name__ in spelt:
            setattr(module, name, spelt[type(child).__name__]())
        else:
            _spell_activations(child)


def _ai_hub(name: str, side: int | None) -> Made:
    import timm
    import torchvision

    plain = name.partition(" (")[0]
    if plain == "mobilevit_s":
        return timm.create_model(plain), _MOBILEVIT_SIDE
    if plain == "googlenet":
        return torchvision.models.get_model(plain, weights=None, aux_logits=False, init_weights=False), 224
    if plain == "inception_v3" or not timm.is_model(plain):
        options = {"init_weights": False} if plain == "inception_v3" else {}
        return torchvision.models.get_model(plain, weights=None, **options), 224
    return timm.create_model(plain), 224


def _timm(name: str, side: int | None) -> Made:
    import timm
    from timm.utils.model import reparameterize_model

    try:
        module = timm.create_model(name, img_size=side)
    except TypeError:
        module = timm.create_model(name)
    if side is None:
        raise CalibrationError("the size of its input is not published")
    return reparameterize_model(module.eval()), side


_MAKERS: Mapping[str, Callable[[str, int | None], Made]] = {
    "mobile-ml-benchmark": _mobile_ml_benchmark,
    "ai-hub": _ai_hub,
    "timm": _timm,
}
