"""Frechet distance, class shares, reconstruction errors and PCA, against independently computed values."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from numpy.typing import NDArray

from genlib.errors import GenlibError
from genlib.metrics import frechet, pca
from genlib.metrics.classes import (
    class_shares,
    covered,
    entropy_nats,
    inception_style_score,
    kl_to_uniform,
    mean_confidence,
    total_variation,
)
from genlib.metrics.frechet import Statistics, frechet_distance, statistics
from genlib.metrics.pca import PCA, fit_pca
from genlib.metrics.reconstruction import image_mse, mean_psnr, psnr, unit_range

Array = NDArray[Any]


def random_features(seed: int, count: int, dimensions: int) -> NDArray[np.float64]:
    """Correlated features with a mean that is not 0."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, dimensions)) @ rng.normal(size=(dimensions, dimensions)) + rng.normal(
        size=dimensions
    )


# Statistics


def test_statistics_are_numpys_mean_and_unbiased_covariance() -> None:
    features = random_features(0, 200, 7)
    fitted = statistics(features)
    np.testing.assert_allclose(fitted.mean, features.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(fitted.covariance, np.cov(features, rowvar=False), rtol=1e-12)
    assert fitted.count == 200


def test_statistics_do_not_depend_on_chunks_or_order(monkeypatch: pytest.MonkeyPatch) -> None:
    features = random_features(1, 500, 6)
    whole = statistics(features)
    monkeypatch.setattr(frechet, "_CHUNK_VALUES", 6 * 7)  # 7 rows at a time: 500 is no multiple
    chunked = statistics(features[::-1])
    np.testing.assert_allclose(chunked.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(chunked.covariance, whole.covariance, rtol=1e-11)


def test_statistics_are_float64_even_far_from_the_origin() -> None:
    features = (random_features(2, 1000, 3) + 1e4).astype(np.float32)
    expected = np.cov(features.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(statistics(features).covariance, expected, rtol=1e-10)


def test_statistics_of_a_memory_mapped_array(tmp_path: Path) -> None:
    features = np.random.default_rng(3).integers(0, 256, size=(40, 5), dtype=np.uint8)
    np.save(tmp_path / "features.npy", features)
    fitted = statistics(np.load(tmp_path / "features.npy", mmap_mode="r"))
    np.testing.assert_allclose(fitted.covariance, np.cov(features, rowvar=False), rtol=1e-12)


@pytest.mark.parametrize(
    ("features", "named"),
    [
        (np.array([[0.0, 1.0], [np.nan, 1.0]]), "NaN"),
        (np.array([[0.0, 1.0], [np.inf, 1.0]]), "NaN or infinite"),
        (np.array([[0.0, 1e300], [0.0, -1e300]]), "overflow"),
        (np.zeros((1, 4)), r"\(1, 4\)"),
        (np.zeros((4, 0)), r"\(4, 0\)"),
        (np.zeros(4), r"\(4,\)"),
        (np.zeros((4, 4), dtype=complex), "complex"),
        (np.zeros((4, 4), dtype=bool), "bool"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_statistics_refuse_what_has_none(features: Array, named: str) -> None:
    with pytest.raises(GenlibError, match=named):
        statistics(features)


def test_hand_made_statistics_are_checked() -> None:
    for mean, covariance, count, named in [
        (np.zeros(2), np.eye(3), 10, "shape"),
        (np.zeros((1, 2)), np.eye(2), 10, "shape"),
        (np.zeros(2), np.eye(2), 1, "count is 1"),
        (np.array([0.0, np.nan]), np.eye(2), 10, "NaN"),
        (np.zeros(2), np.array([[1.0, 0.5], [0.0, 1.0]]), 10, "symmetric"),
    ]:
        with pytest.raises(GenlibError, match=named):
            Statistics(mean, covariance, count)


# Frechet distance


def test_frechet_distance_of_diagonal_gaussians_is_the_closed_form() -> None:
    means = np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, 0.5])
    deviations = np.array([1.0, 2.0, 0.1]), np.array([3.0, 0.5, 0.1])
    a, b = (Statistics(m, np.diag(s**2), 10) for m, s in zip(means, deviations, strict=True))
    expected = np.sum((means[0] - means[1]) ** 2) + np.sum((deviations[0] - deviations[1]) ** 2)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_frechet_distance_agrees_with_sqrtm(seed: int) -> None:
    a, b = statistics(random_features(seed, 300, 16)), statistics(random_features(seed + 100, 300, 16))
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * np.real(root))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_is_zero_for_equals_and_symmetric() -> None:
    a, b = statistics(random_features(0, 300, 16)), statistics(random_features(1, 300, 16))
    scale = float(np.trace(a.covariance))
    assert 0 <= frechet_distance(a, a) < 1e-10 * scale
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)
    assert frechet_distance(a, b) > 0.01 * scale


def test_frechet_distance_grows_by_the_squared_shift() -> None:
    features = random_features(0, 300, 8)
    direction = np.ones(8) / np.sqrt(8)
    here = statistics(features)
    distances = [frechet_distance(here, statistics(features + step * direction)) for step in (0.0, 1.0, 2.0, 5.0)]
    np.testing.assert_allclose(distances, [0.0, 1.0, 4.0, 25.0], atol=1e-9)


def test_frechet_distance_of_rank_deficient_features() -> None:
    """8 images in 32 dimensions: the distance does not see the 24 dimensions without any, added by a rotation."""
    rotation = np.linalg.qr(np.random.default_rng(5).normal(size=(32, 32))).Q
    small = random_features(3, 300, 8), random_features(4, 300, 8)
    expected = frechet_distance(statistics(small[0]), statistics(small[1]))
    padded = [statistics(np.pad(features, ((0, 0), (0, 24))) @ rotation) for features in small]
    assert frechet_distance(padded[0], padded[1]) == pytest.approx(expected, rel=1e-9)
    few = statistics(random_features(6, 8, 32))
    assert frechet_distance(few, few) < 1e-7 * float(np.trace(few.covariance))


def test_frechet_distance_of_gaussians_in_orthogonal_subspaces() -> None:
    """The product of the covariances is 0 but for rounding, so the traces just add up."""
    rotation = np.linalg.qr(np.random.default_rng(6).normal(size=(16, 16))).Q
    halves = np.pad(np.eye(8), ((0, 0), (0, 8))), np.pad(np.eye(8), ((0, 0), (8, 0)))
    a, b = (Statistics(np.zeros(16), (half @ rotation).T @ (half @ rotation), 10) for half in halves)
    assert frechet_distance(a, b) == pytest.approx(16, rel=1e-6)


def test_frechet_distance_of_constant_features_is_the_squared_distance_of_means() -> None:
    a, b = statistics(np.full((4, 3), 1.0)), statistics(np.full((4, 3), 3.0))
    assert frechet_distance(a, b) == pytest.approx(12.0)


def test_frechet_distance_refuses_other_networks_features_and_impossible_covariances() -> None:
    a = statistics(random_features(0, 50, 3))
    with pytest.raises(GenlibError, match="3 dimensions against 4"):
        frechet_distance(a, statistics(random_features(0, 50, 4)))
    with pytest.raises(GenlibError, match="negative"):
        frechet_distance(Statistics(np.zeros(3), np.diag([1.0, 1.0, -0.1]), 10), a)
    with pytest.raises(GenlibError, match="negative"):
        frechet_distance(a, Statistics(np.zeros(3), np.diag([1.0, 1.0, -0.1]), 10))


# Classes


def test_class_shares_count_every_class() -> None:
    np.testing.assert_array_equal(class_shares(np.array([0, 2, 2, 3]), 5), [0.25, 0, 0.5, 0.25, 0])


@pytest.mark.parametrize("labels", [np.array([0, 5]), np.array([-1, 0]), np.array([0.5]), np.zeros((2, 2), int)])
def test_class_shares_refuse_what_is_no_label(labels: Array) -> None:
    with pytest.raises(GenlibError, match="labels"):
        class_shares(labels, 5)


def test_class_shares_refuse_no_labels() -> None:
    with pytest.raises(GenlibError, match="labels"):
        class_shares(np.array([], dtype=int), 5)


@pytest.mark.parametrize(
    ("shares", "entropy"),
    [
        ([0.25, 0.25, 0.25, 0.25], 2 * np.log(2)),
        ([1.0, 0.0, 0.0, 0.0], 0.0),
        ([0.5, 0.25, 0.25, 0.0], 1.5 * np.log(2)),
    ],
)
def test_entropy_and_kl_to_uniform_in_nats(shares: list[float], entropy: float) -> None:
    assert entropy_nats(np.array(shares)) == pytest.approx(entropy, abs=1e-12)
    assert kl_to_uniform(np.array(shares)) == pytest.approx(np.log(4) - entropy, abs=1e-12)


def test_entropy_is_scipys_and_never_minus_zero() -> None:
    from scipy.stats import entropy

    shares = np.random.default_rng(0).dirichlet(np.ones(10))
    assert entropy_nats(shares) == pytest.approx(float(entropy(shares)))
    assert kl_to_uniform(shares) == pytest.approx(float(entropy(shares, np.full(10, 0.1))))
    assert str(entropy_nats(np.array([0.0, 1.0]))) == "0.0"


def test_covered_counts_classes_at_the_threshold_too() -> None:
    shares = class_shares(np.repeat(np.arange(4), [9400, 300, 299, 1]), 5)
    assert covered(shares, 0.03) == 2
    assert covered(shares, 0.0001) == 4
    for nonsense in (0.0, 3.0):
        with pytest.raises(GenlibError, match="at_least"):
            covered(shares, nonsense)


def test_mean_confidence_is_the_mean_of_the_likeliest() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.4, 0.5]], dtype=np.float32)
    assert mean_confidence(probabilities) == pytest.approx(0.6, rel=1e-6)


