"""KID: against torch-fidelity, a double loop, and the spread that its standard error claims to be."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from genlib.errors import GenlibError
from genlib.metrics import kernel
from genlib.metrics.kernel import KernelReference, kid, polynomial_mmd

Features = NDArray[np.float64]


def normal(seed: int, count: int, dimensions: int = 8, shift: float = 0.0) -> Features:
    return np.random.default_rng(seed).normal(shift, 1, size=(count, dimensions))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_pairs(a: Features, b: Features) -> float:
    """The definition, pair by pair."""

    def k(x: Features, y: Features) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    within_a = np.mean([k(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j])
    within_b = np.mean([k(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j])
    return float(within_a + within_b - 2 * np.mean([k(x, y) for x in a for y in b]))


def test_mmd_is_the_mean_over_pairs_also_of_unequal_counts() -> None:
    a, b = normal(0, 17), normal(1, 30, shift=0.5)
    assert polynomial_mmd(a, b) == pytest.approx(by_pairs(a, b), rel=1e-12)
    assert polynomial_mmd(b, a) == pytest.approx(by_pairs(a, b), rel=1e-12)


def test_mmd_is_torch_fidelitys_on_the_same_subsets() -> None:
    from torch_fidelity import metric_kid

    a, b = normal(2, 90, 24), normal(3, 80, 24, shift=0.2)
    settings: dict[str, Any] = {"kid_subsets": 5, "kid_subset_size": 60, "rng_seed": 2020, "verbose": False}
    theirs = metric_kid.kid_features_to_metric(torch.from_numpy(a), torch.from_numpy(b), **settings)
    rng = np.random.RandomState(2020)  # their choice of subsets
    ours = []
    for _ in range(5):
        chosen = a[rng.choice(90, 60, replace=False)], b[rng.choice(80, 60, replace=False)]
        ours.append(polynomial_mmd(*chosen))
        assert ours[-1] == pytest.approx(float(metric_kid.kernel_mmd(*chosen)), rel=1e-4)
    assert np.mean(ours) == pytest.approx(theirs[metric_kid.KEY_METRIC_KID_MEAN], rel=1e-4)
    assert np.std(ours) == pytest.approx(theirs[metric_kid.KEY_METRIC_KID_STD], rel=1e-4)


def test_mmd_of_equal_distributions_is_zero_on_average_and_of_either_sign() -> None:
    values = np.array([polynomial_mmd(normal(seed, 40), normal(1000 + seed, 25)) for seed in range(400)])
    assert values.min() < 0 < values.max()
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    # A biased estimate (with the diagonal) would be off by far more than that.
    assert 3 * values.std() / np.sqrt(len(values)) < 0.1 * (1 + 1) ** 3 / 40


def test_mmd_grows_with_the_shift() -> None:
    here = normal(0, 200)
    values = [polynomial_mmd(here, normal(1, 200, shift=shift)) for shift in (0.0, 0.2, 0.5, 1.0)]
    assert values == sorted(values)
    assert values[1] > 0.01


@pytest.mark.parametrize("shift", [0.3, 1.0])
def test_standard_error_is_the_spread_over_draws(shift: float) -> None:
    draws = [kid(normal(seed, 120), normal(500 + seed, 150, shift=shift), seeded()) for seed in range(80)]
    spread = np.std([draw.value for draw in draws], ddof=1)
    claimed = np.sqrt(np.mean([draw.standard_error**2 for draw in draws]))
    assert claimed == pytest.approx(spread, rel=0.3)


def test_standard_error_is_that_of_distances_without_a_block() -> None:
    a, b = normal(0, 40), normal(1, 60, shift=0.5)
    reference = KernelReference(b, seeded(), blocks=4)
    # The division, found again from the seed.
    generator = seeded()
    inner = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))
    blocks_b = np.array_split(torch.randperm(60, generator=generator).numpy(), 4)
    blocks_a = np.array_split(torch.randperm(40, generator=inner).numpy(), 4)
    without = np.array(
        [by_pairs(np.delete(a, i, axis=0), np.delete(b, j, axis=0)) for i, j in zip(blocks_a, blocks_b, strict=True)]
    )
    expected = np.sqrt(3 / 4 * np.sum((without - without.mean()) ** 2))
    found = reference.distance(a)
    assert found.standard_error == pytest.approx(expected, rel=1e-9)
    assert found.value == pytest.approx(by_pairs(a, b), rel=1e-12)


def test_value_does_not_depend_on_order_blocks_or_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(0, 101), normal(1, 83, shift=0.1)
    expected = polynomial_mmd(a, b)
    for blocks in (2, 7, 40):
        assert kid(a[::-1], b, seeded(blocks), blocks).value == pytest.approx(expected, rel=1e-10)
    monkeypatch.setattr(kernel, "_TILE", 7)
    assert polynomial_mmd(a, b[::-1]) == pytest.approx(expected, rel=1e-10)


def test_a_reference_gives_the_same_again_and_whatever_was_asked_before() -> None:
    a, other, b = normal(0, 50), normal(1, 60), normal(2, 70)
    reference = KernelReference(b, seeded())
    first = reference.distance(a)
    reference.distance(other)
    assert reference.distance(a) == first == kid(a, b, seeded())


def test_float32_features_are_compared_in_float64() -> None:
    a, b = normal(0, 60, 32).astype(np.float32) * 100, normal(1, 60, 32).astype(np.float32) * 100
    assert polynomial_mmd(a, b) == pytest.approx(by_pairs(a.astype(np.float64), b.astype(np.float64)), rel=1e-10)


@pytest.mark.parametrize(
    ("a", "b", "named"),
    [
        (normal(0, 1), normal(0, 30), r"a: .*\(1, 8\).*N >= 2"),
        (normal(0, 30), normal(0, 30, 9), "8 dimensions against 9"),
        (normal(0, 30) * np.nan, normal(0, 30), "a: a value of nan"),
        (normal(0, 30), normal(0, 30) * np.inf, "b: a value of"),
        (normal(0, 30)[0], normal(0, 30), r"a: .*\(8,\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_mmd_refuses_what_is_no_pair_of_feature_sets(a: Features, b: Features, named: str) -> None:
    with pytest.raises(GenlibError, match=named):
        polynomial_mmd(a, b)


def test_kid_refuses_too_few_rows_or_blocks() -> None:
    with pytest.raises(GenlibError, match=r"features: .*\(19, 8\).*N >= 20"):
        kid(normal(0, 19), normal(0, 30), seeded())
    with pytest.raises(GenlibError, match=r"reference features: .*\(19, 8\).*N >= 20"):
        kid(normal(0, 30), normal(0, 19), seeded())
    with pytest.raises(GenlibError, match="blocks: 1"):
        kid(normal(0, 30), normal(0, 30), seeded(), 1)
