"""Heads rotated so that their first channels are the best ones, which changes nothing in the whole network.

The products of queries and keys are the same for q' = Rᵀq and k' = R⁻¹k with any invertible R, and so is what values
give for v' = Rv and a projection times R⁻¹. Here R is taken from what the network computes on some images:

- queries and keys: with the second moments of queries AAᵀ and of keys less their mean BBᵀ, which a softmax does not
  see, and the singular value decomposition AᵀB = USVᵀ, queries become S^½UᵀA⁻¹q and keys S^½VᵀB⁻¹k, and the first r
  channels hold the best products of rank r;
- values: with the covariance CCᵀ of what a head gives and the decomposition of the head's projection times C as USVᵀ,
  the projection becomes US and values VᵀC⁻¹(v - mean), so that what is cut is zero on average; the mean goes through
  the projection into its bias.

Fused attention divides products by the root of the width of the narrower head: see `supernets.head_width`.

Legend of tensor suffixes: B batch, C colours, W and H columns and rows, N tokens, M tokens of all images, T queries,
keys and values, h heads, d channels of a head, E channels of the model.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from search_spaces.timm_models import TimmBlock
from supernets.least_squares import DegenerateError
from supernets.supernet import Supernet
from supernets.timm_models.branches import seen_inputs
from supernets.timm_models.family import narrow_heads_of

DAMPING = 1e-6
"""Damping of moments, as a share of their mean diagonal."""
BATCH = 32


@torch.no_grad()
def rotate_heads(supernet: Supernet, images_BCHW: Tensor) -> int:
    """Rotate queries, keys and values of every head whose width is searched, in place.

    Args:
        supernet: Trained weights of a timm model; its largest network computes what it did.
        images_BCHW: Normalised images.

    Returns:
        Number of attentions that were rotated.

    Raises:
        DegenerateError: What an attention computes is not finite.
    """
    was_training = supernet.training
    supernet.eval()
    batches = torch.split(images_BCHW, BATCH)
    side = supernet.space.image_side
    flow = [supernet.family.prepare(part_BCHW.to(supernet.device), side) for part_BCHW in batches]
    rotated = 0
    for name, spec in supernet.space.shared_blocks():
        part = supernet.network.get_submodule(name)
        assert isinstance(spec, TimmBlock)
        for path in narrow_heads_of(spec):
            try:
                _rotate(part.get_submodule(path), _moments(part, path, flow))
            except DegenerateError as error:
                raise DegenerateError(f"block `{name}`: {error}") from error
            rotated += 1
        flow = [part(x) for x in flow]
    supernet.train(was_training)
    return rotated


class _Moments:
    """Second moments of what an attention computes, and the mean of what its heads give, all by head.

    Attributes:
        queries_hdd: Moments of queries.
        keys_hdd: Moments of keys, less their mean.
        given_hdd: Moments of what heads give, less the mean where layers have biases that can take it.
        mean_hd: Mean of what heads give; zero without biases.
    """

    def __init__(self, attention: nn.Module, pairs: Iterator[tuple[Tensor, Tensor]]) -> None:
        weight_RE, bias_R, heads, width = _projection(attention)
        sums_Thd: Tensor | float = 0.0
        squares_Thdd: Tensor | float = 0.0
        rows = 0
        for x_ME, given_MI in pairs:
            rows_MR = x_ME @ weight_RE.T + (0.0 if bias_R is None else bias_R)
            queries_Mhd, keys_Mhd, _ = rows_MR.view(len(rows_MR), 3, heads, width).unbind(1)
            seen_TMhd = torch.stack([queries_Mhd, keys_Mhd, given_MI.view(len(given_MI), heads, width)])
            sums_Thd = sums_Thd + seen_TMhd.sum(dim=1)
            squares_Thdd = squares_Thdd + torch.einsum("TMhd,TMhe->Thde", seen_TMhd, seen_TMhd)
            rows += len(x_ME)
        means_Thd, squares_Thdd = torch.as_tensor(sums_Thd) / rows, torch.as_tensor(squares_Thdd) / rows
        means_Thd[0] = 0  # a shift of queries is seen
        if not _takes_means(attention):
            means_Thd[2] = 0
        moments_Thdd = squares_Thdd - means_Thd[..., :, None] * means_Thd[..., None, :]
        if not torch.isfinite(moments_Thdd).all():
            raise DegenerateError("its activations are not finite")
        self.queries_hdd, self.keys_hdd, self.given_hdd = moments_Thdd
        self.mean_hd = means_Thd[2]


def _moments(part: nn.Module, path: str, flow: list[Tensor]) -> _Moments:
    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for x in flow:
            seen = seen_inputs(part, (path, f"{path}.proj"), x)
            yield seen[path].flatten(0, -2).double(), seen[f"{path}.proj"].flatten(0, -2).double()

    return _Moments(part.get_submodule(path), pairs())


def _rotate(attention: nn.Module, moments: _Moments) -> None:
    weight_RE, bias_R, heads, width = _projection(attention)
    queries_hdd, keys_hdd, given_hdd = map(_factor, (moments.queries_hdd, moments.keys_hdd, moments.given_hdd))
    u_hdd, s_hd, vt_hdd = torch.linalg.svd(queries_hdd.mT @ keys_hdd)
    root_hd1 = s_hd.sqrt()[..., None]
    to_queries_hdd = root_hd1 * torch.linalg.solve_triangular(queries_hdd, u_hdd.mT, upper=False, left=False)
    to_keys_hdd = root_hd1 * torch.linalg.solve_triangular(keys_hdd, vt_hdd, upper=False, left=False)
    out_OI, out_bias_O = _weights(attention.get_submodule("proj"))
    out_hOd = out_OI.view(len(out_OI), heads, width).movedim(1, 0)
    u_hOd, s_hd, vt_hdd = torch.linalg.svd(out_hOd @ given_hdd, full_matrices=False)
    to_values_hdd = torch.linalg.solve_triangular(given_hdd, vt_hdd, upper=False, left=False)

    rotations_Thdd = torch.stack([to_queries_hdd, to_keys_hdd, to_values_hdd])
    rows_ThdE = rotations_Thdd @ weight_RE.view(3, heads, width, -1)
    # Any scale may go from one layer to the other; weights of like size are what a training expects.
    norms_Thd = rows_ThdE.norm(dim=-1)
    scales_hd, values_hd = _balance(norms_Thd[1], norms_Thd[0]), _balance(s_hd, norms_Thd[2])
    factors_Thd1 = torch.stack([scales_hd, 1 / scales_hd, values_hd])[..., None]
    rotations_Thdd, rows_ThdE = factors_Thd1 * rotations_Thdd, factors_Thd1 * rows_ThdE
    new_out_OI = (u_hOd * (s_hd / values_hd)[:, None]).movedim(0, 1).reshape(out_OI.shape)
    if bias_R is not None:
        bias_Thd = bias_R.view(3, heads, width).clone()
        bias_Thd[2] -= moments.mean_hd
        _set(attention.get_submodule("qkv"), "bias", (rotations_Thdd @ bias_Thd[..., None]).flatten())
    if out_bias_O is not None:
        _set(attention.get_submodule("proj"), "bias", out_bias_O + out_OI @ moments.mean_hd.flatten())
    _set(attention.get_submodule("qkv"), "weight", rows_ThdE.reshape(weight_RE.shape))
    _set(attention.get_submodule("proj"), "weight", new_out_OI)


def _balance(reader_hd: Tensor, writer_hd: Tensor) -> Tensor:
    """What to multiply a channel's rows by, and to divide what meets it by, so that both are of one norm."""
    is_alive = (reader_hd > 0) & (writer_hd > 0)
    return torch.where(is_alive, (reader_hd / writer_hd).sqrt(), torch.ones_like(reader_hd))


