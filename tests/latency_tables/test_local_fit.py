"""Rooflines by size, and the kernels that ONNX Runtime is known not to launch."""

from __future__ import annotations

import numpy as np
import pytest

from latency_tables.kernels import ONNX_RUNTIME, SMALL, Kernel, fuse
from latency_tables.local_fit import Observation, fit_local
from latency_tables.profile import KernelSample
from search_spaces import SOURCE, OpList

ORT = ONNX_RUNTIME


def true_ms(kernel: Kernel) -> float:
    """Bytes cost five times as much where the cache does not hold them."""
    _, macs, read, written = kernel.features(4)
    return 0.001 + 2e-8 * macs + (2e-8 if kernel.is_small(4) else 1e-7) * (read + written)


def observations(count: int, seed: int) -> list[Observation]:
    generator = np.random.default_rng(seed)
    found = []
    for number in range(count):
        ops = OpList((8, 4, 4))
        last = SOURCE
        for layer in range(12):
            size = int(generator.integers(4, 300)) if layer % 2 else int(generator.integers(300, 1500))
            last = ops.conv(f"conv{layer}", last, size)
        kernels = fuse(ops.ops, ORT)
        samples = tuple(KernelSample(kernel, true_ms(kernel) + 0.003, 1, 10) for kernel in kernels)
        macs = sum(kernel.macs for kernel in kernels)
        found.append(Observation(f"n{number}", macs, kernels, 0.02 + sum(map(true_ms, kernels)), samples))
    return found


def test_small_and_large_kernels_have_rooflines_of_their_own() -> None:
    fit = fit_local(observations(20, seed=0))
    rooflines = {roofline.op: roofline for roofline in fit.rooflines}
    assert {"pointwise_conv", "pointwise_conv" + SMALL, "other"} == set(rooflines)
    small, large = rooflines["pointwise_conv" + SMALL], rooflines["pointwise_conv"]
    assert large.ms_per_megabyte_read > 2 * small.ms_per_megabyte_read
    for unseen in observations(10, seed=1):
        assert fit.milliseconds(unseen.kernels) == pytest.approx(unseen.measured_ms, rel=0.02)


def test_a_class_with_few_kernels_has_one_roofline() -> None:
    fit = fit_local(observations(4, seed=0))
    assert {roofline.op for roofline in fit.rooflines} == {"pointwise_conv", "other"}


def test_profiles_are_not_required() -> None:
    bare = [Observation(o.name, o.macs, o.kernels, o.measured_ms, ()) for o in observations(20, seed=0)]
    fit = fit_local(bare)
    assert fit.kernels == ()
    for unseen in observations(5, seed=1):
        assert fit.milliseconds(unseen.kernels) == pytest.approx(unseen.measured_ms, rel=0.05)


def attention(*, only_heads: bool) -> OpList:
    ops = OpList((16, 8))
    key = ops.append("split", "reshape", [SOURCE], (16, 2, 4), function="split")
    shape = (2, 16, 4) if only_heads else (2, 4, 16)
    moved = ops.append("moved", "reshape", [key], shape, function="transpose")
    scaled = ops.append("scaled", "multiply", [moved], shape)
    ops.append("scores", "matmul", [scaled], (2, 16, 16), macs=2 * 16 * 16 * 4)
    return ops


def test_a_product_reads_its_factor_transposed_and_scaled() -> None:
    assert [kernel.op for kernel in fuse(attention(only_heads=False).ops, ORT)] == ["matmul.narrow"]
    kept = [kernel.op for kernel in fuse(attention(only_heads=True).ops, ORT)]
    assert kept == ["reshape.transpose", "matmul.narrow"]
    assert len(fuse(attention(only_heads=False).ops)) == 4


def test_layer_scale_goes_into_the_convolution_in_front() -> None:
    ops = OpList((8, 4, 4))
    last = ops.conv("conv", SOURCE, 8)
    last = ops.append("gamma", "multiply", [last], (8, 4, 4), params=8)
    ops.add("residual", SOURCE, last)
    (kernel,) = fuse(ops.ops, ORT)
    assert kernel.key == "pointwise_conv[8x4x4>8x4x4]+add"
