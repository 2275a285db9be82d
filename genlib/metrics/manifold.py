"""Which part of the real images the samples reach, and the other way round, from the nearest neighbours of features."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genlib.errors import GenlibError
from genlib.metrics.distances import check_same_dimensions, feature_rows, squared_distances


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
    own (Kynkaanniemi et al. 2019, eq. 2 and 3). Density: in how many real balls a sample lies, mean, over k; coverage:
    share of the real balls that hold a sample (Naeem et al. 2020, eq. 3 and 4). Density is not raised by the large
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
        squared_radii = _squared_radii(rows, self._k)
        precise = balls = 0
        recalled, covered = (np.zeros(len(self._rows), dtype=bool) for _ in range(2))
        for start, squared in squared_distances(rows, self._rows):
            precise += int((squared <= self._squared_radii).any(axis=1).sum())
            recalled |= (squared <= squared_radii[start : start + len(squared), np.newaxis]).any(axis=0)
            inside = squared < self._squared_radii
            balls += int(np.count_nonzero(inside))
            covered |= inside.any(axis=0)
        return Prdc(
            precision=precise / len(rows),
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
    for start, squared in squared_distances(rows, rows):
        here = np.arange(len(squared))
        squared[here, start + here] = np.inf
        squared.partition(k - 1, axis=1)
        radii[start : start + len(squared)] = squared[:, k - 1]
    return radii
