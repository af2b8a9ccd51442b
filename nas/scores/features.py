"""What scores of untrained networks share: seeded draws of weights, pooled features, norms and how to remove them.

Shape letters: B batch, C channels, F features, H and W sides, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nas.errors import EvaluationError

Build = Callable[[], nn.Module]
"""Makes a freshly initialised network that takes images ``(B, 3, H, W)``."""


def draw_network(build: Build, seed: int) -> nn.Module:
    """A network whose weights depend on ``seed`` alone, without gradients; the global random state is left as it was.

    Building anew costs no more than initialising anew, works for any network, and needs no copy.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().requires_grad_(False)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer, of PyTorch or of another library: told by the name of its class."""
    is_plain = not any(True for child in module.children() for _ in child.parameters())
    return is_plain and "norm" in type(module).__name__.lower()


def remove_norms(network: nn.Module) -> None:
    """Replace every normalisation layer of ``network`` by the identity, in place.

    An activation that a library has fused into its norm (timm's ``BatchNormAct2d``) is kept.
    """
    for name, child in network.named_children():
        if is_norm(child):
            setattr(network, name, getattr(child, "act", None) or nn.Identity())
        else:
            remove_norms(child)


def last_features(network: nn.Module, x_BCHW: Tensor) -> Tensor:
    """What ``forward_features`` gives, or the network itself where it has no such method.

    Raises:
        EvaluationError: That is not one tensor.
    """
    features = getattr(network, "forward_features", network)(x_BCHW)
    if not isinstance(features, Tensor):
        raise EvaluationError(f"`forward_features` gives {type(features).__name__}, expected one tensor")
    return features


def pool(network: nn.Module, features: Tensor) -> Tensor:
    """The mean over positions of a map ``(B, C, H, W)`` or ``(B, H, W, C)``, or of tokens ``(B, N, C)``: ``(B, C)``.

    Channels come first in a map unless the network says otherwise (timm's ``output_fmt`` or ``num_features``).
    """
    if features.ndim == 4:
        channels = getattr(network, "num_features", None)
        says_last = getattr(network, "output_fmt", None) == "NHWC"
        is_last = says_last or (features.shape[-1] == channels != features.shape[1])
        return features.mean(dim=(1, 2) if is_last else (2, 3))
    return features.flatten(1, -2).mean(dim=1) if features.ndim > 2 else features


def pooled_features(network: nn.Module, x_BCHW: Tensor) -> Tensor:
    """Images to the pooled features ``(B, F)`` in front of the head."""
    return pool(network, last_features(network, x_BCHW))


def pooled_features_before_norm(network: nn.Module, x_BCHW: Tensor) -> Tensor:
    """As `pooled_features`, but in front of a norm that stands last in ``forward_features``."""
    with _norm_calls(network) as calls:
        features = last_features(network, x_BCHW)
    before = calls.get(id(features), (features, features))[1]
    return pool(network, before)


@contextmanager
def _norm_calls(network: nn.Module) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """Output and input of every norm that runs, by the identity of the output (held, so that it stays unique)."""
    calls: dict[int, tuple[Tensor, Tensor]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[id(output)] = (output, inputs[0])

    handles = [module.register_forward_hook(note) for module in network.modules() if is_norm(module)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def first_overflow(network: nn.Module, x_BCHW: Tensor) -> str:
    """The layer whose output is the first that is not finite, as ``name (Class)``; empty where all are."""
    found: list[str] = []

    def look(name: str, module: nn.Module) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if not found and isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.append(f"`{name}` ({type(module).__name__})")

        return hook

    handles = [
        module.register_forward_hook(look(name, module))
        for name, module in network.named_modules()
        if not list(module.children())
    ]
    try:
        with torch.no_grad():
            last_features(network, x_BCHW)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""
