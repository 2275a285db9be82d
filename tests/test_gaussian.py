"""Draws of the pixel Gaussian and shares of attributes, against numpy."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from genlib.errors import GenlibError
from genlib.metrics import gaussian
from genlib.metrics.attributes import gap, prevalence
from genlib.metrics.gaussian import draw_gaussian, gaussian_pixels

Array = NDArray[Any]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def correlated_images(count: int) -> NDArray[np.uint8]:
    """Images 2 3 2 with unequal means and strongly correlated pixels."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(count, 3)) @ rng.normal(size=(3, 12)) * 20 + rng.uniform(60, 200, 12)
    pixels: NDArray[np.uint8] = (values + rng.normal(size=(count, 12)) * 4).clip(0, 255).astype(np.uint8)
    return pixels.reshape(count, 2, 3, 2)


def test_draws_have_the_mean_and_covariance_of_the_images() -> None:
    images = correlated_images(40)
    flat = images.reshape(40, 12)
    drawn = gaussian_pixels(images, 100_000, generator()).numpy().reshape(-1, 12).astype(np.float64)
    covariance = np.cov(flat, rowvar=False)
    deviations = np.sqrt(np.diag(covariance))
    # Standard errors: of a mean s / sqrt(n) = 0.003 s, of a covariance at most s_i s_j sqrt(2 / n) = 0.0045 s_i s_j.
    assert np.abs((drawn.mean(0) - flat.mean(0)) / deviations).max() < 0.015
    assert np.abs((np.cov(drawn, rowvar=False) - covariance) / np.outer(deviations, deviations)).max() < 0.025


def test_draws_are_normal() -> None:
    drawn = gaussian_pixels(correlated_images(40), 50_000, generator()).numpy().reshape(-1, 12).astype(np.float64)
    scaled = (drawn - drawn.mean(0)) / drawn.std(0)
    assert np.abs((scaled**3).mean(0)).max() < 0.06  # standard errors 0.011 and 0.022
    assert np.abs((scaled**4).mean(0) - 3).max() < 0.12


def test_draws_of_few_images_stay_in_the_space_they_span() -> None:
    images = correlated_images(4)  # rank 3 of 12
    flat = images.reshape(4, 12).astype(np.float64)
    drawn = gaussian_pixels(images, 500, generator()).numpy().reshape(500, 12) - flat.mean(0)
    axes = np.linalg.svd(flat - flat.mean(0))[2]
    assert np.abs(drawn @ axes[3:].T).max() < 1e-3
    assert (np.abs(drawn @ axes[:3].T).max(0) > 5).all()


def test_draws_of_equal_images_are_that_image() -> None:
    images = np.repeat(correlated_images(1), 5, axis=0)
    np.testing.assert_array_equal(draw_gaussian(images, 3, generator()), images[:3])


def test_draws_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images = correlated_images(50)
    np.save(tmp_path / "images.npy", images)
    whole = gaussian_pixels(images, 21, generator())
    for values in (7 * 21, 1):
        monkeypatch.setattr(gaussian, "_CHUNK_VALUES", values)
        chunked = gaussian_pixels(np.load(tmp_path / "images.npy", mmap_mode="r"), 21, generator())
        torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-3)


def test_draws_follow_the_generator() -> None:
    images = correlated_images(20)
    first = draw_gaussian(images, 6, generator())
    np.testing.assert_array_equal(first, draw_gaussian(images, 6, generator()))
    assert (first != draw_gaussian(images, 6, generator(1))).any()
    assert len(np.unique(first.reshape(6, -1), axis=0)) == 6


def test_draws_are_rounded_and_clipped_bytes() -> None:
    images = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), size=(30, 1, 4, 4))
    drawn = draw_gaussian(images, 200, generator())
    exact = gaussian_pixels(images, 200, generator()).numpy()
    assert drawn.dtype == np.uint8
    assert drawn.shape == (200, 1, 4, 4)
    assert exact.min() < -50
    assert exact.max() > 300
    np.testing.assert_array_equal(drawn, np.clip(np.rint(exact), 0, 255))


@pytest.mark.parametrize(
    ("images", "count", "named"),
    [
        (np.zeros((3, 1, 2, 2)), 1, "float64"),
        (np.zeros((3, 4), np.uint8), 1, "(3, 4)"),
        (np.zeros((1, 1, 2, 2), np.uint8), 1, "(1, 1, 2, 2)"),
        (np.zeros((3, 0, 2, 2), np.uint8), 1, "(3, 0, 2, 2)"),
        (np.zeros((3, 1, 2, 2), np.uint8), 0, "count: 0"),
    ],
)
def test_draws_refuse_what_has_no_gaussian(images: Array, count: int, named: str) -> None:
    with pytest.raises(GenlibError, match=re.escape(named)):
        draw_gaussian(images, count, generator())


def test_prevalence_counts_from_the_threshold_on() -> None:
    probabilities = np.array([[0.5, 0.1], [0.49, 0.2], [1.0, 0.3], [0.9, 0.6]], np.float32)
    np.testing.assert_allclose(prevalence(probabilities), [0.75, 0.25])
    np.testing.assert_allclose(prevalence(probabilities, 0.95), [0.25, 0.0])


def test_gap_is_the_mean_absolute_difference() -> None:
    assert gap(np.array([0.2, 0.9, 0.5]), np.array([0.5, 0.3, 0.5])) == pytest.approx(0.3)
    assert gap(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1
    assert gap(np.array([0.3]), np.array([0.3])) == 0


@pytest.mark.parametrize(
    "probabilities",
    [
        np.array([[0.5, -0.1]]),
        np.array([[0.5, 1.1]]),
        np.array([[np.nan, 0.5]]),
        np.zeros((0, 3)),
        np.zeros(3),
        np.zeros((2, 2), bool),
    ],
)
def test_prevalence_refuses_what_is_no_probability(probabilities: Array) -> None:
    with pytest.raises(GenlibError, match="probabilities"):
        prevalence(probabilities)


@pytest.mark.parametrize("threshold", [0.0, 1.0, float("nan")])
def test_prevalence_refuses_thresholds_that_decide_nothing(threshold: float) -> None:
    with pytest.raises(GenlibError, match="threshold"):
        prevalence(np.zeros((1, 1)), threshold)


def test_gap_refuses_other_lengths_and_what_is_no_share() -> None:
    with pytest.raises(GenlibError, match="2 attributes against 1"):
        gap(np.zeros(2), np.zeros(1))
    with pytest.raises(GenlibError, match="shares_b"):
        gap(np.zeros(2), np.array([0.0, 1.5]))
