"""Published names of networks, and how each is rebuilt with random weights.

Papers and benchmark pages name networks in their own ways and in widths that timm does not register. The catalogue maps
the names of the figures behind the calibrated tables to makers of the same networks; widths without a registered model
come from timm's and torchvision's own generators, and three networks from
published layer tables:

- MobileNet Multi-Hardware (Chu et al., "Discovering Multi-Hardware Mobile Models via Architecture Search", CVPR 2021
  workshops, arXiv 2008.08178), layers as in tensorflow/models;
- ProxylessNAS (Cai et al., ICLR 2019, arXiv 1812.00332) as ncnn's benchmark runs it.

A rebuilt network is only as good as its MACs agree with the published ones: `latency_tables.figures` compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class PublishedModel:
    """A network under the name that its figures were published by.

    Attributes:
        family: Networks of one design; a fit is checked on families that it has not seen.
        image_side: Side of the square input in pixels, where the figure does not say.
        make: Builds it, freshly initialised, on the default device.
    """

    family: str
    image_side: int
    make: Callable[[], nn.Module]


def build_published(model: PublishedModel) -> nn.Module:
    """The network as it is deployed: in evaluation mode, its training-time branches merged."""
    from timm.utils.model import reparameterize_model

    module: nn.Module = reparameterize_model(model.make().eval())
    return module


def _timm(name: str) -> nn.Module:
    import timm

    module: nn.Module = timm.create_model(name)
    return module


def _torchvision(name: str) -> nn.Module:
    import torchvision

    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    module: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return module


def _generated(generator: str, *arguments: object) -> nn.Module:
    """What timm's own generator of a family makes, for widths that it does not register."""
    from timm.models import efficientnet, mobilenetv3

    home = mobilenetv3 if "mobilenet_v3" in generator else efficientnet
    module: nn.Module = getattr(home, generator)(*arguments)
    return module


_mobilenet_v1 = partial(_generated, "_gen_mobilenet_v1", "mobilenetv1_100")
_mobilenet_v2 = partial(_generated, "_gen_mobilenet_v2", "mobilenetv2_100")
_mobilenet_edgetpu = partial(_generated, "_gen_mobilenet_edgetpu", "mobilenet_edgetpu_100")


def _mobilenet_v3(size: str, width: float) -> nn.Module:
    return _generated("_gen_mobilenet_v3", f"mobilenetv3_{size}_100", width)


def _shufflenet_v2(widths: Sequence[int]) -> nn.Module:
    from torchvision.models import ShuffleNetV2

    module: nn.Module = ShuffleNetV2([4, 8, 4], list(widths))
    return module


def _vision_transformer(side: int, patch: int) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(img_size=side, patch_size=patch)


_MULTI_MAX = (
    ("ir_r1_k3_s2_e3_c32",),
    ("ir_r1_k5_s2_e6_c64", "ir_r2_k3_s1_e2_c64"),
    ("ir_r1_k5_s2_e6_c128", "ir_r1_k3_s1_e4_c128", "ir_r2_k3_s1_e3_c128", "ir_r1_k3_s1_e6_c128", "ir_r1_k3_s1_e3_c128"),
    ("ir_r1_k3_s2_e6_c160", "ir_r1_k5_s1_e4_c160", "ir_r1_k3_s1_e5_c160", "ir_r1_k5_s1_e4_c160"),
    ("cn_r1_k1_s1_c960",),
)
_MULTI_AVERAGE = (
    ("ir_r1_k3_s2_e3_c32", "ir_r1_k3_s1_e2_c32"),
    ("ir_r1_k5_s2_e5_c64", "ir_r1_k3_s1_e3_c64", "ir_r1_k3_s1_e2_c64", "ir_r1_k3_s1_e3_c64"),
    ("ir_r1_k5_s2_e6_c128", "ir_r3_k3_s1_e3_c128", "ir_r1_k3_s1_e6_c160", "ir_r1_k3_s1_e4_c160"),
    ("ir_r1_k3_s2_e6_c192", "ir_r3_k5_s1_e4_c192"),
    ("cn_r1_k1_s1_c960",),
)
_PROXYLESS = (
    ("ds_r1_k3_s1_c32",),
    ("ir_r1_k5_s2_e1.5_c32", "ir_r1_k3_s1_e3_c32"),
    ("ir_r1_k7_s2_e3_c40", "ir_r1_k3_s1_e3_c40", "ir_r2_k5_s1_e3_c40"),
    ("ir_r1_k7_s2_e6_c80", "ir_r3_k5_s1_e3_c80"),
    ("ir_r1_k5_s1_e6_c96", "ir_r3_k5_s1_e3_c96"),
    ("ir_r1_k7_s2_e6_c192", "ir_r1_k7_s1_e6_c192", "ir_r2_k7_s1_e3_c192"),
    ("ir_r1_k7_s1_e6_c320",),
)


