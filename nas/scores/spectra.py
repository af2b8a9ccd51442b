"""What singular values say about a matrix, from the smaller of its two Gram matrices: many times faster than an SVD.

Squaring costs half of the digits; float64 has twice those of the float32 that matrices come in.

Legend of tensor suffixes: R rows, C columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def effective_rank(matrix_RC: Tensor) -> float:
    """The exponential of the entropy of the singular values, normalised to sum 1; 0 for a matrix of zeros.

    Source: Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
    """
    singular = squared_singular_values(matrix_RC).sqrt()
    if not float(singular.sum()) > 0:
        return 0.0 if torch.isfinite(singular).all() else math.nan
    share = singular / singular.sum()
    return float(torch.special.entr(share).sum().exp())


def principal_components(matrix_RC: Tensor, variance: float) -> int:
    """How many principal components of the rows hold at least this share of their variance; 0 where rows are equal."""
    matrix_RC = matrix_RC.double()  # centring in float32 would leave equal rows a variance of their own
    squared = squared_singular_values(matrix_RC - matrix_RC.mean(dim=0)).flip(0)
    total = float(squared.sum())
    if not total > 0:
        return 0
    share = squared.cumsum(0) / total
    return min(int(torch.count_nonzero(share < variance)) + 1, len(share))


def nuclear_norm(matrix_RC: Tensor) -> float:
    """The sum of the singular values."""
    scale = float(matrix_RC.abs().max())  # so that squares do not overflow
    return scale * float(squared_singular_values(matrix_RC / scale).sqrt().sum()) if scale > 0 else scale


def squared_singular_values(matrix_RC: Tensor) -> Tensor:
    """The squares of the singular values in ascending order, float64."""
    matrix_RC = matrix_RC.double()
    rows, columns = matrix_RC.shape
    gram = matrix_RC @ matrix_RC.T if rows <= columns else matrix_RC.T @ matrix_RC
    squared: Tensor = torch.linalg.eigvalsh(gram).clamp(min=0)
    return squared
