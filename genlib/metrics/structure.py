"""Structural similarity of images: SSIM of pairs, and how alike the images of one set are to each other."""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from genlib.errors import GenlibError

_BORDER = 5  # half of the 11 x 11 window, which has to fit: skimage leaves such a border out of the mean
_FIVE_SCALES = 176  # the window fits an image halved four times from here on


def image_ssim(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """SSIM of each image of `a` with the one of `b` in the same place: N float64 in -1..1, 1 for equal images.

    Both are N C H W uint8, H and W at least 11. Mean over channels and places of a Gaussian window (11 x 11, standard
    deviation 1.5) within the image, population covariance, peak 255 (Wang et al. 2004, eq. 13).
    Raises GenlibError when shapes or types do not fit.
    """
    _check_images(a, "a")
    _check_images(b, "b")
    _check_equal(a, b)
    from skimage.metrics import structural_similarity

    return np.array(
        [
            structural_similarity(  # type: ignore[no-untyped-call]
                one,
                other,
                channel_axis=0,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=255,
            )
            for one, other in zip(a, b, strict=True)
        ],
        dtype=np.float64,
    )


def image_ms_ssim(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Multi-scale SSIM of images as `image_ssim` takes them, H and W at least 176: N float64 in 0..1.

    Over five scales with the weights of Wang, Simoncelli & Bovik 2003; similarities below 0 count as 0, since they have
    no real power. Computed in float32, exact to about 1e-4.
    """
    _check_images(a, "a")
    _check_images(b, "b")
    _check_equal(a, b)
    if min(a.shape[2:]) < _FIVE_SCALES:
        raise GenlibError(
            f"a: {a.shape[2]} x {a.shape[3]} pixels, too few for five scales; pass at least {_FIVE_SCALES} a side, "
            f"or take image_ssim"
        )
    # Imported here: 2.5 s.
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    values = np.empty(len(a))
    for index in range(len(a)):
        one, other = (torch.from_numpy(images[index : index + 1].astype(np.float32)) for images in (a, b))
        values[index] = multiscale_structural_similarity_index_measure(one, other, data_range=255.0).item()
    return values


def similarity_used(image_shape: tuple[int, ...]) -> Literal["SSIM", "MS-SSIM"]:
    """What `pair_similarity` takes the mean of, for images of this shape (C H W): MS-SSIM where five scales fit."""
    return "MS-SSIM" if min(image_shape[-2:]) >= _FIVE_SCALES else "SSIM"


def pair_similarity(images: NDArray[Any], pairs: int, generator: torch.Generator) -> float:
    """Mean similarity of `pairs` random pairs of different images out of `images` (N C H W uint8, N >= 2).

    Low is diverse (Odena et al. 2017, sec. 4.2). It says nothing of quality: noise is the most diverse. Compare it with
    that of real images of the same size; `similarity_used` says which similarity it is of. Pairs are drawn with
    replacement, with `generator` (on the CPU). Raises GenlibError for fewer than 2 images and fewer than 1 pair.
    """
    _check_images(images, "images")
    if len(images) < 2 or pairs < 1:
        raise GenlibError(f"images: {len(images)} for {pairs} pairs; pass at least 2 images and ask for 1 pair or more")
    first = torch.randint(len(images), (pairs,), generator=generator).numpy()
    # An offset of 1..N-1, around the end: any image but the first, all equally likely.
    second = (first + torch.randint(1, len(images), (pairs,), generator=generator).numpy()) % len(images)
    similarity = image_ms_ssim if similarity_used(images.shape[1:]) == "MS-SSIM" else image_ssim
    total = 0.0
    for start in range(0, pairs, 1000):  # a memory-mapped array is never copied whole
        total += float(similarity(images[first[start : start + 1000]], images[second[start : start + 1000]]).sum())
    return total / pairs


def _check_images(images: NDArray[Any], name: str) -> None:
    if images.ndim != 4 or images.dtype != np.uint8 or images.size == 0 or min(images.shape[2:]) <= 2 * _BORDER:
        raise GenlibError(
            f"{name}: {images.dtype} array of shape {images.shape}; pass uint8 N x C x H x W, H and W at least "
            f"{2 * _BORDER + 1}"
        )


def _check_equal(a: NDArray[Any], b: NDArray[Any]) -> None:
    if a.shape != b.shape:
        raise GenlibError(f"b: shape {b.shape} for images of {a.shape}; pass equal shapes")
