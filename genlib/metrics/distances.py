"""Euclidean distances between rows, a block at a time: what neighbours are found with."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genlib.errors import GenlibError

FLOAT32_ROUNDS, FLOAT32_LEAST = 2.0**-24, 2.0**-126  # relative error; what is smaller may become 0
_BLOCK_BYTES = 1 << 25  # 32 MiB: what one temporary takes at most
_PAIR_BYTES = 1 << 22  # of two temporaries that stay in the processor's cache
_SLICES = 32
_LARGEST = 1e15  # squares of larger values, summed, overflow float32


def feature_rows(features: NDArray[Any], name: str, at_least: int = 1) -> NDArray[np.float64]:
    """`features` (N D, integer or float) as float64, for functions that compare sets of them.

    Raises GenlibError, with `name`, when they are not N D real numbers with N >= `at_least` and D >= 1, or hold NaN,
    infinity or values above 1e15.
    """
    check_rows(features, name, at_least)
    rows = features.astype(np.float64)
    check_finite(rows, name)
    return rows


def check_same_dimensions(a: NDArray[Any], b: NDArray[Any]) -> None:
    """GenlibError unless the rows of both have the same length."""
    if a.shape[1] != b.shape[1]:
        raise GenlibError(
            f"features: {a.shape[1]} dimensions against {b.shape[1]}; measure both sets with the same network"
        )


def pair_squares(
    queries: NDArray[np.float64], points: NDArray[Any], query: NDArray[np.intp], point: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Squared distances of the pairs that two indices of equal length P name, of `queries` (N D) and `points` (M D): P.

    From differences, not from |a|^2 + |b|^2 - 2ab, whose digits cancel: so equal rows are exactly 0 apart, a pair has
    the same distance in whichever order, and ties are ties.
    """
    squared = np.empty(len(query))
    step = max(1, _PAIR_BYTES // (16 * queries.shape[1]))
    for start in range(0, len(query), step):
        difference = queries[query[start : start + step]]
        difference -= points[point[start : start + step]]
        squared[start : start + step] = np.einsum("ij,ij->i", difference, difference)
    return squared


def rough_squares(
    queries: NDArray[np.float64], points: NDArray[np.float64]
) -> Iterator[tuple[int, NDArray[np.float32], float]]:
    """Squared distances of `queries` (N D) to all `points` (M D) by products: (first row, R M, error), some rows each.

    Many times as fast as differences; no value is further than `error` from that of `pair_squares`.
    """
    centre = points.mean(axis=0)  # shorter vectors, smaller rounding errors
    others = points - centre
    squares = np.einsum("ij,ij->i", others, others)
    largest, offset = float(squares.max()), float(np.abs(centre).max()) * np.sqrt(len(centre))
    narrow, short = others.astype(np.float32), squares.astype(np.float32)
    step = max(1, _BLOCK_BYTES // (4 * len(points)))
    for start in range(0, len(queries), step):
        rows = queries[start : start + step] - centre
        lengths = np.einsum("ij,ij->i", rows, rows)
        rows *= -2  # here, where they are few; a power of two rounds nothing
        rough = rows.astype(np.float32) @ narrow.T
        rough += lengths.astype(np.float32)[:, np.newaxis]
        rough += short
        # Twice the bound on the rounding error of a sum of products (Higham 2002, sec. 3.1), and what centring rounds.
        longest = np.sqrt(float(lengths.max())) + np.sqrt(largest)
        rounded = FLOAT32_ROUNDS * longest**2 + FLOAT32_LEAST + 2.0**-53 * (longest + offset) ** 2
        yield start, rough, 2 * (points.shape[1] + 8) * rounded


def least(values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """A bound on the `count` smallest of each row (R M, M >= `count`): R 1, the largest of them or little above it.

    That of the smallest values of some slices of the row: in a thirtieth of the time of `np.partition` of all of it.
    """
    slices = np.linspace(0, values.shape[1], min(values.shape[1], max(_SLICES, count)), endpoint=False).astype(np.intp)
    bound: NDArray[np.float32] = np.partition(np.minimum.reduceat(values, slices, axis=1), count - 1, axis=1)
    return bound[:, count - 1 : count]


def rounded_up(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Float32 numbers, none below its value: bounds to compare float32 with, which is faster than in float64."""
    return np.nextafter(values.astype(np.float32), np.float32(np.inf))


def places(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of what is true in a matrix, row by row: as `np.nonzero`, in a tenth of its time."""
    row, column = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return row, column


def check_rows(features: NDArray[Any], name: str, at_least: int) -> None:
    """GenlibError unless these are N D real numbers with N >= `at_least` and D >= 1."""
    if features.ndim != 2 or features.dtype.kind not in "iuf" or len(features) < at_least or features.shape[1] < 1:
        raise GenlibError(
            f"{name}: {features.dtype} array of shape {features.shape}; pass real numbers of shape N x D, "
            f"N >= {at_least}"
        )


def check_finite(rows: NDArray[np.float64], name: str) -> None:
    """GenlibError if a value is NaN, infinite or above 1e15."""
    largest = float(np.abs(rows).max())
    # Written so that NaN fails too.
    if not largest <= _LARGEST:
        raise GenlibError(
            f"{name}: a value of {largest:.3g}; pass finite values up to {_LARGEST:.0e}: find which images or which "
            f"network made it"
        )
