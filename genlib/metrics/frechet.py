"""Squared Frechet distance between Gaussians fitted to two sets of features: the FID, given a network's features."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genlib.errors import GenlibError

_CHUNK_VALUES = 1 << 22  # 32 MiB of float64 at a time


@dataclass(frozen=True, eq=False)
class Statistics:
    """Gaussian fitted to features.

    mean: D float64; covariance: D D float64, symmetric, unbiased (divided by count - 1); count: how many features.
    Raises GenlibError for shapes that disagree, a count below 2, values that are NaN or infinite, and a covariance that
    is not symmetric.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    count: int

    def __post_init__(self) -> None:
        dimensions = self.mean.size
        if self.mean.shape != (dimensions,) or self.covariance.shape != (dimensions, dimensions):
            raise GenlibError(
                f"statistics: mean has shape {self.mean.shape} and covariance {self.covariance.shape}; "
                f"they must be D and D x D: make them with statistics()"
            )
        if self.count < 2:
            raise GenlibError(f"statistics: count is {self.count}; a covariance needs at least 2 features")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.covariance).all()):
            raise GenlibError(
                "statistics: mean or covariance is NaN or infinite; check the features (squares can overflow)"
            )
        if not np.allclose(self.covariance, self.covariance.T):
            raise GenlibError("statistics: the covariance is not symmetric; make it with statistics()")


def statistics(features: NDArray[Any]) -> Statistics:
    """Mean and unbiased covariance of `features` (N D, integer or float, N >= 2), accumulated in float64 by chunks.

    A memory-mapped array is never copied whole. Raises GenlibError when features are not N D real numbers, are fewer
    than 2, or hold NaN or infinity.
    """
    if features.ndim != 2 or features.dtype.kind not in "iuf":
        raise GenlibError(
            f"features: {features.dtype} array of shape {features.shape}; pass real numbers of shape N x D"
        )
    count, dimensions = features.shape
    if count < 2 or dimensions < 1:
        raise GenlibError(f"features: shape {features.shape}; pass at least 2 features of at least 1 dimension")
    total = np.zeros(dimensions)
    for chunk in float64_chunks(features):
        if not np.isfinite(chunk).all():
            raise GenlibError("features: NaN or infinite values; find which images or which network made them")
        total += chunk.sum(axis=0)
    mean = total / count
    # The second pass centres before it multiplies: E[xx'] - E[x]E[x]' would lose the digits that the two share.
    scatter = np.zeros((dimensions, dimensions))
    for chunk in float64_chunks(features):
        centred = chunk - mean
        scatter += centred.T @ centred
    return Statistics(mean=mean, covariance=scatter / (count - 1), count=count)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Squared Frechet distance between two Gaussians (>= 0, in squared units of the features).

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), Heusel et al. 2017, eq. 6. Its estimate from N features is biased
    upwards, the more the smaller N: compare only distances made from equal counts.

    C_a C_b is not symmetric, and its matrix square root is complex as soon as a covariance is singular. Its eigenvalues
    are those of C_a^(1/2) C_b C_a^(1/2), which is symmetric and positive semidefinite: so the trace of the root is the
    sum of the roots of real, non-negative eigenvalues, whatever the ranks.
    Raises GenlibError when the dimensions differ or a covariance is not positive semidefinite.
    """
    if a.mean.shape != b.mean.shape:
        raise GenlibError(
            f"features: {a.mean.size} dimensions against {b.mean.size}; measure both sets with the same network"
        )
    values, vectors = np.linalg.eigh(a.covariance)
    roots = _roots(values, scale=float(values[-1]))
    root_a = (vectors * roots) @ vectors.T
    product = root_a @ b.covariance @ root_a
    scale = float(values[-1]) * float(np.linalg.eigvalsh(b.covariance)[-1])
    trace_of_root = _roots(np.linalg.eigvalsh((product + product.T) / 2), scale=scale).sum()
    shift = a.mean - b.mean
    distance = shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * trace_of_root
    # Equal Gaussians leave the rounding error of a difference of traces, of either sign.
    return max(0.0, float(distance))


def float64_chunks(rows: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """Consecutive rows of `rows` (N D) as float64 copies of about 32 MiB: how memory-mapped arrays are read."""
    step = max(1, _CHUNK_VALUES // rows.shape[1])
    for start in range(0, len(rows), step):
        yield rows[start : start + step].astype(np.float64)


def _roots(eigenvalues: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Square roots of the eigenvalues of a matrix that is positive semidefinite but for rounding.

    `scale` is the size of the numbers it was computed from. Eigenvalues within the rounding error D * eps * scale of
    zero, of either sign, count as zero: a root would blow 1e-16 of noise up to 1e-8. A clearly negative one is no
    rounding error and is refused.
    """
    rounding = len(eigenvalues) * np.finfo(np.float64).eps * max(scale, 0.0)
    lowest = float(eigenvalues[0])
    if lowest < -100 * rounding:
        raise GenlibError(
            f"covariance: eigenvalue {lowest:.3g} is negative, so it is none; make the statistics with statistics()"
        )
    return np.sqrt(np.where(eigenvalues > rounding, eigenvalues, 0.0))