def _from_blocks(blocks: Sequence[Sequence[str]], width: float, head_after_pool: bool) -> nn.Module:
    from timm.models import _efficientnet_builder as builder
    from timm.models.efficientnet import EfficientNet
    from timm.models.mobilenetv3 import MobileNetV3
    from torch import nn

    decode: Callable[[list[list[str]]], Any] = builder.decode_arch_def
    network = MobileNetV3 if head_after_pool else EfficientNet
    module: nn.Module = network(
        block_args=decode([list(stage) for stage in blocks]),
        num_features=1280,
        stem_size=32,
        act_layer=nn.ReLU,
        round_chs_fn=partial(builder.round_channels, multiplier=width),
    )
    return module


def _registered(family: str, side: int, **timm_names: str) -> dict[str, PublishedModel]:
    return {name: PublishedModel(family, side, partial(_timm, timm_name)) for name, timm_name in timm_names.items()}


def _paper_networks() -> dict[str, PublishedModel]:
    """Names of the MobileNetV4 paper (Qin et al., ECCV 2024, arXiv 2404.10518), table 6."""
    models = {
        "MobileNet-V1": PublishedModel("MobileNetV1", 224, partial(_timm, "mobilenetv1_100")),
        "MobileNet-V3L-0.5x": PublishedModel("MobileNetV3", 224, partial(_mobilenet_v3, "large", 0.5)),
        "MNv4-Conv-S": PublishedModel("MobileNetV4", 224, partial(_timm, "mobilenetv4_conv_small")),
        "MNv4-Conv-M": PublishedModel("MobileNetV4", 256, partial(_timm, "mobilenetv4_conv_medium")),
        "MNv4-Conv-L": PublishedModel("MobileNetV4", 384, partial(_timm, "mobilenetv4_conv_large")),
        "MNv4-Hybrid-M": PublishedModel("MobileNetV4", 256, partial(_timm, "mobilenetv4_hybrid_medium")),
        "MNv4-Hybrid-L": PublishedModel("MobileNetV4", 384, partial(_timm, "mobilenetv4_hybrid_large")),
        "ConvNext-S": PublishedModel("ConvNeXt", 224, partial(_timm, "convnext_small")),
    }
    for suffix, width in (("-0.5x", 0.5), ("", 1.0), ("-1.5x", 1.5), ("-2.0x", 2.0)):
        models[f"MobileNet-V2{suffix}"] = PublishedModel("MobileNetV2", 224, partial(_mobilenet_v2, width))
    for suffix, blocks in (("MAX", _MULTI_MAX), ("AVG", _MULTI_AVERAGE)):
        make = partial(_from_blocks, blocks, 1.5, head_after_pool=True)
        models[f"MultiHardware-{suffix}-1.5x"] = PublishedModel("MobileNet-MultiHardware", 224, make)
    for size in ("S0", "S1", "S2", "S3", "S4"):
        models[f"MobileOne-{size}"] = PublishedModel("MobileOne", 224, partial(_timm, f"mobileone_{size.lower()}"))
    for size in ("T8", "T12", "S12", "SA12", "SA24", "SA36", "MA36"):
        models[f"FastViT-{size}"] = PublishedModel("FastViT", 256, partial(_timm, f"fastvit_{size.lower()}"))
    for size, side in (("B1", 224), ("B2", 256), ("B3", 224)):
        make = partial(_timm, f"efficientvit_{size.lower()}")
        models[f"MIT-EfficientViT-{size}-r{side}"] = PublishedModel("EfficientViT-MIT", side, make)
        models[f"EfficientViT-{size}"] = PublishedModel("EfficientViT-MIT", 224, make)
    return models


def _paddle_networks() -> dict[str, PublishedModel]:
    """Names of PaddleClas's table of mobile networks."""
    models: dict[str, PublishedModel] = {}
    for suffix, width in (("_x0_25", 0.25), ("_x0_5", 0.5), ("_x0_75", 0.75), ("", 1.0), ("_x1_5", 1.5), ("_x2_0", 2)):
        models[f"MobileNetV1{suffix}"] = PublishedModel("MobileNetV1", 224, partial(_mobilenet_v1, width))
        models[f"MobileNetV2{suffix}"] = PublishedModel("MobileNetV2", 224, partial(_mobilenet_v2, width))
    for size in ("large", "small"):
        for suffix, width in (("0_35", 0.35), ("0_5", 0.5), ("0_75", 0.75), ("1_0", 1.0), ("1_25", 1.25)):
            make = partial(_mobilenet_v3, size, width)
            models[f"MobileNetV3_{size}_x{suffix}"] = PublishedModel("MobileNetV3", 224, make)
    for suffix, widths in (
        ("_x0_25", (24, 24, 48, 96, 512)),
        ("_x0_33", (24, 32, 64, 128, 512)),
        ("_x0_5", (24, 48, 96, 192, 1024)),
        ("", (24, 116, 232, 464, 1024)),
        ("_x1_5", (24, 176, 352, 704, 1024)),
        ("_x2_0", (24, 244, 488, 976, 2048)),
    ):
        models[f"ShuffleNetV2{suffix}"] = PublishedModel("ShuffleNetV2", 224, partial(_shufflenet_v2, widths))
    return models | _registered(
        "GhostNet", 224, GhostNet_x0_5="ghostnet_050", GhostNet_x1_0="ghostnet_100", GhostNet_x1_3="ghostnet_130"
    )


