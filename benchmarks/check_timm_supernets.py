"""Which timm models become supernets, and whether all that is promised of them holds.

    python benchmarks/check_timm_supernets.py --records timm.jsonl  # all transformers; goes on where it stopped
    python benchmarks/check_timm_supernets.py --records timm.jsonl --write docs/reference-timm-models.md

For every name, with random weights: the largest network is the model itself, five random networks and the smallest
give the same logits when they run on shared tensors and when they are extracted, the extracted ones as timm objects
rebuilt from their configuration do too, and the op graph has as many MACs and parameters as are counted. Models that
cost more than LARGEST_MACS or LARGEST_PARAMS are checked with two blocks on images of four patches a side, those of
stages with two blocks each on images of half the side.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LARGEST_PARAMS, LARGEST_MACS = 40e6, 2e9
RANDOM_NETWORKS = 5
CLASSES = 10
DEPTH_ARGUMENTS = {"swin_transformer": "depths", "swin_transformer_v2": "depths", "pit": "depth"}
"""Of timm, for the number of blocks of every stage, by adapter."""
FAMILIES = (
    "beit cait coat convit crossvit davit deepseek_vit deit edgenext efficientformer efficientformer_v2 "
    "efficientvit_mit efficientvit_msra eva fastvit gcvit gemma4_vit hiera hieradet_sam2 iformer levit lowformer "
    "maxxvit metaformer mobilevit mvitv2 naflexvit nest nextvit pit pvt_v2 qwen3_vit shvit swiftformer "
    "swin_transformer swin_transformer_v2 swin_transformer_v2_cr tiny_vit tnt twins visformer vision_transformer "
    "vision_transformer_hybrid vision_transformer_relpos vision_transformer_sam vitamin volo xcit mobilenetv5"
).split()
"""Modules of timm whose models attend; of ``mobilenetv3`` the hybrids do as well."""
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


@dataclass(frozen=True)
class Record:
    """What was found about one model.

    Attributes:
        reduced: Arguments that made it smaller for the check.
        reason: Why it is not elastic; empty where it is.
        largest: Largest difference of a logit between the largest network and the model.
        extracted: The same between networks on shared tensors and extracted ones.
        rebuilt: The same between extracted networks and timm objects rebuilt from their configuration.
        counts_agree: Whether MACs and parameters of the op graph are those counted.
    """

    name: str
    family: str
    reduced: str = ""
    reason: str = ""
    largest: float = 0.0
    extracted: float = 0.0
    rebuilt: float = 0.0
    counts_agree: bool = True
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether all that is promised holds."""
        return self.largest <= 1e-6 and self.extracted <= 1e-5 and self.rebuilt <= 1e-5 and self.counts_agree


def check_model(name: str, family: str, *, networks: int = RANDOM_NETWORKS, whole: bool = False) -> Record:
    """Check one model.

    Args:
        name: Of timm.
        family: Its module in timm.
        networks: How many random networks to check beside the smallest.
        whole: Whether to take the model at its own size whatever it costs.
    """
    from search_spaces import UnknownNameError, get_space
    from search_spaces.timm_models import TimmModelError

    began = time.monotonic()
    try:
        space = get_space(f"timm:{name}", CLASSES)
        reduced = ""
        if not whole:
            reduced = _reduced(name)
            space = get_space(f"timm:{name}{reduced}", CLASSES)
    except (TimmModelError, UnknownNameError) as error:
        return Record(name, family, reason=str(error), seconds=time.monotonic() - began)
    figures = _check(space, networks)
    return Record(name, family, reduced, seconds=round(time.monotonic() - began, 1), **figures)


def _reduced(name: str) -> str:
    """Arguments that make a large model small: two blocks, four patches a side; of stages two each, half the side."""
    import torch

    from search_spaces.timm_models import TimmReference
    from supernets.timm_models import chain_of
    from supernets.timm_models.chain import create

    chain = chain_of(TimmReference.parse(name).model, None, CLASSES)
    with torch.device("meta"):
        params = sum(p.numel() for p in create(TimmReference(name), None, CLASSES).parameters())
    depths = [part.removable for part in chain.parts.values() if part.removable]
    stages = len(set(depths))
    tokens = (chain.side / chain.stride) ** 2 / 4 ** max(0, stages - 1)  # most weights are in the last stage
    if params <= LARGEST_PARAMS and params * tokens <= LARGEST_MACS:
        return ""
    if "depth" in depths:
        return f"?depth=2&img_size={4 * chain.stride}"
    argument = DEPTH_ARGUMENTS.get(chain.family)
    shortened = json.dumps([min(2, depths.count(depth)) for depth in dict.fromkeys(depths)], separators=(",", ":"))
    return f"?{argument}={shortened}&img_size={chain.side // 2}" if argument else ""