@pytest.mark.parametrize(
    "values", [np.log([[0.5, 0.5]]), np.array([[3.0, 1.0]]), np.array([[np.nan, 1.0]]), np.array([0.5, 0.5])]
)
def test_mean_confidence_refuses_what_is_no_probability(values: Array) -> None:
    with pytest.raises(GenlibError, match="probabilities"):
        mean_confidence(values)


# Reconstruction


def test_unit_range_of_bytes_and_floats() -> None:
    np.testing.assert_array_equal(unit_range(np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3)).ravel(), [0, 0.2, 1])
    as_float = np.array([0, 0.25, 1], np.float32).reshape(1, 1, 1, 3)
    assert unit_range(as_float).dtype == np.float64
    np.testing.assert_array_equal(unit_range(as_float), as_float)


@pytest.mark.parametrize(
    "images",
    [
        np.full((1, 1, 2, 2), -0.5),
        np.full((1, 1, 2, 2), 1.5),
        np.full((1, 1, 2, 2), np.nan),
        np.zeros((1, 1, 2, 2), dtype=np.int64),
        np.zeros((2, 2)),
        np.zeros((0, 1, 2, 2)),
    ],
)
def test_unit_range_refuses_other_scales_types_and_shapes(images: Array) -> None:
    with pytest.raises(GenlibError, match="pictures"):
        unit_range(images, "pictures")


