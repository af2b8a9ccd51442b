"""The tables that `calibrate_tables.py` makes: which figures each is made of, and what it says about its device."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, str]

PAPER = "MobileNetV4 paper (arXiv 2404.10518), Table 6"
PADDLE = "PaddlePaddle/PaddleClas"
NCNN = "Tencent/ncnn"
MOBILE = "qed-usc/mobile-ml-benchmark"
AI_HUB = "qualcomm/ai-hub-models"
TIMM = "huggingface/pytorch-image-models"
PIPELINE = "MediaPipe Tasks (TFLite)"


@dataclass(frozen=True)
class Protocol:
    """How the figures of one source were taken.

    Attributes:
        source: How the column ``source`` of its rows begins.
        rounding_m: Half the last digit of its MACs, in millions; tolerance the relative difference accepted on top.
        notes: What its tables say.
        origin: Whose names its networks have, see `published_rebuilds`.
        says_families: Whether the rows' families count; the catalogue's do elsewhere.
        choose: Which of a device's rows are fitted, with a sentence for each that is not.
    """

    source: str
    rounding_m: float
    tolerance: float
    notes: tuple[str, ...]
    origin: str = "published"
    says_families: bool = True
    choose: Callable[[Sequence[Row]], tuple[list[Row], list[str]]] = lambda rows: (list(rows), [])


PAPER_PROTOCOL = Protocol(
    PAPER,
    rounding_m=50.0,
    tolerance=0.10,
    notes=(
        "each figure is the median of five means over about 1000 runs",
        "the paper rounds MACs to tenths of a billion, and states 5 to 8 % less than the rebuilt MobileNetV4 networks"
        " have: 10 % is accepted",
        "MNv4-Hybrid-L is rebuilt with GELU, as timm has it; what the paper converted is not stated",
    ),
)
PADDLE_PROTOCOL = Protocol(
    PADDLE,
    rounding_m=2.5,
    tolerance=0.05,
    notes=("threads are not stated, taken as 1", "MACs are printed as hundredths of a billion FLOPs"),
)
NCNN_PROTOCOL = Protocol(
    NCNN,
    rounding_m=0.5,
    tolerance=0.05,
    says_families=False,
    notes=(
        "each figure is the fastest of a few loops, so that it is lower than a median; MACs are not published",
        "ncnn's default precision: weights and activations are stored as fp16 where the processor can, computed as the"
        " processor allows",
    ),
)


def on_npu_alone(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """The figures of networks whose layers all ran on the NPU."""
    chosen, left_out = [], []
    for row in rows:
        on_npu, layers = (int(number) for number in re.findall(r"\d+", row["processor"]))
        if on_npu == layers:
            chosen.append(row)
        else:
            left_out.append(f"{row['model']}: {on_npu} of its {layers} layers ran on the NPU, expected all")
    return chosen, left_out


def known_elsewhere(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """The figures of timm's networks that other sources time too, and a sentence."""
    chosen = [row for row in rows if f"{row['model']}@{row['input_px']}" in FROM_TIMM]
    unused = len(rows) - len(chosen)
    return chosen, [f"{unused} of {len(rows)} figures, of networks that no other source of figures times"]


FROM_TIMM = frozenset(
    (
        "beit_base_patch16_224@224 convnext_base@224 convnext_small@224 convnext_tiny@224 "
        "deit_base_distilled_patch16_224@224 deit_small_distilled_patch16_224@224 deit_tiny_distilled_patch16_224@224 "
        "efficientformer_l1@224 efficientformer_l3@224 efficientformer_l7@224 efficientvit_b2@224 efficientvit_b2@256 "
        "efficientvit_b3@224 efficientvit_l2@224 fastvit_sa12@256 fastvit_sa24@256 fastvit_sa36@256 levit_128s@224 "
        "mnasnet_050@224 mobilenetv3_small_100@224 mobilenetv4_conv_large@384 mobilenetv4_conv_small@224 "
        "mobilenetv4_hybrid_large@384 regnetx_032@224 regnety_004@224 regnety_008@224 resnet101@224 resnet18@224 "
        "resnet50@224 swin_base_patch4_window7_224@224 swin_small_patch4_window7_224@224 "
        "swin_tiny_patch4_window7_224@224 tf_efficientnetv2_b0@224 "
        "vit_base_patch16_224@224 vit_base_patch32_384@384 wide_resnet50_2@224"
    ).split()
)
"""Networks of timm with the side of their input."""

