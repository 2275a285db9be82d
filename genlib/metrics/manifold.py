"""Which part of the real images the samples reach, and the other way round, from the nearest neighbours of features."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genlib.errors import GenlibError
from genlib.metrics.distances import (
    check_same_dimensions,
    feature_rows,
    least,
    pair_squares,
    places,
    rough_squares,
    rounded_up,
)


@dataclass(frozen=True)
class Prdc:
    """Precision, recall and coverage in 0..1, density from 0 (it may be above 1). See `Manifold`."""

    precision: float
    recall: float
    density: float
    coverage: float


class Manifold:
    """Features of real images (N D), each with a ball around it that reaches to its `k`-th nearest neighbour.

    The point itself is no neighbour of its own, but an equal one is: `k` duplicates make the radius 0.

    Precision: share of the samples in some real ball; recall: share of the real images in some ball of the samples'
    own (Kynkaanniemi et al. 2019, eq. 2). Density: in how many real balls a sample lies, mean, over k; coverage:
    share of the real balls that hold a sample (Naeem et al. 2020). Density is not raised by the large
    balls of outliers as precision is, and coverage needs no balls of the samples.

    The border of a ball belongs to it for precision and recall (`<=`, as in the paper's eq. 1: a copy of a real image
    is precise even where the radius is 0) but not for density and coverage (`<`, as the authors' code has it, so that
    the real images themselves have density 1). Memory grows with N, time with N^2.
    Raises GenlibError for k < 1, not more than k rows, NaN and infinity.
    """

    def __init__(self, features: NDArray[Any], k: int) -> None:
        self._k = k
        self._rows = _rows(features, "reference features", k)
        self._squared_radii = _squared_radii(self._rows, k)

    def compare(self, samples: NDArray[Any]) -> Prdc:
        """Precision, recall, density and coverage of the features of samples (M D, M > k). Errors as above.

        All four depend on how many rows there are, of either: compare only values made from equal counts.
        """
        rows = _rows(samples, "samples", self._k)
        check_same_dimensions(rows, self._rows)
        radii, real_radii = _squared_radii(rows, self._k), self._squared_radii
        precise, recalled, covered = (np.zeros(count, dtype=bool) for count in (len(rows), *2 * [len(self._rows)]))
        balls = 0
        for start, rough, error in rough_squares(rows, self._rows):
            here = slice(start, start + len(rough))
            # Rounding decides nothing: what is as near to a border as that is measured again.
            inside, sample, real = _sides(rough, real_radii, error)
            exact = pair_squares(rows[here], self._rows, sample, real)
            within = exact < real_radii[real]
            balls += int(np.count_nonzero(inside)) + int(within.sum())
            covered |= inside.any(axis=0)
            covered[real[within]] = True
            precise[here] |= inside.any(axis=1)
            precise[start + sample[exact <= real_radii[real]]] = True
            inside, sample, real = _sides(rough, radii[here, np.newaxis], error)
            exact = pair_squares(rows[here], self._rows, sample, real)
            recalled |= inside.any(axis=0)
            recalled[real[exact <= radii[start + sample]]] = True
        return Prdc(
            precision=float(precise.mean()),
            recall=float(recalled.mean()),
            density=balls / (self._k * len(rows)),
            coverage=float(covered.mean()),
        )


def _rows(features: NDArray[Any], name: str, k: int) -> NDArray[np.float64]:
    if k < 1:
        raise GenlibError(f"k: {k}; pass how many neighbours the balls reach to, at least 1")
    return feature_rows(features, name, k + 1)


def _squared_radii(rows: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Squared distance of each row to its k-th nearest among the others."""
    radii = np.empty(len(rows))
    for start, rough, error in rough_squares(rows, rows):
        here = np.arange(len(rough))
        rough[here, start + here] = np.inf
        row, other = places(rough <= rounded_up(least(rough, k).astype(np.float64) + 2 * error))
        exact = pair_squares(rows[start : start + len(rough)], rows, row, other)
        radii[start + here] = exact[np.lexsort((exact, row))][np.searchsorted(row, here) + k - 1]
    return radii


def _sides(
    rough: NDArray[np.float32], radii: NDArray[np.float64], error: float
) -> tuple[NDArray[np.bool_], NDArray[np.intp], NDArray[np.intp]]:
    """Which squared distances are surely below the squared radii, and the places of those that may be below or not."""
    inside = rough < -rounded_up(error - radii)
    unsure = rough <= rounded_up(radii + error)
    unsure ^= inside
    return inside, *places(unsure)