def test_image_mse_is_a_mean_over_each_image() -> None:
    originals = np.zeros((2, 3, 4, 5), np.uint8)
    reconstructions = np.zeros((2, 3, 4, 5), np.float32)
    reconstructions[0] = 0.5
    reconstructions[1, 0, 0, 0] = 1.0
    np.testing.assert_allclose(image_mse(originals, reconstructions), [0.25, 1 / 60])


def test_image_mse_does_not_depend_on_batches_and_is_float64() -> None:
    rng = np.random.default_rng(0)
    originals, reconstructions = rng.random((2, 10, 1, 28, 28), dtype=np.float32)
    whole = image_mse(originals, reconstructions)
    batches = [image_mse(originals[i : i + 3], reconstructions[i : i + 3]) for i in range(0, 10, 3)]
    np.testing.assert_array_equal(np.concatenate(batches), whole)
    exact = (originals.astype(np.float64) - reconstructions) ** 2
    np.testing.assert_allclose(whole, exact.reshape(10, -1).mean(axis=1), rtol=1e-13)


def test_image_mse_does_not_broadcast() -> None:
    with pytest.raises(GenlibError, match="reconstructions"):
        image_mse(np.zeros((4, 3, 2, 2)), np.zeros((4, 1, 2, 2)))


def test_psnr_in_decibels() -> None:
    np.testing.assert_allclose(psnr([1.0, 0.1, 0.01, 0.25]), [0.0, 10.0, 20.0, 6.0205999], atol=1e-6)
    assert float(psnr(0.0)) == np.inf
    for nonsense in (-0.1, float("nan")):
        with pytest.raises(GenlibError, match="mse"):
            psnr(nonsense)