def _ncnn_networks() -> dict[str, PublishedModel]:
    """Names of ncnn's benchmark; its parameter files give sizes and layers."""
    return {
        "squeezenet": PublishedModel("SqueezeNet", 227, partial(_torchvision, "squeezenet1_1")),
        "mobilenet": PublishedModel("MobileNetV1", 224, partial(_timm, "mobilenetv1_100")),
        "mobilenet_v2": PublishedModel("MobileNetV2", 224, partial(_timm, "mobilenetv2_100")),
        "mobilenet_v3": PublishedModel("MobileNetV3", 224, partial(_timm, "mobilenetv3_large_100")),
        "shufflenet_v2": PublishedModel("ShuffleNetV2", 224, partial(_shufflenet_v2, (24, 116, 232, 464, 1024))),
        "mnasnet": PublishedModel("MnasNet", 224, partial(_timm, "mnasnet_100")),
        "proxylessnasnet": PublishedModel(
            "ProxylessNAS", 224, partial(_from_blocks, _PROXYLESS, 1.0, head_after_pool=False)
        ),
        "efficientnet_b0": PublishedModel("EfficientNet", 224, partial(_timm, "efficientnet_b0")),
        "efficientnetv2_b0": PublishedModel("EfficientNetV2", 224, partial(_timm, "tf_efficientnetv2_b0")),
        "regnety_400m": PublishedModel("RegNet", 224, partial(_timm, "regnety_004")),
        "alexnet": PublishedModel("AlexNet", 227, partial(_torchvision, "alexnet")),
        "googlenet": PublishedModel("GoogLeNet", 224, partial(_torchvision, "googlenet")),
        "vgg16": PublishedModel("VGG", 224, partial(_torchvision, "vgg16")),
        "resnet18": PublishedModel("ResNet", 224, partial(_timm, "resnet18")),
        "resnet50": PublishedModel("ResNet", 224, partial(_timm, "resnet50")),
        "vision_transformer": PublishedModel("ViT", 384, partial(_vision_transformer, 384, 32)),
    }


def _core_ml_networks() -> dict[str, PublishedModel]:
    """Names of the tables of EfficientFormer and RepViT, and EfficientNet-Lite of MediaPipe."""
    models: dict[str, PublishedModel] = {}
    for size in ("L1", "L3", "L7"):
        make = partial(_timm, f"efficientformer_{size.lower()}")
        models[f"EfficientFormer-{size}"] = PublishedModel("EfficientFormer", 224, make)
    for size in ("S0", "S1", "S2", "L"):
        make = partial(_timm, f"efficientformerv2_{size.lower()}")
        models[f"EfficientFormerV2-{size}"] = PublishedModel("EfficientFormerV2", 224, make)
    for size in ("0.9", "1.0", "1.1", "1.5", "2.3"):
        make = partial(_timm, f"repvit_m{size.replace('.', '_')}")
        models[f"RepViT-M{size}"] = PublishedModel("RepViT", 224, make)
    for size, side in (("0", 224), ("2", 260)):
        make = partial(_timm, f"efficientnet_lite{size}")
        models[f"EfficientNet-Lite{size}"] = PublishedModel("EfficientNet-Lite", side, make)
    return models


def _edge_tpu_networks() -> dict[str, PublishedModel]:
    """Names of tensorflow/models' table of EdgeTPU classifiers."""
    models = {
        f"MobileNetEdgeTPU-dm{width:g}": PublishedModel("MobileNetEdgeTPU", 224, partial(_mobilenet_edgetpu, width))
        for width in (1.25, 1.5, 1.75)
    }
    models["MobileNetEdgeTPU-dm1.0"] = PublishedModel("MobileNetEdgeTPU", 224, partial(_mobilenet_edgetpu, 1.0))
    for size in ("XS", "S", "M", "L"):
        make = partial(_timm, f"mobilenet_edgetpu_v2_{size.lower()}")
        models[f"MobileNetEdgeTPUv2-{size}"] = PublishedModel("MobileNetEdgeTPUv2", 224, make)
    return models


PUBLISHED_MODELS: Mapping[str, PublishedModel] = (
    _paper_networks() | _paddle_networks() | _ncnn_networks() | _core_ml_networks() | _edge_tpu_networks()
)
"""Every network of the catalogue by its published name."""
