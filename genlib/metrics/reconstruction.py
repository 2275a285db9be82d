"""How far reconstructed images are from the originals: per-pixel squared error and PSNR, on a scale from 0 to 1.

Both start from one number per image, so that batches accumulate by concatenation and no batch size changes a result:

    errors = np.concatenate([image_mse(x, y) for x, y in batches])
    mse, psnr = errors.mean(), mean_psnr(errors)
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genlib.errors import GenlibError


def unit_range(images: NDArray[Any], name: str = "images") -> NDArray[np.float64]:
    """`images` (N C H W) as float64 in [0, 1]: uint8 is divided by 255, floats are taken as they are.

    Raises GenlibError for other types and shapes, and for floats that are NaN or outside [0, 1]: a model whose output
    is not bounded (ReLU, tanh) is clipped or rescaled by whoever knows its range, where that can be seen.
    """
    if images.ndim != 4 or images.size == 0:
        raise GenlibError(f"{name}: shape {images.shape}; pass N x C x H x W, all at least 1")
    if images.dtype == np.uint8:
        return images / np.float64(255)
    if images.dtype.kind != "f":
        raise GenlibError(f"{name}: type {images.dtype}; pass uint8 in 0..255 or floats in 0..1")
    lowest, highest = float(images.min()), float(images.max())
    # Written so that NaN fails too.
    if not (lowest >= 0 and highest <= 1):
        raise GenlibError(f"{name}: values from {lowest:.4g} to {highest:.4g}; clip or scale them to 0..1 first")
    return images.astype(np.float64)


def image_mse(originals: NDArray[Any], reconstructions: NDArray[Any]) -> NDArray[np.float64]:
    """Squared error of each image, mean over channels and pixels: N float64 in [0, 1].

    Both are N C H W, uint8 or floats in [0, 1] (see `unit_range`). Times C*H*W it is the generation loss of one image.
    Raises GenlibError when shapes, types or ranges do not fit.
    """
    if originals.shape != reconstructions.shape:
        raise GenlibError(
            f"reconstructions: shape {reconstructions.shape} for originals of {originals.shape}; pass equal shapes"
        )
    difference = unit_range(originals, "originals") - unit_range(reconstructions, "reconstructions")
    errors: NDArray[np.float64] = np.square(difference).mean(axis=(1, 2, 3))
    return errors


def psnr(mse: ArrayLike) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio in dB of mean squared errors on a scale with peak 1: -10 log10(mse), same shape.

    Higher is better; an error of 0 gives infinity. Raises GenlibError for NaN and negative errors.
    """
    errors = np.asarray(mse, dtype=np.float64)
    if not (errors >= 0).all():
        raise GenlibError(f"mse: minimum {errors.min():.4g}; pass mean squared errors, which are >= 0")
    with np.errstate(divide="ignore"):
        return -10 * np.log10(errors)


def mean_psnr(errors: NDArray[np.float64]) -> float:
    """Mean over images of each image's PSNR in dB, from `errors` as `image_mse` gives them (N).

    This is what denoising papers tabulate. It is not the PSNR of the mean error, which says nothing that the mean error
    does not say already; by Jensen's inequality it is never below that. Raises GenlibError when there are no images,
    and when an image is reproduced exactly: its PSNR is infinite, and so would be the mean.
    """
    if errors.ndim != 1 or errors.size == 0:
        raise GenlibError(f"errors: shape {errors.shape}; pass one mean squared error per image, of at least 1 image")
    if (errors == 0).any():
        raise GenlibError(
            f"errors: image {int(np.argmin(errors))} is reproduced exactly, so its PSNR is infinite; "
            f"report the mean squared error"
        )
    return float(psnr(errors).mean())