MOBILE_PROTOCOL = Protocol(
    MOBILE,
    rounding_m=1.0,
    tolerance=0.05,
    notes=(
        "figures of mobile-ml-benchmark (arXiv 2510.25166, MIT): TFLite, threads pinned to one kind of core",
        "grouped convolutions have a class of their own: on these CPUs they take several times what others do",
    ),
    origin="mobile-ml-benchmark",
    says_families=False,
)
AI_HUB_PROTOCOL = Protocol(
    AI_HUB,
    rounding_m=1.0,
    tolerance=0.05,
    notes=(
        "figures of Qualcomm AI Hub Models v0.47.0 (BSD-3): hosted devices; MACs are not published, sizes of inputs are"
        " those of the models' code",
        "of every network that is fitted all layers ran on the NPU",
    ),
    origin="ai-hub",
    says_families=False,
    choose=on_npu_alone,
)
TIMM_PROTOCOL = Protocol(
    TIMM,
    rounding_m=5.0,
    tolerance=0.05,
    notes=("figures of timm's benchmark (Apache-2.0), torch.compile of PyTorch 2.4 on all 14 cores, batch 1",),
    origin="timm",
    says_families=False,
    choose=known_elsewhere,
)


@dataclass(frozen=True)
class Device:
    """A table to be shipped: which rows it is made of, and what it says about the device.

    Attributes:
        csv_precision: Precision in the rows where they call it otherwise; csv_runtime the runtime where it matters.
        lender: File of the table that prices of attention are borrowed from; empty where none are.
    """

    file: str
    name: str
    aliases: tuple[str, ...]
    csv_device: str
    csv_processor: str
    protocol: Protocol
    device: Mapping[str, str]
    runtime: Mapping[str, str]
    precision: str
    threads: int = 1
    notes: tuple[str, ...] = ()
    csv_precision: str = ""
    csv_runtime: str = ""
    lender: str = ""

    def takes(self, row: Row) -> bool:
        """Whether a row's figure is fitted."""
        return (
            row["device"].startswith(self.csv_device)
            and row["processor"].startswith(self.csv_processor)
            and row["source"].startswith(self.protocol.source)
            and row["precision"] == (self.csv_precision or self.precision)
            and row["runtime"] == (self.csv_runtime or row["runtime"])
            and (self.protocol is TIMM_PROTOCOL or row["threads"] in ("", str(self.threads)))
        )

    def checks(self, row: Row) -> bool:
        """Whether a row's figure, of another protocol, is only compared with the fit."""
        return (
            self.file == "pixel6"
            and row["device"] == self.csv_device
            and row["processor"] == "CPU"
            and row["runtime"] == PIPELINE
            and row["precision"] == self.precision
            and row.get("family") == "EfficientNet-Lite"
        )


XNNPACK = {"name": "TFLite", "provider": "XNNPACK", "fusion": "xnnpack"}
FASTEST = ("affinity to the fastest core; threads are not stated, taken as 1",)


def paper_device(file: str, name: str, csv_device: str, csv_processor: str, processor: str, **more: Any) -> Device:
    """A device of the MobileNetV4 paper."""
    device = {"name": csv_device, "processor": processor, "cores": more.pop("cores", "")}
    aliases = more.pop("aliases", (file,))
    return Device(file, name, aliases, csv_device, csv_processor, PAPER_PROTOCOL, device, **more)