def test_mean_psnr_is_the_mean_of_per_image_psnrs() -> None:
    errors = np.array([0.1, 0.001])
    assert mean_psnr(errors) == pytest.approx(20.0)
    assert float(psnr(errors.mean())) == pytest.approx(12.967, abs=1e-3)  # the other definition


def test_mean_psnr_refuses_infinity_and_no_images() -> None:
    with pytest.raises(GenlibError, match="image 1"):
        mean_psnr(np.array([0.1, 0.0]))
    with pytest.raises(GenlibError, match="at least 1 image"):
        mean_psnr(np.array([]))


# PCA


def correlated_images(seed: int, count: int) -> NDArray[np.uint8]:
    """Images 2 5 6 whose variance falls slowly from component to component, as that of pictures does."""
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(count, 60)) * 60 * 0.93 ** np.arange(60)) @ np.linalg.qr(rng.normal(size=(60, 60))).Q
    pixels: NDArray[np.uint8] = np.clip(values + 128, 0, 255).astype(np.uint8)
    return pixels.reshape(count, 2, 5, 6)


@pytest.fixture(params=["exact", "iterated"])
def exact_up_to(request: pytest.FixtureRequest) -> int:
    return 4096 if request.param == "exact" else 0


def test_pca_agrees_with_numpys_svd(exact_up_to: int) -> None:
    images = correlated_images(0, 300)
    flat = images.reshape(300, -1) / 255
    _, singular, axes = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    fitted = fit_pca(images, 10, exact_up_to=exact_up_to)
    np.testing.assert_allclose(fitted.mean, flat.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(fitted.variances, singular[:10] ** 2 / 299, rtol=1e-5)
    np.testing.assert_allclose(fitted.components @ fitted.components.T, np.eye(10), atol=1e-10)
    for components in (1, 4, 10):
        basis = axes[:components]
        expected = np.clip((flat - flat.mean(axis=0)) @ basis.T @ basis + flat.mean(axis=0), 0, 1)
        error = np.mean((flat - expected) ** 2)
        reconstructed = fitted.reconstruct(images, components)
        assert image_mse(images, reconstructed).mean() == pytest.approx(error, rel=1e-4)
        if exact_up_to:
            np.testing.assert_allclose(reconstructed.reshape(300, -1), expected, atol=1e-9)


def test_pca_with_all_components_gives_the_images_back(exact_up_to: int) -> None:
    images = correlated_images(1, 100)
    everything = fit_pca(images, 60, exact_up_to=exact_up_to)
    np.testing.assert_allclose(everything.reconstruct(images, 60), images / 255, atol=1e-9)
    fewer_images = fit_pca(images[:9], 8, exact_up_to=exact_up_to)
    np.testing.assert_allclose(fewer_images.reconstruct(images[:9], 8), images[:9] / 255, atol=1e-9)


def test_pca_of_a_memory_mapped_array_in_chunks(
    exact_up_to: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = correlated_images(2, 50)
    np.save(tmp_path / "train.npy", images)
    whole = fit_pca(images, 5, exact_up_to=exact_up_to)
    monkeypatch.setattr(frechet, "_CHUNK_VALUES", 60 * 7)
    monkeypatch.setattr(pca, "_CHUNK", 7)
    chunked = fit_pca(np.load(tmp_path / "train.npy", mmap_mode="r"), 5, exact_up_to=exact_up_to)
    np.testing.assert_allclose(chunked.reconstruct(images, 5), whole.reconstruct(images, 5), atol=1e-7)


def test_pca_is_the_same_each_time(exact_up_to: int) -> None:
    images = correlated_images(3, 80)
    first, second = (fit_pca(images, 5, exact_up_to=exact_up_to) for _ in range(2))
    np.testing.assert_array_equal(first.components, second.components)


def test_pca_of_constant_images(exact_up_to: int) -> None:
    images = np.full((5, 1, 3, 3), 51, np.uint8)
    fitted = fit_pca(images, 2, exact_up_to=exact_up_to)
    np.testing.assert_allclose(fitted.variances, 0, atol=1e-12)
    np.testing.assert_allclose(fitted.reconstruct(images, 2), 0.2)


def test_pca_reconstructions_are_clipped_and_held_out_images_may_be_floats() -> None:
    along = np.array([1.0, 1.0, 0.0, 0.0]) / np.sqrt(2)
    fitted = PCA(np.full(4, 0.5), along[np.newaxis], np.ones(1), (1, 2, 2))
    image = np.array([1.0, 0.9, 0.3, 0.2]).reshape(1, 1, 2, 2)
    np.testing.assert_allclose(fitted.reconstruct(image, 1).ravel(), [0.95, 0.95, 0.5, 0.5])
    tilted = PCA(np.zeros(4), np.array([[0.8, -0.6, 0.0, 0.0]]), np.ones(1), (1, 2, 2))
    np.testing.assert_allclose(tilted.reconstruct(image, 1).ravel(), [0.8 * 0.26, 0.0, 0.0, 0.0])


def test_pca_refuses_what_it_cannot_fit_or_reconstruct() -> None:
    images = correlated_images(4, 20)
    for components in (0, 20):
        with pytest.raises(GenlibError, match=f"components: {components} asked for, 19"):
            fit_pca(images, components)
    with pytest.raises(GenlibError, match="float64"):
        fit_pca(images.astype(np.float64), 2)
    fitted = fit_pca(images, 3)
    with pytest.raises(GenlibError, match="4 asked for, 3 fitted"):
        fitted.reconstruct(images, 4)
    with pytest.raises(GenlibError, match="images: shape"):
        fitted.reconstruct(images[:, :1], 2)


def test_these_metrics_need_no_torch() -> None:
    modules = ", ".join(f"genlib.metrics.{name}" for name in ("classes", "frechet", "pca", "reconstruction"))
    program = f"import sys; import {modules}; sys.exit(int('torch' in sys.modules))"
    subprocess.run([sys.executable, "-c", program], check=True)


# Class scores


def test_inception_style_score_is_torch_fidelitys_on_the_same_logits() -> None:
    import torch
    from torch_fidelity import metric_isc

    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 3, size=(300, 10)))
    theirs = metric_isc.isc_features_to_metric(logits, splits=1)[metric_isc.KEY_METRIC_ISC_MEAN]
    assert inception_style_score(logits.softmax(1).numpy()) == pytest.approx(theirs, rel=1e-10)
    assert inception_style_score(logits.float().softmax(1).numpy()) == pytest.approx(theirs, rel=1e-5)
    assert 2 < theirs < 9


