"""Masked and sliced execution: both compute what the extracted subnets do, forwards and backwards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces import Architecture, SearchSpace, get_space
from search_spaces.resnas import ResnasSpace
from search_spaces.resnas_blocks import TransformerLayer
from search_spaces.resnas_definitions import RESNAS_MINI
from supernets import Supernet, SupernetError
from supernets.grouped import default_execution, run_groups, sliced_forward
from supernets.masked import branch_scale, first_channels, masked_forward, masked_layer_norm
from supernets.sampling.policy import Assignment, Share
from supernets.token_logits import TokenLogits

EXECUTIONS = ["masked", "sliced"]


def perturbed(space: SearchSpace, dtype: torch.dtype = torch.float32) -> Supernet:
    """A supernet whose every parameter and statistic is away from its initial value."""
    supernet = Supernet(space)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in supernet.state_dict().items():
            if tensor.is_floating_point():
                noise = 0.02 * torch.randn(tensor.shape, generator=generator)
                tensor.add_(noise.abs() if name.endswith("running_var") else noise)
    return supernet.to(dtype)


def images(supernet: Supernet, count: int) -> Tensor:
    side, generator = supernet.space.image_side, torch.Generator().manual_seed(2)
    return torch.randn(count, 3, side, side, generator=generator).to(next(supernet.parameters()).dtype)


def drawn(space: SearchSpace, count: int, seed: int = 0) -> list[Architecture]:
    return space.decode(space.sample(count, np.random.default_rng(seed)))


def shared_among(architectures: list[Architecture]) -> list[Assignment]:
    return [Assignment(a, "labels", Share(g, len(architectures))) for g, a in enumerate(architectures)]


def mini(**changes: object) -> ResnasSpace:
    return ResnasSpace(replace(RESNAS_MINI, **changes))  # type: ignore[arg-type]


def gradients(supernet: Supernet, output: Tensor | TokenLogits) -> dict[str, Tensor]:
    """Of a loss to which all outputs contribute differently."""
    supernet.zero_grad()
    loss = torch.zeros((), dtype=torch.float64)
    for part in [output] if isinstance(output, Tensor) else output:
        weights = torch.linspace(-1, 1, part.numel(), dtype=part.dtype).reshape(part.shape)
        loss = loss + (part * weights + part.square()).mean()
    loss.backward()
    return {name: p.grad.clone() for name, p in supernet.named_parameters() if p.grad is not None}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Gradients relative to the largest of all; the same tensors have one."""
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= tolerance * largest, name


@torch.no_grad()
def test_every_image_of_the_tiny_space_gets_the_logits_of_its_extracted_subnet() -> None:
    supernet = perturbed(get_space("resnas-tiny").variant(image_side=112)).eval()  # type: ignore[attr-defined]
    x_BCHW = images(supernet, 4)
    architectures = drawn(supernet.space, 2)
    results = [run(supernet, shared_among(architectures), x_BCHW) for run in (masked_forward, sliced_forward)]
    for group, architecture in enumerate(architectures):
        expected = supernet.extract(architecture)(x_BCHW[group::2])
        for logits in results:
            assert (logits[group::2] - expected).abs().max() < 1e-5


@pytest.mark.parametrize("tokens", [1, 2])
@pytest.mark.parametrize("count", [8, 10])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_gradients_and_statistics_of_both_executions_agree(
    tokens: int, count: int, dtype: torch.dtype, tolerance: float
) -> None:
    """In training mode, where batch norm of the stem sees the whole batch; 10 images leave groups of two sizes."""
    space = mini(class_tokens=tokens, patch_classifier=True)
    assignments = shared_among([*drawn(space, 2), space.smallest, space.largest])
    results = []
    for execution in EXECUTIONS:
        supernet = perturbed(space, dtype).train()
        output = run_groups(supernet, assignments, images(supernet, count), execution)  # type: ignore[arg-type]
        assert isinstance(output, TokenLogits)
        assert output.patches_BPK.shape == (count, 4, 10)
        results.append((output, gradients(supernet, output), supernet.state_dict()))
    (masked, masked_gradients, masked_state), (sliced, sliced_gradients, sliced_state) = results
    for found, expected in zip(masked, sliced, strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=10 * tolerance)
    assert_close(masked_gradients, sliced_gradients, tolerance)
    for name, tensor in masked_state.items():
        assert torch.allclose(tensor, sliced_state[name], atol=tolerance), name


