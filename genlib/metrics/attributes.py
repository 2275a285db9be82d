"""Which attributes a set of images has, as a network with one output for each attribute sees them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genlib.errors import GenlibError


def prevalence(probabilities: NDArray[Any], threshold: float = 0.5) -> NDArray[np.float64]:
    """Share of the images judged to have each attribute: A float64 in 0..1, from `probabilities` (N A in 0..1, N >= 1).

    An image counts from `threshold` (above 0, below 1) on. Raises GenlibError for values that are no probabilities:
    logits are refused.
    """
    if not 0 < threshold < 1:
        raise GenlibError(f"threshold: {threshold} is no probability between 0 and 1; pass one, such as 0.5")
    return np.asarray((_unit_values(probabilities, "probabilities", 2) >= threshold).mean(axis=0), np.float64)


def gap(shares_a: NDArray[Any], shares_b: NDArray[Any]) -> float:
    """Mean over attributes of |share in one set - share in the other|: 0 (the same) to 1.

    Both are A shares in 0..1, as `prevalence` gives them. Raises GenlibError if they are not, or of unequal length.
    """
    a, b = _unit_values(shares_a, "shares_a", 1), _unit_values(shares_b, "shares_b", 1)
    if a.shape != b.shape:
        raise GenlibError(f"shares: {a.size} attributes against {b.size}; measure both sets with the same network")
    return float(np.abs(a - b).mean())


def _unit_values(values: NDArray[Any], name: str, ndim: int) -> NDArray[np.float64]:
    if values.ndim != ndim or values.size == 0 or values.dtype.kind not in "iuf":
        raise GenlibError(
            f"{name}: {values.dtype} array of shape {values.shape}; pass numbers on {ndim} axes, the last of attributes"
        )
    lowest, highest = float(values.min()), float(values.max())
    # Written so that NaN fails too.
    if not (lowest >= 0 and highest <= 1):
        raise GenlibError(
            f"{name}: values from {lowest:.3g} to {highest:.3g}; pass values in 0..1, such as the sigmoid of logits"
        )
    return values.astype(np.float64)