def ncnn_devices(alias: str, csv_device: str, device: str, processor: str, threads: Sequence[int]) -> list[Device]:
    """A board or phone of ncnn's benchmark, with one table per thread count."""
    return [
        Device(
            file=alias if count == 1 else f"{alias}-{count}t",
            name=f"{alias}/cpu-{count}threads/ncnn-fp16" if count > 1 else f"{alias}/cpu/ncnn-fp16",
            aliases=(alias if count == 1 else f"{alias}-{count}t",),
            csv_device=csv_device,
            csv_processor="CPU",
            protocol=NCNN_PROTOCOL,
            device={"name": device, "processor": processor},
            runtime={"name": "ncnn", "provider": "CPU", "fusion": "xnnpack"},
            precision="fp16",
            threads=count,
            csv_precision="fp (ncnn default)",
        )
        for count in threads
    ]


LENDER = "pixel4-int8"
BUILT_IN = {"name": "TFLite", "provider": "built-in kernels", "fusion": "xnnpack"}


def phone(alias: str, csv_device: str, chip: str, cores: Mapping[str, str], lenders: Mapping[str, str]) -> list[Device]:
    """A phone of mobile-ml-benchmark: a table for each kind of core and precision, the first with the short names.

    Args:
        alias: Short name.
        csv_device: Name in the rows.
        chip: What it computes with.
        cores: What the processor's cores are, by their word in the rows.
        lenders: File of the table that prices are borrowed from, by precision.
    """
    devices = []
    for number, (word, core) in enumerate(cores.items()):
        for precision in ("int8", "fp32"):
            kind = "" if number == 0 else f"-{word}"
            file = f"{alias}{kind}-{precision}"
            devices.append(
                Device(
                    file=file,
                    name=f"{alias}/cpu-{word}/tflite-{precision}",
                    aliases=(alias, file) if number == 0 and precision == "int8" else (file,),
                    csv_device=csv_device,
                    csv_processor=f"CPU ({word} cores)",
                    protocol=MOBILE_PROTOCOL,
                    device={"name": csv_device, "processor": f"CPU ({chip})", "cores": core},
                    runtime=BUILT_IN,
                    precision=precision,
                    lender=lenders.get(precision, ""),
                )
            )
    return devices


def phone_gpu(alias: str, csv_device: str, chip: str) -> Device:
    """The GPU of a phone of mobile-ml-benchmark."""
    return Device(
        file=f"{alias}-gpu",
        name=f"{alias}/gpu/tflite-fp32",
        aliases=(f"{alias}-gpu",),
        csv_device=csv_device,
        csv_processor="GPU",
        protocol=MOBILE_PROTOCOL,
        device={"name": csv_device, "processor": f"GPU ({chip})"},
        runtime={"name": "TFLite", "provider": "GPU delegate", "fusion": "xnnpack"},
        precision="fp32",
    )


AI_HUB_RUNTIMES = {
    "tflite": {"name": "TFLite", "provider": "QNN delegate", "fusion": "xnnpack"},
    "onnx": {"name": "ONNX Runtime", "provider": "QNN", "fusion": "xnnpack"},
    "qnn_dlc": {"name": "QNN", "provider": "NPU", "fusion": "xnnpack"},
}


def npu(alias: str, csv_device: str, chip: str, runtimes: str, precisions: str = "fp16 int8") -> list[Device]:
    """A device of Qualcomm AI Hub: a table for each runtime and precision, the first with the short name."""
    devices = []
    for runtime in runtimes.split():
        for precision in precisions.split():
            file = f"{alias}-{runtime.removesuffix('_dlc')}-{precision}"
            devices.append(
                Device(
                    file=file,
                    name=f"{alias}/npu/{runtime.removesuffix('_dlc')}-{precision}",
                    aliases=(file,) if devices else (alias, file),
                    csv_device=csv_device,
                    csv_processor="NPU",
                    protocol=AI_HUB_PROTOCOL,
                    device={"name": csv_device, "processor": f"NPU ({chip})"},
                    runtime=AI_HUB_RUNTIMES[runtime],
                    precision=precision,
                    csv_precision={"fp16": "float", "int8": "w8a8"}[precision],
                    csv_runtime=runtime,
                )
            )
    return devices