@pytest.mark.parametrize("name", ["asvit-mini", "elastic-mini", "resnas-mini"])
@pytest.mark.parametrize("count", [6, 7])
def test_sliced_execution_is_each_subnet_on_its_own_images(name: str, count: int) -> None:
    supernet = perturbed(get_space(name)).eval()
    x_BCHW = images(supernet, count)
    architectures = drawn(supernet.space, 3)
    output = sliced_forward(supernet, shared_among(architectures), x_BCHW)
    found = gradients(supernet, output)
    alone = torch.zeros_like(output)  # type: ignore[arg-type]
    for group, architecture in enumerate(architectures):
        alone = alone.index_copy(0, torch.arange(group, count, 3), supernet(x_BCHW[group::3], architecture))
    assert torch.allclose(output, alone, rtol=1e-5, atol=1e-6)  # type: ignore[arg-type]
    assert_close(found, gradients(supernet, alone), 1e-5)


def test_blocks_that_all_have_alike_run_once_on_the_whole_batch() -> None:
    """Statistics of batch norm show it: they change once, and those are of all images."""
    space = get_space("elastic-mini")
    states = []
    for shared in (True, False):
        supernet = perturbed(space).train()
        x_BCHW = images(supernet, 8)
        if shared:
            output = sliced_forward(supernet, shared_among([space.largest] * 2), x_BCHW)
        else:
            output = supernet(x_BCHW, space.largest)
        states.append({"output": output.detach(), **supernet.state_dict()})  # type: ignore[union-attr]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_gradients_add_to_those_that_are_there(execution: str) -> None:
    supernet = perturbed(get_space("resnas-mini"), torch.float64).eval()
    assignments, x_BCHW = shared_among(drawn(supernet.space, 2)), images(supernet, 4)
    once = gradients(supernet, run_groups(supernet, assignments, x_BCHW, execution))  # type: ignore[arg-type]
    again = run_groups(supernet, assignments, x_BCHW, execution)  # type: ignore[arg-type]
    before = {name: p.grad.clone() for name, p in supernet.named_parameters() if p.grad is not None}
    assert_close(before, once, 0.0)
    again.sum().backward()  # type: ignore[union-attr]
    after = {name: p.grad for name, p in supernet.named_parameters() if p.grad is not None}
    supernet.zero_grad()
    run_groups(supernet, assignments, x_BCHW, execution).sum().backward()  # type: ignore[arg-type, union-attr]
    own = {name: p.grad for name, p in supernet.named_parameters() if p.grad is not None}
    assert_close({name: after[name] - once[name] for name in once}, own, 1e-12)  # type: ignore[operator, misc, arg-type]


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_block_that_no_network_of_the_step_has_gets_no_gradient(execution: str) -> None:
    """Not even zeros, which the optimiser would take as a reason to decay it."""
    supernet = perturbed(get_space("resnas-mini")).train()
    output = run_groups(supernet, shared_among([supernet.space.smallest] * 2), images(supernet, 4), execution)  # type: ignore[arg-type]
    found = gradients(supernet, output)
    missing = {f"stage{stage}.{layer}" for stage in (1, 2, 3) for layer in (1, 3)}
    names = [name for name, _ in supernet.named_parameters()]
    assert found.keys() == {name for name in names if not any(f"network.{block}." in name for block in missing)}


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_without_gradients_none_are_left(execution: str) -> None:
    supernet = perturbed(get_space("resnas-mini")).train()
    frozen = supernet.network.get_submodule("head.classifier").requires_grad_(False)
    assignments, x_BCHW = shared_among(drawn(supernet.space, 2)), images(supernet, 4)
    with torch.no_grad():
        assert not run_groups(supernet, assignments, x_BCHW, execution).requires_grad  # type: ignore[arg-type, union-attr]
    run_groups(supernet, assignments, x_BCHW, execution).sum().backward()  # type: ignore[arg-type, union-attr]
    assert {name for name, p in frozen.named_parameters() if p.grad is not None} == set()
    assert supernet.network.get_parameter("head.norm.weight").grad is not None


