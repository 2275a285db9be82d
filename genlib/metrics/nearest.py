"""The nearest of many points to any query, in feature or pixel space: exact, at the cost of a few of its dimensions."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genlib.metrics.distances import (
    FLOAT32_LEAST,
    FLOAT32_ROUNDS,
    check_finite,
    check_rows,
    check_same_dimensions,
    pair_squares,
    places,
    rounded_up,
)

_BLOCK_BYTES = 1 << 25  # 32 MiB: what one temporary takes at most
_MOST_AXES = 256
_POINTS_PER_AXIS, _DIMENSIONS_PER_AXIS = 32, 6  # at least: more axes rule out more points, and take longer to find
_FEWEST_AXES = 8  # with fewer, all dimensions are compared
_FIRST = 8  # points of each query whose distances say how far it is worth looking
_CROWDED = 40  # a product compares a pair in a fortieth of the time that its exact distance takes

_Pairs = tuple[NDArray[np.intp], NDArray[np.intp]]  # places in the queries and in the points, each P


class NearestPoints:
    """Points (M D, integer or float) that the nearest of are looked for; they may be memory-mapped.

    No distance is shorter than its projection. So points and queries are projected on some principal axes, the length
    of what is left over being one more coordinate, and whichever point is too far away there is out. The others'
    distances are taken by `pair_squares`: the result is that of comparing all in float64. Memory grows with M: beyond
    the points themselves, by up to 1 KiB each.
    Raises GenlibError for points that are not M D real numbers, hold NaN, infinity or values above 1e15.
    """

    def __init__(self, points: NDArray[Any]) -> None:
        check_rows(points, "points", 1)
        self._points = points
        count, dimensions = points.shape
        axes = min(_MOST_AXES, count // _POINTS_PER_AXIS, dimensions // _DIMENSIONS_PER_AXIS)
        sample = points[np.linspace(0, count - 1, min(count, max(2 * axes, 100))).astype(np.intp)].astype(np.float64)
        check_finite(sample, "points")
        self._centre = sample.mean(axis=0)  # shorter vectors, smaller rounding errors
        self._axes = _principal_axes(sample - self._centre, axes) if axes >= _FEWEST_AXES else None
        width = dimensions if self._axes is None else self._axes.shape[1] + 1
        self._projected = np.empty((count, width), np.float32)
        longest = 0.0
        step = max(1, _BLOCK_BYTES // (8 * dimensions))
        for start in range(0, count, step):
            block = points[start : start + step].astype(np.float64)
            check_finite(block, "points")
            block -= self._centre
            self._projected[start : start + step] = self._project(block)
            longest = max(longest, float(np.einsum("ij,ij->i", block, block).max()))
        self._longest = np.sqrt(longest)
        self._squares = np.einsum("ij,ij->i", self._projected, self._projected)

    def distances(self, queries: NDArray[Any], count: int) -> NDArray[np.float64]:
        """Euclidean distances of each of `queries` (N D) to the `count` nearest points: N count, rising, 0 if equal.

        Any integer or float type. Raises GenlibError for queries as for points, unequal dimensions, and fewer than
        `count` points.
        """
        check_rows(queries, "queries", 1)
        check_rows(self._points, "points", max(1, count))
        check_same_dimensions(queries, self._points)
        rows = queries.astype(np.float64)
        check_finite(rows, "queries")
        nearest = np.empty((len(rows), count))
        crowded = np.zeros(len(rows), dtype=bool)
        step = max(1, _BLOCK_BYTES // max(4 * len(self._points), 8 * rows.shape[1]))
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            near = self._within_reach(block, count)
            many = np.count_nonzero(near, axis=1) > max(2 * _FIRST, len(self._points) // _CROWDED)
            near[many] = False
            nearest[start : start + step][~many] = _nearest(block, self._points, places(near), count)
            crowded[start : start + step] = many
        if crowded.any():  # what is left over is most of a query: noise, for one
            hard = rows[crowded]
            nearest[crowded] = _nearest(hard, self._points, _compared(hard, self._points, count), count)
        return nearest

    def _within_reach(self, rows: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
        """Which points (R M) are, projected, no further from a row than some `count` points are from it."""
        centred = rows - self._centre
        projected = self._project(centred).astype(np.float32)
        own = np.einsum("ij,ij->i", projected, projected, dtype=np.float64)
        lengths = np.sqrt(np.einsum("ij,ij->i", centred, centred))
        projected *= -2  # here, where they are few; a power of two rounds nothing
        lower = projected @ self._projected.T
        lower += self._squares  # now the squared distance of the projections, less the square of the row
        # Twice the bound on the rounding error of a sum of products (Higham 2002, sec. 3.1), of 24 more than there are:
        # far more than what float64 rounds in projecting.
        rounded = FLOAT32_ROUNDS * (lengths + self._longest) ** 2 + FLOAT32_LEAST
        error = 2 * (projected.shape[1] + 32) * rounded
        within: NDArray[np.bool_] = lower <= rounded_up(self._reach(rows, lower, count) + error - own)[:, np.newaxis]
        return within

    def _reach(self, rows: NDArray[np.float64], lower: NDArray[np.float32], count: int) -> NDArray[np.float64]:
        """Squared distance of each row within which there are `count` points or more: of the best of each slice."""
        points = len(self._points)
        bounds = np.linspace(0, points, min(points, max(_FIRST, count)) + 1).astype(np.intp).tolist()
        every = np.arange(len(rows))
        near = np.stack(
            [
                pair_squares(rows, self._points, every, start + lower[:, start:end].argmin(axis=1))
                for start, end in pairwise(bounds)
            ],
            axis=1,
        )
        reach: NDArray[np.float64] = np.partition(near, count - 1, axis=1)[:, count - 1]
        return reach

    def _project(self, centred: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._axes is None:
            return centred
        along = centred @ self._axes
        left = np.einsum("ij,ij->i", centred, centred) - np.einsum("ij,ij->i", along, along)
        return np.column_stack([along, np.sqrt(np.maximum(left, 0))])


def _principal_axes(centred: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Orthonormal columns (D `count`) along which a sample of points (N D, N >= `count`) spreads most."""
    _, weights = np.linalg.eigh(centred @ centred.T)
    return np.linalg.qr(centred.T @ weights[:, -count:])[0]