DEVICES: tuple[Device, ...] = (
    paper_device(
        "pixel6",
        "pixel6/cpu-x1/litert-int8",
        "Google Pixel 6",
        "CPU",
        "CPU (Tensor G1)",
        cores="fastest core, Cortex-X1",
        runtime=XNNPACK,
        precision="int8",
        lender=LENDER,
        notes=(
            *FASTEST,
            "the fp32 time of this CPU is about 2.3 times the int8 time: two networks (EfficientNet-Lite 0 and 2)",
            "not in the fit: detectors, searched networks that nobody published, and EfficientNet-Lite (whole MediaPipe"
            " pipeline), which is kept as a check",
        ),
    ),
    paper_device(
        "galaxy-s23",
        "galaxy-s23/cpu/litert-int8",
        "Samsung Galaxy S23",
        "CPU",
        "CPU (Snapdragon 8 Gen 2)",
        cores="fastest core",
        runtime=XNNPACK,
        precision="int8",
        lender=LENDER,
        notes=FASTEST,
    ),
    paper_device(
        "galaxy-s23-gpu",
        "galaxy-s23/gpu/tflite-fp16",
        "Samsung Galaxy S23",
        "Adreno GPU",
        "GPU (Adreno 740)",
        runtime={"name": "TFLite", "provider": "GPU delegate", "fusion": "xnnpack"},
        precision="fp16",
    ),
    paper_device(
        "pixel7-gpu",
        "pixel7/gpu/tflite-fp16",
        "Google Pixel 7",
        "Mali GPU",
        "GPU (Mali-G710)",
        runtime={"name": "TFLite", "provider": "GPU delegate", "fusion": "xnnpack"},
        precision="fp16",
    ),
    paper_device(
        "pixel4-dsp",
        "pixel4/dsp/tflite-int8",
        "Google Pixel 4",
        "Hexagon DSP",
        "DSP (Hexagon 690)",
        runtime={"name": "TFLite", "provider": "Hexagon delegate", "fusion": "xnnpack"},
        precision="int8",
    ),
    paper_device(
        "pixel8-edgetpu",
        "pixel8/edgetpu/tflite-int8",
        "Google Pixel 8",
        "EdgeTPU",
        "EdgeTPU (Tensor G3)",
        runtime={"name": "TFLite", "provider": "EdgeTPU delegate", "fusion": "xnnpack"},
        precision="int8",
    ),
    paper_device(
        "iphone13-ane",
        "iphone13/ane/coreml-fp16",
        "Apple iPhone 13",
        "ANE/CoreML",
        "Neural Engine (A15)",
        aliases=("iphone13", "iphone13-ane"),
        runtime={"name": "Core ML", "version": "coremltools 7.1, iOS 16.6.1", "provider": "ANE", "fusion": "xnnpack"},
        precision="fp16",
    ),
    Device(
        file="snapdragon855",
        name="snapdragon855/cpu/paddlelite-fp32",
        aliases=("snapdragon855",),
        csv_device="Snapdragon 855 phone",
        csv_processor="CPU",
        protocol=PADDLE_PROTOCOL,
        device={"name": "Snapdragon 855 phone", "processor": "CPU (Snapdragon 855)"},
        runtime={"name": "Paddle-Lite", "provider": "ARM CPU", "fusion": "xnnpack"},
        precision="fp32",
    ),
    *ncnn_devices("snapdragon855plus", "Snapdragon 855+", "Snapdragon 855+ phone", "CPU (Kryo 485)", (1, 4)),
    *ncnn_devices("raspberrypi4", "Raspberry Pi 4 Model B", "Raspberry Pi 4 B", "CPU (Cortex-A72)", (1, 4)),
    *ncnn_devices("raspberrypi5", "Raspberry Pi 5", "Raspberry Pi 5", "CPU (Cortex-A76)", (1, 4)),
    *ncnn_devices("rk3588", "Rockchip RK3588", "Rockchip RK3588", "CPU (Cortex-A76)", (1, 4)),
    *ncnn_devices("jetson-orin-nano", "NVIDIA Jetson Orin Nano", "NVIDIA Jetson Orin Nano", "CPU (Cortex-A78AE)", (1,)),
    *phone(
        "pixel4",
        "Google Pixel 4",
        "Snapdragon 855",
        {"large": "Cortex-A76 at 2.84 GHz", "med": "Cortex-A76 at 2.42 GHz", "small": "Cortex-A55 at 1.78 GHz"},
        {},
    ),
    *phone(
        "galaxy-a03s",
        "Samsung Galaxy A03s",
        "Helio P35",
        {"large": "Cortex-A53 at 2.35 GHz", "small": "Cortex-A53 at 1.8 GHz"},
        {},
    ),
    *phone("iphone7", "Apple iPhone 7", "A10 Fusion", {"large": "Hurricane"}, {}),
    *phone(
        "one-fusion",
        "Motorola One Fusion",
        "Snapdragon 710",
        {"large": "Kryo 360 Gold", "small": "Kryo 360 Silver"},
        {},
    ),
    *phone(
        "mi8se",
        "Xiaomi Mi 8 SE",
        "Snapdragon 710",
        {"large": "Kryo 360 Gold", "small": "Kryo 360 Silver"},
        {"int8": LENDER, "fp32": "pixel4-fp32"},
    ),
    phone_gpu("pixel4", "Google Pixel 4", "Adreno 640"),
    phone_gpu("galaxy-a03s", "Samsung Galaxy A03s", "PowerVR GE8320"),
    phone_gpu("iphone7", "Apple iPhone 7", "A10 Fusion"),
    phone_gpu("mi8se", "Xiaomi Mi 8 SE", "Adreno 616"),
    *npu("galaxy-s24", "Samsung Galaxy S24", "Snapdragon 8 Gen 3", "tflite onnx qnn_dlc"),
    *npu("x-elite", "Snapdragon X Elite CRD", "Snapdragon X Elite", "onnx qnn_dlc"),
    *npu("x2-elite", "Snapdragon X2 Elite CRD", "Snapdragon X2 Elite", "onnx qnn_dlc"),
    *npu("7-gen4", "Snapdragon 7 Gen 4 QRD", "Snapdragon 7 Gen 4", "tflite qnn_dlc", "int8"),
    *npu("iq-9075", "Dragonwing IQ-9075 EVK", "IQ-9075", "tflite onnx qnn_dlc"),
    *npu("q-6690", "Dragonwing Q-6690 MTP", "Q-6690", "tflite qnn_dlc", "int8"),
    *npu("rb3-gen2", "Dragonwing RB3 Gen 2 Vision Kit", "QCS6490", "tflite qnn_dlc", "int8"),
    *npu("qcs8550", "QCS8550 (Proxy)", "QCS8550", "tflite onnx qnn_dlc"),
    *npu("qcs8450", "QCS8450 (Proxy)", "QCS8450", "tflite qnn_dlc"),
    *npu("qcs8275", "QCS8275 (Proxy)", "QCS8275", "tflite qnn_dlc"),
    *npu("sa7255p", "SA7255P ADP", "SA7255P", "tflite qnn_dlc"),
    *npu("sa8295p", "SA8295P ADP", "SA8295P", "tflite qnn_dlc"),
    *npu("sa8775p", "SA8775P ADP", "SA8775P", "tflite qnn_dlc"),
    Device(
        file="i9-10940x",
        name="i9-10940x/cpu-14threads/torch-compile-fp32",
        aliases=("i9-10940x",),
        csv_device="Intel i9-10940X",
        csv_processor="CPU",
        protocol=TIMM_PROTOCOL,
        device={"name": "Intel i9-10940X", "processor": "CPU (i9-10940X)", "cores": "all 14"},
        runtime={"name": "torch.compile", "version": "2.4", "provider": "CPU", "fusion": "xnnpack"},
        precision="fp32",
        threads=14,
    ),
)