def _check(space: Any, networks: int) -> dict[str, Any]:
    import numpy as np
    import torch

    from supernets import Supernet
    from supernets.batch_norm import reestimate_batch_norm
    from supernets.networks.timm_subnet import build_subnet
    from supernets.timm_models.chain import create
    from supernets.timm_models.export import subnet_config, timm_state_dict, to_timm_names

    torch.manual_seed(0)
    supernet = Supernet(space).eval()
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    x_BCHW = torch.randn(2, 3, space.image_side, space.image_side)
    reestimate_batch_norm(supernet.network, [x_BCHW])  # else logits hardly depend on the images
    figures: dict[str, Any] = {"extracted": 0.0, "rebuilt": 0.0, "counts_agree": True}
    with torch.no_grad():
        model = create(space.outline.reference, None, space.classes).eval()
        model.load_state_dict(to_timm_names(supernet.network.state_dict()))
        figures["largest"] = _difference(model(x_BCHW), supernet(x_BCHW, space.largest))
        drawn = space.decode(space.sample(networks, np.random.default_rng(0)))
        for architecture in [space.smallest, *drawn]:
            extracted = supernet.extract(architecture)  # gradients as in the others: without, torch takes other kernels
            found = extracted(x_BCHW)
            figures["extracted"] = max(figures["extracted"], _difference(found, supernet(x_BCHW, architecture)))
            weights = timm_state_dict(space, architecture, extracted)
            rebuilt = build_subnet(json.loads(json.dumps(subnet_config(space, architecture))), weights)
            side = int(extracted.input_side)  # type: ignore[arg-type]
            prepared = supernet.family.prepare(x_BCHW, side)
            figures["rebuilt"] = max(figures["rebuilt"], _difference(found, rebuilt(prepared)))
            graph = space.lower(architecture)
            params = sum(parameter.numel() for parameter in extracted.parameters())
            macs = macs_without_constants(extracted.requires_grad_(False), x_BCHW[:1])
            figures["counts_agree"] &= (graph.params, graph.macs) == (params, macs)
    return figures


def _difference(found: Any, expected: Any) -> float:
    return float((found - expected).abs().max() / (expected.max() - expected.min()).clamp_min(1e-12))


def macs_without_constants(network: Any, x_1CHW: Any) -> int:
    """MACs of one image, without those that multiply nothing but weights, which every runtime folds."""
    from latency_tables.counting import counted_macs

    constant = 0
    for module in network.modules():
        kind = type(module).__name__
        if hasattr(module, "cpb_mlp"):
            constant += counted_macs(module.cpb_mlp, module.relative_coords_table)
        elif kind == "RelPosMlp":
            constant += counted_macs(module.get_bias)
        elif kind == "AttentionPoolLatent":
            constant += counted_macs(module.q, module.latent)
        elif kind == "PositionalEncodingFourier":
            side = x_1CHW.shape[-1] // _stride(network)
            constant += counted_macs(module, 1, side, side)
    return counted_macs(network, x_1CHW) - constant


def _stride(network: Any) -> int:
    return int(network.get_submodule("stem").patch_embed.patch_size)


def names_by_family() -> dict[str, list[str]]:
    """Names of timm's models that attend, by the module they are in."""
    import timm
    from timm.models import _registry

    found: dict[str, list[str]] = {}
    for name in timm.list_models():
        family = _registry._model_entrypoints[name].__module__.rpartition(".")[2]
        if family in FAMILIES or (family == "mobilenetv3" and "hybrid" in name):
            found.setdefault(family, []).append(name)
    return found


def table(records: list[Record]) -> str:
    """Names by family, then the reasons, as Markdown."""
    lines = ["| family of timm | models | checked and elastic | not elastic |", "| --- | ---: | ---: | ---: |"]
    families = sorted({record.family for record in records})
    by_family = {family: [record for record in records if record.family == family] for family in families}
    for family, found in by_family.items():
        elastic = [record for record in found if not record.reason and record.holds]
        lines.append(f"| `{family}` | {len(found)} | {len(elastic)} | {len(found) - len(elastic)} |")
    total = [record for record in records if not record.reason and record.holds]
    lines += [f"| **all** | **{len(records)}** | **{len(total)}** | **{len(records) - len(total)}** |", ""]
    lines += ["## Names that are elastic", ""]
    for family, found in by_family.items():
        names = [record.name for record in found if not record.reason and record.holds]
        if names:
            lines += [f"`{family}`: {', '.join(names)}", ""]
    lines += ["## Names that are not, and why", ""]
    reasons: dict[str, list[str]] = {}
    for record in records:
        if record.reason or not record.holds:
            reasons.setdefault(_short_reason(record), []).append(record.name)
    lines += [f"- {reason}: {', '.join(names)}" for reason, names in sorted(reasons.items())]
    return "\n".join(lines)


def _short_reason(record: Record) -> str:
    if not record.reason:
        return (
            f"a check failed (largest {record.largest:.1g}, extracted {record.extracted:.1g}, rebuilt"
            f" {record.rebuilt:.1g}, counts {'agree' if record.counts_agree else 'differ'})"
        )
    reason = record.reason.replace(f"timm model `{record.name}` ", "")
    return reason.removeprefix("cannot be made elastic: ")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, required=True, help="a line of JSON per model; goes on behind them")
    parser.add_argument("--write", type=Path, help="put the table between the marks in this file and stop")
    parser.add_argument("--only", nargs="*", help="names to check instead of all")
    parser.add_argument("--families", nargs="*", help="families to check instead of all")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = arguments.records.read_text().splitlines() if arguments.records.exists() else []
    records = [Record(**json.loads(line)) for line in lines]
    if arguments.write:
        text = arguments.write.read_text()
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        arguments.write.write_text(f"{before}{BEGIN}\n{table(records)}\n{END}{after}")
        return
    known = {record.name for record in records}
    for family, names in names_by_family().items():
        for name in names:
            if name in known or name not in (arguments.only or names) or family not in (arguments.families or [family]):
                continue
            try:
                record = check_model(name, family)
            except Exception as error:  # a sweep goes on, and the table says so
                record = Record(name, family, reason=f"the check itself failed: {type(error).__name__}: {error}"[:300])
            with arguments.records.open("a") as file:
                file.write(json.dumps(asdict(record)) + "\n")
            print(json.dumps(asdict(record)), flush=True)


if __name__ == "__main__":
    main()
