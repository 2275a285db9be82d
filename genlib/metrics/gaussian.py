"""Samples of the Gaussian fitted to the pixels of images: what a model that knows only mean and covariance draws.

Of faces it draws ghosts of faces. Their FID is a ceiling: a model that has learned shapes stays far below it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genlib.errors import GenlibError

_CHUNK_VALUES = 1 << 24  # 64 MiB of float32 at a time, of images and of their weights


def draw_gaussian(images: NDArray[np.uint8], count: int, generator: torch.Generator) -> NDArray[np.uint8]:
    """`count` images uint8 C H W, drawn from the Gaussian with the mean and the unbiased covariance of `images`.

    images: uint8 N C H W, N >= 2; memory-mapped ones are read in chunks, twice. Rounded and clipped to 0..255, which
    takes a little of the variance where the pixels reach black or white. The generator's device does the work; a
    generator on the CPU gives the same images for every size of chunk, but for rounding.
    Raises GenlibError for other images and for a count below 1.
    """
    return gaussian_pixels(images, count, generator).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def gaussian_pixels(images: NDArray[np.uint8], count: int, generator: torch.Generator) -> Tensor:
    """`draw_gaussian` before rounding: count C H W float32 on the generator's device, values on the scale 0..255.

    x = m + (N - 1)^(-1/2) X_c^T w with w ~ N(0, I_N), X_c the centred images as rows: its mean is m and its covariance
    X_c^T X_c / (N - 1), whatever its rank, without forming D x D numbers. Takes 2 * count * N * D operations.
    """
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) < 2 or images.size == 0:
        raise GenlibError(
            f"images: {images.dtype} array of shape {images.shape}; pass uint8 N x C x H x W, N at least 2"
        )
    if count < 1:
        raise GenlibError(f"count: {count} images asked for; ask for at least 1")
    flat = images.reshape(len(images), -1)
    step = max(1, _CHUNK_VALUES // max(flat.shape[1], count))
    mean = np.sum([flat[start : start + step].sum(0, dtype=np.int64) for start in range(0, len(flat), step)], axis=0)
    centre = torch.from_numpy(mean / len(flat)).to(generator.device, torch.float32)
    # In place: the sum over chunks, then scale and mean. It is the one array that is as large as the result.
    pixels = torch.zeros(count, flat.shape[1], device=generator.device)
    for start in range(0, len(flat), step):
        centred = torch.from_numpy(np.array(flat[start : start + step])).to(generator.device).float() - centre
        weights = torch.empty(len(centred), count, device=generator.device)
        for row in weights:  # one image at a time: how many numbers a call asks for changes what a generator gives
            torch.randn(count, generator=generator, out=row)
        pixels.addmm_(weights.T, centred)
    return pixels.mul_((len(flat) - 1) ** -0.5).add_(centre).reshape(count, *images.shape[1:])
