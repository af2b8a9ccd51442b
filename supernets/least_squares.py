"""Linear layers solved anew by ridge regression; what is solved is in double precision.

Legend of tensor suffixes: M rows (tokens), I inputs, O outputs, K inputs that are kept, C inputs that are cut.
"""

from __future__ import annotations

import torch
from torch import Tensor

from supernets.errors import SupernetError

EXACT_PRODUCTS, ROWS = 1_000_000_000, 2048
"""Multiplications up to which a product is taken in double precision, and rows of a block above."""
ALPHA = 1e-3
"""Damping, as a share of the mean variance of an input."""


class DegenerateError(SupernetError):
    """Activations that hold no finite numbers, so that nothing can be solved from them."""


def ridge_change(
    a_MI: Tensor, error_MO: Tensor, alpha: float = ALPHA, *, intercept: bool = True
) -> tuple[Tensor, Tensor]:
    """What to add to a layer's weight and bias so that it makes up for its errors.

    With W₀ and b₀ before, y what is wanted and errors y - W₀a - b₀, the sums W and b minimise the mean square of
    y - Wa - b plus λ times that of W - W₀, where λ is ``alpha`` times the mean variance of an input. Solving for the
    change keeps the layer exactly where there are no errors.

    Args:
        a_MI: Inputs of the layer.
        error_MO: What its outputs lack.
        alpha: Damping.
        intercept: Whether the layer has a bias.

    Returns:
        Changes ``(O, I)`` and ``(O,)`` in double precision; the second is zero without a bias.

    Raises:
        DegenerateError: Inputs or errors are not finite.
    """
    a_MI, error_MO = a_MI.double(), error_MO.double()
    mean_I, mean_O = torch.zeros_like(a_MI[0]), torch.zeros_like(error_MO[0])
    if intercept:
        mean_I, mean_O = a_MI.mean(dim=0), error_MO.mean(dim=0)
        a_MI, error_MO = a_MI - mean_I, error_MO - mean_O
    gram_II = products(a_MI, a_MI) / len(a_MI)
    cross_IO = products(a_MI, error_MO) / len(a_MI)
    change_OI = torch.cholesky_solve(cross_IO, damped_factor(gram_II, alpha)).T
    if not torch.isfinite(change_OI).all():
        raise DegenerateError("what its layers are to give is not finite")
    return change_OI, mean_O - change_OI @ mean_I


def products(left_MI: Tensor, right_MO: Tensor) -> Tensor:
    """``left.T @ right`` in double precision; a large one as the sum, in double, of blocks of rows in single."""
    if left_MI.numel() * right_MO.shape[1] <= EXACT_PRODUCTS:
        return left_MI.double().T @ right_MO.double()
    total_IO = torch.zeros(left_MI.shape[1], right_MO.shape[1], dtype=torch.float64, device=left_MI.device)
    blocks = (torch.split(rows.float(), ROWS) for rows in (left_MI, right_MO))
    for left_BI, right_BO in zip(*blocks, strict=True):
        total_IO += left_BI.T @ right_BO
    return total_IO


def damped_factor(gram_II: Tensor, alpha: float = ALPHA) -> Tensor:
    """The lower Cholesky factor of a Gram matrix with ``alpha`` times its mean diagonal added to the diagonal.

    Raises:
        DegenerateError: The matrix is not finite.
    """
    if not torch.isfinite(gram_II).all():
        raise DegenerateError("its activations are not finite")
    mean = gram_II.diagonal().mean()
    damping = alpha * mean if mean > 0 else torch.ones_like(mean)  # inputs that are always the same tell nothing
    factor_II: Tensor = torch.linalg.cholesky(gram_II + damping * torch.eye(len(gram_II)).to(gram_II))
    return factor_II


def prefix_prediction(factor_II: Tensor, kept: int) -> Tensor:
    """How the inputs behind the first ``kept`` ones follow from those, ``(C, K)``, for any number of kept ones.

    Args:
        factor_II: Lower Cholesky factor of the inputs' covariance.
        kept: Number of inputs that stay.
    """
    corner_KK, below_CK = factor_II[:kept, :kept], factor_II[kept:, :kept]
    prediction_CK: Tensor = torch.linalg.solve_triangular(corner_KK, below_CK, upper=False, left=False)
    return prediction_CK
