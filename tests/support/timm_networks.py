"""What is promised of networks inside timm models, as checks of a supernet, and supernets to check."""

from __future__ import annotations

import json

import numpy as np
import torch
from torch import nn

from latency_tables.counting import counted_macs
from search_spaces import Architecture, population_cost
from search_spaces.timm_models import TimmReference, TimmSpace
from supernets import Supernet
from supernets.batch_norm import reestimate_batch_norm
from supernets.calibration import Calibration
from supernets.importance import CRITERIA, SORTED, sorted_along
from supernets.networks.timm_subnet import build_subnet
from supernets.timm_models.chain import create
from supernets.timm_models.export import plain_timm_config, subnet_config, timm_state_dict, to_timm_names
from supernets.timm_models.loading import load_timm_supernet

TINY = "vit_tiny_patch16_224?img_size=64&depth=3&embed_dim=48&num_heads=3"


def made(model: str) -> Supernet:
    """A supernet whose every tensor is away from its initial value."""
    supernet = load_timm_supernet(model, classes=10)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in supernet.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.03 * torch.randn(tensor.shape, generator=generator))
    return supernet


def images(supernet: Supernet, count: int = 2) -> torch.Tensor:
    side = supernet.space.image_side
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))


def timm_space(supernet: Supernet) -> TimmSpace:
    assert isinstance(supernet.space, TimmSpace)
    return supernet.space


def calibration_of(supernet: Supernet, count: int = 8) -> Calibration:
    side = supernet.space.image_side
    generator = torch.Generator().manual_seed(2)
    images_BCHW = torch.randn(count, 3, side, side, generator=generator)
    return Calibration.of(supernet, images_BCHW, torch.randint(10, (count,), generator=generator))


@torch.no_grad()
def check_largest_is_the_model(supernet: Supernet) -> None:
    x_BCHW = images(supernet)
    model = create(timm_space(supernet).outline.reference, None, 10).eval()
    model.load_state_dict(to_timm_names(supernet.network.state_dict()))
    assert torch.allclose(supernet(x_BCHW, supernet.space.largest), model(x_BCHW), atol=1e-6)


@torch.no_grad()
def check_extracted_is_active(supernet: Supernet) -> int:
    """timm's own constructor at the same sizes is the judge of the narrowing, wherever it can make the network.

    Returns:
        Number of networks that timm could make.
    """
    space = timm_space(supernet)
    drawn = space.decode(space.sample(3, np.random.default_rng(0)))
    return sum(check_rebuilt(supernet, architecture) for architecture in [space.smallest, _uniform(space), *drawn])


@torch.no_grad()
def check_rebuilt(supernet: Supernet, architecture: Architecture) -> bool:
    """Active, extracted and rebuilt networks are the same; returns whether timm could make it."""
    space, x_BCHW = timm_space(supernet), images(supernet)
    extracted = supernet.extract(architecture).eval()
    found = extracted(x_BCHW)
    assert torch.equal(found, supernet(x_BCHW, architecture))
    weights = timm_state_dict(space, architecture, extracted)
    rebuilt = build_subnet(json.loads(json.dumps(subnet_config(space, architecture))), weights)
    prepared = supernet.family.prepare(x_BCHW, int(extracted.input_side))  # type: ignore[arg-type]
    assert torch.allclose(rebuilt(prepared), found, atol=1e-5)
    plain = plain_timm_config(space, architecture)
    if plain is not None:
        reference = TimmReference(plain["architecture"])
        model = create(reference, None, plain["num_classes"], **plain["model_args"]).eval()
        model.load_state_dict(weights)
        assert torch.allclose(model(prepared), found, atol=1e-5)
    return plain is not None


def _uniform(space: TimmSpace) -> Architecture:
    """The largest network with half of its blocks and of its hidden units."""
    values = {c.name: c.values[0 if c.name.endswith(("depth", "hidden")) else -1] for c in space.choices}
    genotype = np.array([[c.values.index(values[c.name]) for c in space.choices]], dtype=np.int8)
    return space.decode(space.repair(genotype))[0]


@torch.no_grad()
def check_counts(supernet: Supernet) -> None:
    space = supernet.space
    genotypes = space.sample(2, np.random.default_rng(1))
    cost = population_cost(space, genotypes)
    for index, architecture in enumerate(space.decode(genotypes)):
        assert check_counts_of(supernet, architecture) == (cost.params[index], cost.macs[index])


@torch.no_grad()
def check_counts_of(supernet: Supernet, architecture: Architecture) -> tuple[int, int]:
    """Parameters and MACs of one network, which are those of its op graph."""
    extracted = supernet.extract(architecture).requires_grad_(False)
    graph = supernet.space.lower(architecture)
    assert graph.macs == macs_without_constants(extracted, images(supernet, 1))
    assert graph.params == sum(parameter.numel() for parameter in extracted.parameters())
    return graph.params, graph.macs


def check_promises(model: str) -> None:
    """All of it, with batch norms whose statistics are those of the images, so that logits depend on them."""
    supernet = made(model)
    reestimate_batch_norm(supernet.network, [images(supernet)])
    check_largest_is_the_model(supernet)
    check_extracted_is_active(supernet)
    check_counts(supernet)


def check_borrowed_gradients(supernet: Supernet, architecture: Architecture | None = None) -> None:
    """They equal those through the narrowing to the smallest network, or another; returns with no gradients left."""
    x_BCHW, architecture = images(supernet), architecture or supernet.space.smallest
    supernet.zero_grad()
    supernet(x_BCHW, architecture).square().mean().backward()
    expected = {name: p.grad.clone() for name, p in supernet.named_parameters() if p.grad is not None}
    supernet.zero_grad()
    with supernet.borrow(architecture) as subnet:
        subnet(x_BCHW).square().mean().backward()
    found = {name: p.grad for name, p in supernet.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-7), name
    assert "network.stem.pos_embed" in found
    supernet.zero_grad()


def check_sorting(model: str) -> None:
    """Sorting by importance moves tensors along every axis and leaves the function unchanged."""
    supernet = made(model)
    calibration = calibration_of(supernet)
    with torch.no_grad():
        expected = supernet.network(calibration.images_BCHW)
    for axis in SORTED:
        moved = 0
        for criterion in CRITERIA:
            again = sorted_along(supernet, axis, criterion, calibration)
            with torch.no_grad():
                found = again.network(calibration.images_BCHW)
            assert torch.allclose(found, expected, atol=1e-5), (axis, criterion)
            states = zip(supernet.state_dict().values(), again.state_dict().values(), strict=True)
            moved += any(not torch.equal(before, after) for before, after in states)
        assert moved, axis


def macs_without_constants(network: nn.Module, x_1CHW: torch.Tensor) -> int:
    """MACs of one image, without those that multiply nothing but weights, which every runtime folds."""
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
            side = x_1CHW.shape[-1] // int(network.get_submodule("stem").patch_embed.patch_size)  # type: ignore[union-attr, arg-type]
            constant += counted_macs(module, 1, side, side)
    return counted_macs(network, x_1CHW) - constant