def _factor(moments_hdd: Tensor) -> Tensor:
    """Lower Cholesky factors of damped moments."""
    width = moments_hdd.shape[-1]
    mean_h = moments_hdd.diagonal(dim1=-2, dim2=-1).mean(dim=-1)
    damping_h = torch.where(mean_h > 0, DAMPING * mean_h, torch.ones_like(mean_h))
    eye_dd = torch.eye(width, dtype=moments_hdd.dtype, device=moments_hdd.device)
    factor_hdd: Tensor = torch.linalg.cholesky(moments_hdd + damping_h[:, None, None] * eye_dd)
    return factor_hdd


def _projection(attention: nn.Module) -> tuple[Tensor, Tensor | None, int, int]:
    """Rows of queries, keys and values in double precision, their bias, the number of heads and their width."""
    weight_RE, bias_R = _weights(attention.get_submodule("qkv"))
    heads = attention.num_heads
    assert isinstance(heads, int)
    return weight_RE, bias_R, heads, len(weight_RE) // (3 * heads)


def _takes_means(attention: nn.Module) -> bool:
    return all(attention.get_submodule(name)._parameters["bias"] is not None for name in ("qkv", "proj"))


def _weights(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    bias = layer._parameters["bias"]
    return layer.get_parameter("weight").double(), None if bias is None else bias.double()


def _set(layer: nn.Module, name: str, value: Tensor) -> None:
    layer.get_parameter(name).copy_(value)
