"""SSIM and MS-SSIM: against torchmetrics, closed forms, and sets whose diversity is known."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from genlib.errors import GenlibError
from genlib.metrics import structure
from genlib.metrics.structure import image_ms_ssim, image_ssim, pair_similarity, similarity_used

Images = NDArray[np.uint8]


def smooth(seed: int, count: int, channels: int, size: int) -> Images:
    """Images with structure on many scales, as pictures have."""
    rng = np.random.default_rng(seed)
    values = np.zeros((count, channels, size, size))
    for cells in (2, 4, 8):
        coarse = rng.integers(0, 80, size=(count, channels, cells, cells))
        values += np.kron(coarse, np.ones((1, 1, -(-size // cells), -(-size // cells))))[..., :size, :size]
    return (values + rng.integers(0, 16, size=values.shape)).astype(np.uint8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def torchmetrics_ssim(a: Images, b: Images, **asked: bool) -> Any:
    from torchmetrics.functional.image import structural_similarity_index_measure

    one, other = (torch.from_numpy(images).double() for images in (a, b))
    settings: dict[str, Any] = {"data_range": 255.0, "reduction": "none", **asked}
    return structural_similarity_index_measure(one, other, **settings)


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 24)])
def test_ssim_is_torchmetrics_within_the_border(channels: int, size: int) -> None:
    a = smooth(0, 6, channels, size)
    b = np.concatenate([smooth(1, 3, channels, size), (a[3:] // 2) + 40])
    full = torchmetrics_ssim(a, b, return_full_image=True)[1]
    expected = full[:, :, 5:-5, 5:-5].mean((1, 2, 3)).numpy()
    np.testing.assert_allclose(image_ssim(a, b), expected, atol=1e-4)
    assert expected[:3].max() < 0.5 < expected[3:].min()


def test_ssim_of_constant_images_is_the_luminance_term() -> None:
    a, b = np.full((1, 1, 16, 16), 100, np.uint8), np.full((1, 1, 16, 16), 150, np.uint8)
    stabiliser = (0.01 * 255) ** 2
    expected = (2 * 100 * 150 + stabiliser) / (100**2 + 150**2 + stabiliser)
    np.testing.assert_allclose(image_ssim(a, b), [expected], rtol=1e-6)


def test_ssim_of_equal_images_is_one_and_falls_with_noise() -> None:
    a = smooth(2, 4, 3, 32)
    np.testing.assert_allclose(image_ssim(a, a), 1)
    noise = np.random.default_rng(0).normal(size=a.shape)
    means = [image_ssim(a, np.clip(a + amount * noise, 0, 255).astype(np.uint8)).mean() for amount in (5, 20, 60)]
    assert 1 > means[0] > means[1] > means[2] > 0


def test_ssim_does_not_depend_on_the_batch() -> None:
    a, b = smooth(3, 5, 1, 20), smooth(4, 5, 1, 20)
    np.testing.assert_array_equal(image_ssim(a, b)[2:3], image_ssim(a[2:3], b[2:3]))


def test_ms_ssim_is_the_product_over_scales() -> None:
    a = smooth(5, 1, 1, 176)
    b = np.clip(a + np.random.default_rng(0).normal(0, 25, a.shape), 0, 255).astype(np.uint8)
    weights = 0.0448, 0.2856, 0.3001, 0.2363, 0.1333  # Wang, Simoncelli & Bovik 2003, sec. 3.2
    small = [torch.from_numpy(images).double() for images in (a, b)]
    expected = 1.0
    for scale, weight in enumerate(weights):
        pair = [images.numpy() for images in small]
        similarity, contrast = torchmetrics_ssim(*pair, return_contrast_sensitivity=True)
        expected *= float(similarity if scale == 4 else contrast) ** weight
        small = [torch.nn.functional.avg_pool2d(images, 2) for images in small]
    np.testing.assert_allclose(image_ms_ssim(a, b), [expected], atol=1e-4)
    np.testing.assert_allclose(image_ms_ssim(a, a), [1], atol=1e-6)
    assert 0.2 < expected < 0.98


def test_ms_ssim_of_opposites_is_zero_not_nan() -> None:
    a = smooth(6, 1, 1, 176)
    np.testing.assert_array_equal(image_ms_ssim(a, 255 - a), [0])


def test_pair_similarity_is_the_mean_over_all_pairs_of_a_small_set() -> None:
    images = smooth(7, 4, 1, 16)
    every = [image_ssim(images[[i]], images[[j]])[0] for i in range(4) for j in range(4) if i != j]
    found = pair_similarity(images, 200, seeded())
    assert found == pytest.approx(np.mean(every), abs=4 * float(np.std(every)) / np.sqrt(200))
    assert found == pair_similarity(images, 200, seeded())
    assert found != pair_similarity(images, 200, seeded(1))


def test_pair_similarity_never_pairs_an_image_with_itself() -> None:
    """Of two images there is one pair: any pair of equal ones would show."""
    images = smooth(8, 2, 1, 16)
    expected = float(image_ssim(images[:1], images[1:])[0])
    assert pair_similarity(images, 50, seeded()) == pytest.approx(expected, rel=1e-9)


def test_collapsed_images_are_most_alike() -> None:
    diverse = smooth(9, 30, 1, 16)
    half = np.concatenate([diverse[:15], np.repeat(diverse[:1], 15, axis=0)])
    alike = np.repeat(diverse[:1], 30, axis=0)
    values = [pair_similarity(images, 100, seeded()) for images in (diverse, half, alike)]
    assert values[0] < values[1] < values[2]
    assert values[2] == pytest.approx(1)


def test_large_images_are_compared_on_five_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    assert similarity_used((3, 176, 176)) == "MS-SSIM"
    assert similarity_used((3, 200, 175)) == "SSIM"
    images = smooth(10, 2, 1, 176)
    expected = float(image_ms_ssim(images[:1], images[1:])[0])
    assert pair_similarity(images, 2, seeded()) == pytest.approx(expected, rel=1e-6)
    monkeypatch.setattr(structure, "_FIVE_SCALES", 177)
    assert pair_similarity(images, 2, seeded()) == pytest.approx(float(image_ssim(images[:1], images[1:])[0]))


def test_what_cannot_be_compared_is_refused() -> None:
    images = smooth(0, 2, 1, 16)
    with pytest.raises(GenlibError, match=r"b: shape \(1, 1, 16, 16\)"):
        image_ssim(images, images[:1])
    with pytest.raises(GenlibError, match="b: float64"):
        image_ssim(images, images / 255)
    with pytest.raises(GenlibError, match=r"a: .*10, 16\).*at least 11"):
        image_ssim(images[:, :, :10], images[:, :, :10])
    with pytest.raises(GenlibError, match="at least 176 a side"):
        image_ms_ssim(images, images)
    with pytest.raises(GenlibError, match="images: 1 for 5 pairs"):
        pair_similarity(images[:1], 5, seeded())
    with pytest.raises(GenlibError, match="images: 2 for 0 pairs"):
        pair_similarity(images, 0, seeded())