def _nearest(rows: NDArray[np.float64], points: NDArray[Any], pairs: _Pairs, count: int) -> NDArray[np.float64]:
    """Distances of the `count` nearest of its points to each row that is in a pair, in the order of rows."""
    query, point = pairs
    squared = pair_squares(rows, points, query, point)
    order = np.lexsort((squared, query))
    begins = np.searchsorted(query[order], np.unique(query))
    nearest: NDArray[np.float64] = np.sqrt(squared[order][begins[:, np.newaxis] + np.arange(count)])
    return nearest


def _compared(rows: NDArray[np.float64], points: NDArray[Any], count: int) -> _Pairs:
    """Pairs among which are the `count` nearest points of each row: all are compared, by products in float32."""
    centre = rows.mean(axis=0)  # shorter vectors, smaller rounding errors
    narrow = (rows - centre).astype(np.float32)
    lengths = np.linalg.norm(narrow, axis=1).astype(np.float64)
    narrow *= -2  # here, where they are few; a power of two rounds nothing
    best = np.full((len(rows), count), np.inf, np.float32)
    error = np.zeros(len(rows))
    found: list[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]] = []
    step = max(1, _BLOCK_BYTES // max(4 * len(rows), 8 * rows.shape[1]))
    for start in range(0, len(points), step):
        others = (points[start : start + step] - centre).astype(np.float32)
        squares = np.einsum("ij,ij->i", others, others)
        compared = narrow @ others.T
        compared += squares  # now the squared distance, less the square of the row
        # Twice the bound on the rounding error of a sum of products (Higham 2002, sec. 3.1): it is in both compared.
        rounded = FLOAT32_ROUNDS * (lengths + np.sqrt(float(squares.max()))) ** 2 + FLOAT32_LEAST
        bound = 2 * (rows.shape[1] + 8) * rounded
        error = np.maximum(error, bound)
        nearest = np.partition(compared, count - 1, axis=1)[:, :count] if count < compared.shape[1] else compared
        best = np.sort(np.concatenate([best, nearest], axis=1), axis=1)[:, :count]
        query, point = places(compared <= (best[:, -1] + error)[:, np.newaxis])
        found.append((query, point + start, compared[query, point]))
    query, point, value = (np.concatenate(parts) for parts in zip(*found, strict=True))
    near = value <= (best[:, -1] + error)[query]
    return query[near], point[near]
