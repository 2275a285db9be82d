"""Precision, recall, density and coverage: against the definitions, torch-fidelity, and toys with known answers."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from genlib.errors import GenlibError
from genlib.metrics import distances, manifold
from genlib.metrics.manifold import Manifold, Prdc
from genlib.metrics.nearest import NearestPoints

Features = NDArray[np.float64]


def normal(seed: int, count: int, dimensions: int = 6, shift: float = 0.0) -> Features:
    return np.random.default_rng(seed).normal(shift, 1, size=(count, dimensions))


def by_definition(real: Features, samples: Features, k: int) -> Prdc:
    def radius(points: Features, index: int) -> float:
        apart = sorted(float(np.linalg.norm(points[index] - other)) for i, other in enumerate(points) if i != index)
        return apart[k - 1]

    real_radii = [radius(real, i) for i in range(len(real))]
    own_radii = [radius(samples, i) for i in range(len(samples))]
    apart = np.array([[np.linalg.norm(sample - point) for point in real] for sample in samples])
    return Prdc(
        precision=float(np.mean([any(apart[j] <= real_radii) for j in range(len(samples))])),
        recall=float(np.mean([any(apart[:, i] <= own_radii) for i in range(len(real))])),
        density=float(np.sum(apart < np.array(real_radii)) / (k * len(samples))),
        coverage=float(np.mean([any(apart[:, i] < real_radii[i]) for i in range(len(real))])),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_manifold_is_the_definition(k: int) -> None:
    real, samples = normal(0, 40), normal(1, 33, shift=0.7)
    found = Manifold(real, k).compare(samples)
    assert vars(found) == pytest.approx(vars(by_definition(real, samples, k)), rel=1e-12)
    assert 0 < found.coverage < 1
    assert 0 < found.precision < 1


@pytest.mark.parametrize("k", [2, 3])
def test_precision_and_recall_are_torch_fidelitys(k: int) -> None:
    from torch_fidelity import metric_prc

    real, samples = normal(2, 150), normal(3, 120, shift=0.5)
    theirs = metric_prc.prc_features_to_metric(
        torch.from_numpy(samples), torch.from_numpy(real), prc_neighborhood=k, verbose=False, save_cpu_ram=False
    )
    found = Manifold(real, k).compare(samples)
    assert found.precision == pytest.approx(theirs[metric_prc.KEY_METRIC_PRECISION], rel=1e-6)
    assert found.recall == pytest.approx(theirs[metric_prc.KEY_METRIC_RECALL], rel=1e-6)
    assert found.precision != found.recall


def test_precision_one_way_is_recall_the_other_way() -> None:
    a, b = normal(4, 70), normal(5, 90, shift=0.6)
    forth, back = Manifold(a, 3).compare(b), Manifold(b, 3).compare(a)
    assert (forth.precision, forth.recall) == (back.recall, back.precision)
    assert forth.precision != forth.recall


def test_equal_sets_have_density_and_all_else_one() -> None:
    """Each ball holds its own centre and the k - 1 nearest, but not the k-th, which is on the border."""
    real = normal(6, 80).astype(np.float32)
    assert Manifold(real, 5).compare(real) == Prdc(1.0, 1.0, 1.0, 1.0)
    order = np.random.default_rng(0).permutation(80)
    assert Manifold(real, 5).compare(real[order]) == Prdc(1.0, 1.0, 1.0, 1.0)


def test_disjoint_sets_share_nothing() -> None:
    assert Manifold(normal(7, 50), 3).compare(normal(8, 60, shift=100)) == Prdc(0.0, 0.0, 0.0, 0.0)


def test_density_is_not_inflated_by_an_outlier_but_precision_is() -> None:
    real = normal(9, 100)
    samples = normal(10, 100, shift=5)  # beside the real ones, and in the ball of the outlier alone
    real_and_outlier = np.vstack([real, np.full((1, 6), 12.0)])
    before, after = Manifold(real, 5).compare(samples), Manifold(real_and_outlier, 5).compare(samples)
    assert before.precision < 0.1
    assert after.precision > 0.9
    assert after.density < 0.25
    assert after.coverage < 0.05


def test_a_dropped_mode_costs_recall_and_coverage_only() -> None:
    real = np.vstack([normal(11, 100), normal(12, 100, shift=20)])
    found = Manifold(real, 5).compare(normal(13, 200))
    assert found.recall <= 0.5
    assert found.coverage <= 0.5
    assert found.precision > 0.8
    assert found.density > 0.8


def test_duplicates_make_radius_zero_whose_ball_holds_copies_for_precision_only() -> None:
    real = np.zeros((4, 2))
    copies = np.zeros((4, 2))
    assert Manifold(real, 3).compare(copies) == Prdc(1.0, 1.0, 0.0, 0.0)
    nearby = np.array([[1e-9, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    assert Manifold(real, 3).compare(nearby) == Prdc(0.0, 1.0, 0.0, 0.0)
    # 3 copies and k = 3: the third neighbour is the point apart from them.
    apart = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    assert Manifold(apart, 3).compare(nearby).coverage == 1.0


def test_nothing_depends_on_blocks_or_order(monkeypatch: pytest.MonkeyPatch) -> None:
    real, samples = normal(14, 61), np.vstack([normal(15, 50, shift=0.5), normal(14, 61)[:9]])
    whole = Manifold(real, 4).compare(samples)
    monkeypatch.setattr(distances, "_BLOCK_BYTES", 8 * 61 * 7)
    assert Manifold(real[::-1], 4).compare(samples[::-1]) == whole


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1e-6, 0.0), (1e3, 1e6), (1.0, 1e9)])
def test_squares_by_products_are_as_near_as_they_say(scale: float, offset: float) -> None:
    queries, points = scale * normal(16, 50, 40) + offset, scale * normal(17, 60, 40, 2.0) + offset
    queries[0] += 1e4 * scale
    exact = np.square(queries[:, np.newaxis] - points).sum(2)
    for start, rough, error in distances.rough_squares(queries, points):
        here = exact[start : start + len(rough)]
        assert np.abs(rough - here).max() <= error < 1e-3 * here.max()
    query, point = np.indices(exact.shape).reshape(2, -1)
    np.testing.assert_allclose(distances.pair_squares(queries, points, query, point), exact.ravel(), rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e-21, 1e12])
def test_no_unit_is_too_small_or_too_large(scale: float) -> None:
    """Squares that float32 does not have, or hardly."""
    real, samples = normal(0, 60), normal(1, 50, shift=0.7)
    expected = vars(Manifold(real, 3).compare(samples))
    assert vars(Manifold(scale * real, 3).compare(scale * samples)) == pytest.approx(expected)
    near = NearestPoints(scale * real).distances(scale * samples, 2)
    np.testing.assert_allclose(near / scale, NearestPoints(real).distances(samples, 2), rtol=1e-12)


@pytest.mark.parametrize("error", [0.0, 1.0, 1e4])
def test_what_rounding_leaves_open_is_measured_again(error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances too rough by up to the stated error change nothing; with a large one, all are measured again."""
    real, samples = normal(0, 40), np.vstack([normal(1, 33, shift=0.7), normal(0, 40)[:5]])
    expected = by_definition(real, samples, 3)
    original = distances.rough_squares

    def rougher(*arguments: Features) -> Iterator[tuple[int, Features, float]]:
        for start, rough, least in original(*arguments):
            wrong = np.random.default_rng(0).uniform(-1, 1, rough.shape) * error
            yield start, rough + wrong, least + error

    monkeypatch.setattr(manifold, "rough_squares", rougher)
    assert vars(Manifold(real, 3).compare(samples)) == pytest.approx(vars(expected), rel=1e-12)


def test_a_reference_serves_many_sets_of_samples() -> None:
    manifold = Manifold(normal(0, 50), 3)
    first = manifold.compare(normal(1, 40))
    manifold.compare(normal(2, 60))
    assert manifold.compare(normal(1, 40)) == first


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: Manifold(normal(0, 9), 0), "k: 0"),
        (lambda: Manifold(normal(0, 5), 5), r"reference features: .*\(5, 6\).*N >= 6"),
        (lambda: Manifold(normal(0, 9), 5).compare(normal(0, 5)), r"samples: .*\(5, 6\).*N >= 6"),
        (lambda: Manifold(normal(0, 9), 5).compare(normal(0, 9, 4)), "4 dimensions against 6"),
        (lambda: Manifold(normal(0, 9) * np.nan, 5), "reference features: a value of nan"),
    ],
)
def test_manifold_refuses_what_has_no_neighbours(call: Callable[[], object], named: str) -> None:
    with pytest.raises(GenlibError, match=named):
        call()
