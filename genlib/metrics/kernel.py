"""Kernel distance between two sets of features: the KID, given a network's features."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genlib.errors import GenlibError
from genlib.metrics.distances import check_same_dimensions, feature_rows

_TILE = 1024  # rows and columns of the kernel matrix at a time: 8 MiB


@dataclass(frozen=True)
class Kid:
    """A kernel distance (see `polynomial_mmd`; may be negative) and the standard error of it as an estimate."""

    value: float
    standard_error: float


def polynomial_mmd(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Squared maximum mean discrepancy between features `a` (N D) and `b` (M D), with the kernel (xy/D + 1)^3.

    Unbiased whatever N and M (Binkowski et al. 2018, eq. 4, with every pair of each set but those of a row with
    itself), unlike a Frechet distance: its mean over draws of equal distributions is 0, so single values can be
    negative. All pairs are used, which has less variance than the mean over subsets that some programs report.
    Raises GenlibError for fewer than 2 rows, unequal dimensions, NaN and infinity.
    """
    rows_a, rows_b = feature_rows(a, "a", 2), feature_rows(b, "b", 2)
    check_same_dimensions(rows_a, rows_b)
    sums = _within([rows_a]), _within([rows_b]), _across([rows_a], [rows_b])
    return _mmd(sums, (len(rows_a), len(rows_b)))


def kid(a: NDArray[Any], b: NDArray[Any], generator: torch.Generator, blocks: int = 10) -> Kid:
    """`polynomial_mmd(a, b)` with its standard error; see `KernelReference`, which is for many `a` against one `b`."""
    return KernelReference(b, generator, blocks).distance(a)


class KernelReference:
    """Features (M D) that others are compared with: what depends on them alone is computed once.

    The standard error is the jackknife's: both sets are divided at random into `blocks` blocks (at least 2), and the
    distance is computed without the i-th block of each, for every i, from sums over blocks of the kernel. It is itself
    uncertain by about 1 / sqrt(2 (blocks - 1)), a quarter for 10 blocks, and two fifths too large where the
    distributions are equal. `generator` (on the CPU) decides the division: drawn from here, and never by `distance`,
    whose results so do not depend on the order of calls.
    Raises GenlibError for fewer than 2 * blocks rows, NaN and infinity.
    """

    def __init__(self, features: NDArray[Any], generator: torch.Generator, blocks: int = 10) -> None:
        if blocks < 2:
            raise GenlibError(f"blocks: {blocks}; a standard error needs at least 2")
        rows = feature_rows(features, "reference features", 2 * blocks)
        self._seed = int(torch.randint(2**62, (), generator=generator))
        self._blocks = _divided(rows, generator, blocks)
        self._within = _within(self._blocks)

    def distance(self, features: NDArray[Any]) -> Kid:
        """The distance of `features` (N D, N >= 2 * blocks), with its standard error. Errors as above."""
        count = len(self._blocks)
        rows = feature_rows(features, "features", 2 * count)
        check_same_dimensions(rows, self._blocks[0])
        divided = _divided(rows, torch.Generator().manual_seed(self._seed), count)
        sizes = [np.array([len(block) for block in of_one]) for of_one in (divided, self._blocks)]
        sums = _within(divided), self._within, _across(divided, self._blocks)
        without = []
        for block in range(count):
            kept = np.arange(count) != block
            without.append(
                _mmd([table[np.ix_(kept, kept)] for table in sums], [int(size[kept].sum()) for size in sizes])
            )
        value = _mmd(sums, [int(size.sum()) for size in sizes])
        # Efron & Stein 1981, eq. 1.4, with blocks in the place of observations.
        return Kid(value, float(np.sqrt((count - 1) * np.var(without))))


def _mmd(sums: Sequence[NDArray[np.float64]], counts: Sequence[int]) -> float:
    """The estimate from the kernel's sums within a, within b and across, and the counts of a and b.

    The sums are over blocks and leave out the pairs of a row with itself.
    """
    within_a, within_b, across = (float(table.sum()) for table in sums)
    a, b = counts
    return within_a / (a * (a - 1)) + within_b / (b * (b - 1)) - 2 * across / (a * b)


def _divided(rows: NDArray[np.float64], generator: torch.Generator, blocks: int) -> list[NDArray[np.float64]]:
    """The rows in random order, as blocks of equal size (give or take one)."""
    return np.array_split(rows[torch.randperm(len(rows), generator=generator).numpy()], blocks)


def _across(a: list[NDArray[np.float64]], b: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Sums of the kernel over each pair of a block of `a` and one of `b`."""
    return np.array([[_kernel_sum(block_a, block_b) for block_b in b] for block_a in a])


def _within(blocks: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Sums of the kernel over each pair of blocks, without the pairs of a row with itself; symmetric."""
    sums = np.zeros((len(blocks), len(blocks)))
    for i, block in enumerate(blocks):
        for j in range(i):
            sums[i, j] = sums[j, i] = _kernel_sum(block, blocks[j])
        itself = np.einsum("ij,ij->i", block, block) / block.shape[1] + 1
        sums[i, i] = _kernel_sum(block, block) - float((itself**3).sum())
    return sums


def _kernel_sum(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    total = 0.0
    for start_a in range(0, len(a), _TILE):
        scaled = a[start_a : start_a + _TILE] / a.shape[1]
        for start_b in range(0, len(b), _TILE):
            base = scaled @ b[start_b : start_b + _TILE].T
            base += 1
            total += float(np.einsum("ij,ij,ij->i", base, base, base).sum())  # the sum of cubes, in one pass
    return total
