"""Nearest training images: exact distances, copies found, and no false alarm for blurred images."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from genlib.errors import GenlibError
from genlib.metrics import nearest
from genlib.metrics.memorisation import Memorisation, Originals, memorisation
from genlib.metrics.nearest import NearestPoints

Array = NDArray[Any]


def pictures(seed: int, count: int) -> NDArray[np.uint8]:
    """Images 1 12 12 of a few soft spots: different, but in the same places of the space of pixels."""
    rng = np.random.default_rng(seed)
    spots = (rng.random((count, 1, 12, 12)) > 0.9).astype(float)
    soft = np.stack([gaussian_filter(image, (0, 1, 1)) for image in spots])
    noisy = soft * 1200 + rng.normal(0, 8, soft.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def two_nearest(queries: Array, train: Array) -> Array:
    return Originals(train).two_nearest(queries)


def by_cdist(queries: Array, points: Array, count: int) -> Array:
    flat = (rows.reshape(len(rows), -1).astype(np.float64) for rows in (queries, points))
    return np.sort(cdist(*flat), axis=1)[:, :count]


@pytest.mark.parametrize("count", [1, 2, 5, 71])
@pytest.mark.parametrize("block_bytes", [1 << 25, 4096])
def test_nearest_distances_are_scipys(count: int, block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(0)
    queries, points = rng.integers(0, 256, (30, 50), dtype=np.uint8), rng.integers(0, 256, (71, 50), dtype=np.uint8)
    points[[5, 60, 70]] = queries[3]
    np.testing.assert_array_equal(NearestPoints(points).distances(queries, count), by_cdist(queries, points, count))
    far = rng.normal(1e4, 1, (40, 20)).astype(np.float32), rng.normal(1e4, 1, (80, 20))
    np.testing.assert_allclose(NearestPoints(far[1]).distances(far[0], count), by_cdist(*far, count), rtol=1e-12)


@pytest.mark.parametrize("block_bytes", [1 << 25, 40_000])
@pytest.mark.parametrize(
    "as_kind",
    [
        lambda rows: np.clip(rows, 0, 255).astype(np.uint8),
        lambda rows: rows.astype(np.float32),
        lambda rows: rows,
        lambda rows: rows + 1e6,
    ],
    ids=["uint8", "float32", "float64", "far"],
)
def test_projections_rule_out_no_nearest_point(
    as_kind: Callable[[Array], Array], block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Points near a few axes, of which single ones are copied, moved off the axes, or all noise: by either way, those
    that scipy finds.
    """
    monkeypatch.setattr(nearest, "_BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(2)
    axes = rng.normal(0, 12, (6, 200))
    points = np.vstack([rng.normal(size=(900, 6)) @ axes, rng.normal(size=(100, 6)) @ axes * 1e-3])
    points += 128 + rng.normal(0, 1, points.shape)
    noise = rng.uniform(0, 255, (20, 200))
    queries = np.vstack([points[::100], points[5::100] + rng.normal(0, 1, (10, 200)), points[7::100] + 1, noise])
    queries, points = (as_kind(rows) for rows in (queries, points))
    compared: list[int] = []
    every = nearest._compared

    def counted(rows: Array, points: Array, count: int) -> Any:
        compared.append(len(rows))
        return every(rows, points, count)

    monkeypatch.setattr(nearest, "_compared", counted)
    for count in (1, 2, 10):
        found = NearestPoints(points).distances(queries, count)
        np.testing.assert_allclose(found, by_cdist(queries, points, count), rtol=1e-9, atol=1e-9)
        if points.dtype == np.uint8:
            np.testing.assert_array_equal(found, by_cdist(queries, points, count))
    assert all(15 < rows < 25 for rows in compared[:2])  # the noise, and hardly more


@pytest.mark.parametrize("points", [300, 5])
def test_nearest_distances_are_right_where_float32_is_not(points: int) -> None:
    """Points that differ by less than the rounding error of |a|^2 + |b|^2 - 2ab in float32, and some far away."""
    rng = np.random.default_rng(1)
    query = rng.normal(size=(1, 64)) * 1000
    steps = 1e-3 * np.arange(9, 0, -1)
    near = np.vstack([query + step / 8 for step in steps] + [np.zeros((1, 64))])
    far = rng.normal(size=(points, 64)) * 1000
    found = NearestPoints(np.vstack([far, near])).distances(np.vstack([query, -query]), 3)
    np.testing.assert_allclose(found[0], [1e-3, 2e-3, 3e-3], rtol=1e-6)


def test_two_nearest_of_images_are_zero_for_copies() -> None:
    train = pictures(0, 60)
    train[7] = train[3]
    queries = np.concatenate([train[3:5], pictures(1, 4)])
    found = two_nearest(queries, train)
    assert found.shape == (6, 2)
    np.testing.assert_array_equal(found[0], [0, 0])
    assert found[1, 0] == 0 < found[1, 1]
    np.testing.assert_array_equal(found, by_cdist(queries, train, 2))


def test_two_nearest_of_memory_mapped_images(tmp_path: Any) -> None:
    train, queries = pictures(0, 40), pictures(1, 5)
    np.save(tmp_path / "train.npy", train)
    mapped = np.load(tmp_path / "train.npy", mmap_mode="r")
    np.testing.assert_array_equal(two_nearest(queries, mapped), two_nearest(queries, train))


@pytest.fixture(scope="module")
def sets() -> tuple[Array, Array, Array]:
    """Training images, distances of held-out images, and other images to make samples of."""
    train = pictures(0, 1500)
    return train, two_nearest(pictures(1, 1000), train), pictures(2, 1000)


@pytest.mark.parametrize("change", ["none", "noise", "blur"])
def test_copies_are_counted(sets: tuple[Array, Array, Array], change: str) -> None:
    train, heldout, samples = sets
    copies = train[:100].astype(np.float64)
    if change == "noise":
        copies += np.random.default_rng(0).normal(0, 5, copies.shape)
    if change == "blur":
        copies = np.stack([gaussian_filter(copy, (0, 0.4, 0.4)) for copy in copies])
    mixed = np.concatenate([np.clip(copies, 0, 255).astype(np.uint8), samples[100:]])
    assert memorisation(two_nearest(mixed, train), heldout).copied_share == pytest.approx(0.11, abs=0.012)


def test_new_and_blurred_images_raise_no_alarm(sets: tuple[Array, Array, Array]) -> None:
    train, heldout, samples = sets
    found = memorisation(two_nearest(samples, train), heldout)
    assert found.copied_share < 0.02
    assert found.expected_share == pytest.approx(0.01)
    assert found.median_ratio == pytest.approx(1, abs=0.05)
    blurred = np.stack([gaussian_filter(image, (0, 1.5, 1.5)) for image in samples])
    judged = memorisation(two_nearest(blurred, train), heldout)
    assert judged.copied_share < 0.02
    assert judged.median_ratio < 0.9
    # The rule that this one is better than.
    assert np.mean(two_nearest(blurred, train)[:, 0] < np.quantile(heldout[:, 0], 0.01)) > 0.1


def test_memorisation_is_what_it_says() -> None:
    heldout = np.column_stack([np.linspace(0.5, 1.0, 200), np.ones(200)])  # the threshold: the second smallest ratio
    threshold = float(heldout[1, 0])
    samples = np.array([[0.0, 0.0], [0.0, 3.0], [threshold, 1.0], [threshold + 1e-6, 1.0], [6.0, 6.0]])
    found = memorisation(samples, heldout)
    assert (found.copied_share, found.expected_share) == (3 / 5, 0.01)
    assert found.median_ratio == pytest.approx(threshold / 0.75)


def test_held_out_copies_raise_the_expected_share() -> None:
    heldout = np.column_stack([np.r_[np.zeros(10), np.ones(90)], np.full(100, 2.0)])
    assert memorisation(heldout, heldout) == Memorisation(0.1, 0.1, 1.0)


PAIRS = np.ones((100, 2))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: memorisation(PAIRS[:, 0], PAIRS), r"samples: shape \(100,\)"),
        (lambda: memorisation(PAIRS[:0], PAIRS), r"samples: shape \(0, 2\)"),
        (lambda: memorisation(PAIRS, PAIRS[:99]), r"heldout: shape \(99, 2\).*N >= 100"),
        (lambda: memorisation(PAIRS * np.nan, PAIRS), "samples: negative, falling or NaN"),
        (lambda: memorisation(PAIRS, PAIRS * [2, 1]), "heldout: negative, falling"),
        (lambda: memorisation(PAIRS, PAIRS * [0, 1]), "heldout: median distance 0"),
        (lambda: two_nearest(pictures(0, 3), pictures(0, 3)[:, :, :6]), "same shape"),
        (lambda: two_nearest(pictures(0, 3), pictures(0, 1)), r"points: .*\(1, 144\).*N >= 2"),
        (lambda: two_nearest(PAIRS, PAIRS * np.nan), "points: a value of nan"),
        (lambda: two_nearest(PAIRS * np.inf, PAIRS), "queries: a value of inf"),
    ],
)
def test_what_has_no_distances_is_refused(call: Callable[[], object], named: str) -> None:
    with pytest.raises(GenlibError, match=named):
        call()
