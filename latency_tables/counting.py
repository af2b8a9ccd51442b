"""Multiply-accumulates of a module, counted on the operators that run.

Op graphs say what a network should cost; this says what it does cost, and so checks them. PyTorch's counter alone
depends on processor and release: it counts an operator that it has no formula for as nothing, and fused attention
on a processor is one. Here attention runs as the matrix products that define it, wherever this is called, and an
operator that multiplies matrices without a formula is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from latency_tables.errors import LatencyError

if TYPE_CHECKING:
    from torch import nn

MULTIPLYING_WORDS = frozenset(
    "addbmm addmm addmv attention baddbmm bmm conv conv1d conv2d conv3d convolution dot einsum gru linear lstm mm mv"
    " rnn vdot".split()
)
"""An operator with one of these words in its name multiplies matrices or vectors."""


class UncountedOperatorError(LatencyError):
    """An operator that multiplies matrices ran and has no formula for its multiply-accumulates."""

    def __init__(self, names: set[str]) -> None:
        self.names = frozenset(names)
        listed = ", ".join(f"`{name}`" for name in sorted(names))
        super().__init__(
            f"multiply-accumulates cannot be counted: no formula for {listed}, expected operators that PyTorch's"
            " counter knows; write the module with matrix products or convolutions, or update PyTorch"
        )


def counted_macs(module: nn.Module | Callable[..., Any], *inputs: Any, **named_inputs: Any) -> int:
    """Multiply-accumulates of one forward pass on these inputs.

    The module runs as it is: in its own mode (training or evaluation), on its own device (``meta`` computes nothing)
    and without gradients.

    Args:
        module: What runs; any callable.
        inputs: Arguments of the module.
        named_inputs: Arguments of the module by name.

    Raises:
        UncountedOperatorError: An operator ran whose multiply-accumulates are not known.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with matrix_products_alone(), _uncounted() as uncounted, FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs, **named_inputs)
    if uncounted:
        raise UncountedOperatorError(uncounted)
    return int(counter.get_total_flops()) // 2


def may_hide_macs(operator: Any) -> bool:
    """Whether an operator of PyTorch multiplies matrices, with or without a formula of its counter."""
    import torch
    from torch.utils.flop_counter import flop_registry

    if isinstance(operator, torch._ops.OpOverload):
        return operator.overloadpacket in flop_registry or _multiplies(operator)
    return isinstance(operator, torch._ops.HigherOrderOperator)


@contextmanager
def matrix_products_alone() -> Iterator[None]:
    """Runs attention as matrix products, whatever fused kernels processor and release have."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


def _multiplies(operator: Any) -> bool:
    name = operator.overloadpacket.__name__
    return not MULTIPLYING_WORDS.isdisjoint(name.strip("_").split("_"))


@contextmanager
def _uncounted() -> Iterator[set[str]]:
    """Collects the operators that multiply matrices and that PyTorch's counter knows no formula for."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    found: set[str] = set()

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            if operator.overloadpacket not in flop_registry and _multiplies(operator):
                found.add(str(operator))
            return operator(*args, **(kwargs or {}))

    with Watch():  # type: ignore[no-untyped-call]
        yield found