@pytest.mark.parametrize("active", [1, 5, 12])
def test_masked_layer_norm_is_that_of_the_active_channels(active: int) -> None:
    generator = torch.Generator().manual_seed(0)
    norm = nn.LayerNorm(12, eps=1e-6)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(12, generator=generator))
        norm.bias.copy_(torch.randn(12, generator=generator))
    x_BNC = 3 + torch.randn(2, 4, 12, generator=generator)
    channels = first_channels([active, 12], 12, x_BNC)
    x_BNC = (x_BNC * channels.mask_B1C).requires_grad_()
    found = masked_layer_norm(x_BNC, norm, channels)
    weights = torch.randn(2, 4, 12, generator=generator)
    (found * weights).sum().backward()
    found_gradient = x_BNC.grad
    assert found_gradient is not None

    sliced = x_BNC.detach()[..., :active].requires_grad_()
    expected = F.layer_norm(sliced, (active,), norm.weight[:active], norm.bias[:active], eps=1e-6)
    (expected * weights[..., :active]).sum().backward()
    assert sliced.grad is not None
    assert torch.allclose(found[0, :, :active], expected[0], atol=1e-5)
    assert not found[0, :, active:].any()
    assert torch.allclose(found[1], norm(x_BNC[1]), atol=1e-5)
    assert torch.allclose(found_gradient[0, :, :active], sliced.grad[0], atol=1e-4)


def test_stochastic_depth_keeps_the_mean_of_each_group_and_missing_layers_missing() -> None:
    layer = TransformerLayer(side=2, width=8, heads=1, head_width=8, hidden=8, class_tokens=1, drop_path=0.6)
    specs = [layer, None, replace(layer, drop_path=0.0)]
    x_BNC = torch.zeros(3000, 5, 8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        scale_B = branch_scale(specs, x_BNC, training=True).flatten()
    assert set(scale_B[0::3].tolist()) == {0.0, 2.5}
    assert float(scale_B[0::3].mean()) == pytest.approx(1, abs=0.1)
    assert set(scale_B[1::3].tolist()) == {0.0}
    assert set(scale_B[2::3].tolist()) == {1.0}
    assert branch_scale(specs, x_BNC, training=False)[:6].flatten().tolist() == [1, 0, 1, 1, 0, 1]


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_stochastic_depth_depends_on_the_random_state_alone(execution: str) -> None:
    supernet = perturbed(mini(drop_path=0.6)).train()
    assignments, x_BCHW = shared_among([supernet.space.largest, supernet.space.smallest]), images(supernet, 4)

    def output(seed: int) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return run_groups(supernet, assignments, x_BCHW, execution)  # type: ignore[arg-type, return-value]

    first = output(0)
    assert torch.equal(first, output(0))
    assert not torch.equal(first, output(1))


def test_misuse_is_told() -> None:
    elastic, resnas = Supernet(get_space("elastic-mini")), Supernet(get_space("resnas-mini"))
    pair = shared_among([resnas.space.largest, resnas.space.smallest])
    with pytest.raises(SupernetError, match=r"shares of a batch: found \[\(1, 2\), \(0, 2\)\], expected .* 2 groups"):
        run_groups(resnas, pair[::-1], images(resnas, 4))
    with pytest.raises(SupernetError, match=r"a batch of 1 images for 2 architectures"):
        run_groups(resnas, pair, images(resnas, 1), "masked")
    with pytest.raises(SupernetError, match="execution: found `dense`, expected `masked` or `sliced`"):
        run_groups(resnas, pair, images(resnas, 2), "dense")  # type: ignore[arg-type]
    with pytest.raises(SupernetError, match="`elastic-mini` has no masked execution") as caught:
        run_groups(elastic, shared_among([elastic.space.largest]), images(elastic, 2), "masked")
    assert caught.value.hint == "use the execution `sliced`"


def test_the_default_is_known_for_every_device() -> None:
    assert default_execution(torch.device("cpu")) == "sliced"
    assert default_execution(torch.device("xpu")) in EXECUTIONS