@pytest.mark.parametrize(
    ("probabilities", "score"),
    [
        (np.eye(4), 4.0),
        (np.full((6, 4), 0.25), 1.0),
        (np.eye(4)[[2, 2, 2]], 1.0),
        (np.eye(4)[[0, 0, 1, 1]], 2.0),
        (np.array([[0.75, 0.25], [0.25, 0.75]]), 1.5**0.75 * 0.5**0.25),
        (np.eye(4) * 1.0005, 4.0),  # sums to 1 only as well as low precision does
    ],
)
def test_inception_style_score_has_known_values(probabilities: Array, score: float) -> None:
    assert inception_style_score(probabilities) == pytest.approx(score, rel=1e-12)


def test_inception_style_score_refuses_logits() -> None:
    with pytest.raises(GenlibError, match="probabilities"):
        inception_style_score(np.array([[3.0, -1.0]]))


def test_total_variation_of_distributions() -> None:
    a, b = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.25, 0.5])
    assert total_variation(a, a) == 0
    assert total_variation(a, b) == total_variation(b, a) == pytest.approx(0.5)
    assert total_variation(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1
    images = np.array([0, 0, 1, 2, 2, 2, 3, 3]), np.array([0, 1, 1, 2, 3, 3, 3, 3])  # 3 of 8 have to change class
    assert total_variation(*(class_shares(labels, 4) for labels in images)) == pytest.approx(3 / 8)


def test_total_variation_refuses_other_classes_and_counts() -> None:
    with pytest.raises(GenlibError, match="2 classes against 3"):
        total_variation(np.array([0.5, 0.5]), np.array([0.5, 0.5, 0.0]))
    with pytest.raises(GenlibError, match="shares_b"):
        total_variation(np.array([0.5, 0.5]), np.array([5, 5]))
