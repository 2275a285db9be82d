"""What is said of codes, against closed forms and torch.distributions."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.distributions import MultivariateNormal, kl_divergence

from genlib.errors import GenlibError
from genlib.metrics.codes import active_units, aggregate_mismatch


def standard(count: int, dimensions: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((count, dimensions))


def whitened(count: int, dimensions: int) -> NDArray[np.float64]:
    """Rows whose mean is 0 and whose unbiased covariance is the identity, but for rounding."""
    rows = standard(count, dimensions)
    rows -= rows.mean(0)
    return rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows.T))).T


def test_a_unit_is_active_when_its_mean_varies_enough() -> None:
    variances = np.array([1.0, 0.0101, 0.0099, 1e-6, 0.0, 0.3])
    means = whitened(200, 6) * np.sqrt(variances) + np.array([0, 0, 5, 5, 5, -7])  # a constant is no information
    assert active_units(means) == 3
    assert active_units(means.astype(np.float32)) == 3
    assert active_units(means, threshold=0.5) == 1
    assert active_units(means, threshold=1e-7) == 5
    assert isinstance(active_units(means), int)


def test_units_that_repeat_each_other_are_all_active() -> None:
    column = whitened(50, 2)[:, :1]
    assert active_units(np.hstack([column, column, -column])) == 3


def test_the_mismatch_has_the_closed_form() -> None:
    assert aggregate_mismatch(whitened(100, 4)) == pytest.approx(0, abs=1e-12)
    assert aggregate_mismatch(whitened(100, 4) + 0.5) == pytest.approx(0.5 * 4 * 0.25)
    assert aggregate_mismatch(2 * whitened(100, 4)) == pytest.approx(0.5 * 4 * (4 - 1 - math.log(4)))
    assert aggregate_mismatch(0.5 * whitened(100, 4)) == pytest.approx(0.5 * 4 * (0.25 - 1 + math.log(4)))


def test_the_mismatch_is_the_divergence_of_the_fitted_gaussian() -> None:
    codes = standard(60, 5) @ standard(5, 5, seed=1) + standard(1, 5, seed=2)
    fitted = MultivariateNormal(torch.from_numpy(codes.mean(0)), torch.from_numpy(np.cov(codes.T)))
    prior = MultivariateNormal(torch.zeros(5).double(), torch.eye(5).double())
    assert aggregate_mismatch(codes) == pytest.approx(kl_divergence(fitted, prior).item(), rel=1e-9)


def test_the_mismatch_does_not_see_beyond_second_moments_and_turns() -> None:
    rows = whitened(100, 3)
    signs = np.sign(standard(4000, 1))
    assert aggregate_mismatch((signs - signs.mean()) / signs.std(ddof=1)) == pytest.approx(0, abs=1e-12)
    turn = np.linalg.qr(standard(3, 3)).Q
    stretched = rows * [1, 2, 3] + [1, 0, 0]
    assert aggregate_mismatch(stretched @ turn) == pytest.approx(aggregate_mismatch(stretched))


def test_draws_of_the_prior_are_as_far_as_stated() -> None:
    count, dimensions = 500, 10
    found = [aggregate_mismatch(standard(count, dimensions, seed)) for seed in range(20)]
    assert np.mean(found) == pytest.approx(dimensions * (dimensions + 3) / (4 * count), rel=0.1)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(GenlibError, match=r"codes: 5 of 5 numbers each; pass at least 6"):
        aggregate_mismatch(standard(5, 5))
    assert aggregate_mismatch(standard(6, 5)) > 0
    with pytest.raises(GenlibError, match=r"codes: without variance in 2 of 4 directions, .*; check the encoder"):
        aggregate_mismatch(np.hstack([standard(50, 2), standard(50, 2)]))
    with pytest.raises(GenlibError, match=r"at least 2 features"):
        active_units(standard(1, 5))
