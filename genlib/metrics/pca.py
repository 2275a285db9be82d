"""Principal components of images: the best linear compression, which an autoencoder of as many numbers has to beat."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from genlib.errors import GenlibError
from genlib.metrics.frechet import float64_chunks, statistics
from genlib.metrics.reconstruction import unit_range

EXACT_UP_TO = 4096  # values per image; beyond, D x D covariances get too large (12,288: 1.2 GB) and slow to decompose
_CONVERGED = 1e-7  # relative growth of the captured variance in one pass over the images
_MAX_PASSES = 100
_CHUNK = 512  # images at a time in a pass


@dataclass(frozen=True, eq=False)
class PCA:
    """The first K principal components of images C H W with D = C*H*W values in [0, 1].

    mean: D float64; components: K D float64, orthonormal rows by falling variance (the sign of each is arbitrary);
    variances: K float64, of the images along them (unbiased); image_shape: (C, H, W).
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    variances: NDArray[np.float64]
    image_shape: tuple[int, int, int]

    def reconstruct(self, images: NDArray[Any], components: int) -> NDArray[np.float64]:
        """`images` (N C H W, uint8 or floats in [0, 1]) from their first `components` numbers: float64 in [0, 1].

        Clipped to [0, 1]. That moves no pixel away from its original, and a decoder with a sigmoid has it built in:
        unclipped, PCA would lose part of the comparison to its range and not to its code. Works on float64 copies: pass
        large sets in batches. Raises GenlibError for another image shape or more components than were fitted.
        """
        _check_components(components, len(self.components), "fitted")
        if images.shape[1:] != self.image_shape:
            raise GenlibError(
                f"images: shape {images.shape} for components of {self.image_shape}; pass images like those fitted"
            )
        basis = self.components[:components]
        codes = (unit_range(images).reshape(len(images), -1) - self.mean) @ basis.T
        return np.clip(codes @ basis + self.mean, 0.0, 1.0).reshape(images.shape)


def fit_pca(images: NDArray[np.uint8], components: int, *, exact_up_to: int = EXACT_UP_TO) -> PCA:
    """Fit the first `components` principal components to `images` (N C H W uint8; memory-mapped ones stay on disk).

    Images of up to `exact_up_to` values: eigenvectors of the covariance. Larger ones: subspace iteration, which never
    forms it (Halko, Martinsson & Tropp 2011, sec. 4.5, with a fixed start). Both read the images in chunks, accumulate
    in float64 and give the same numbers each time.
    Raises GenlibError when images are not uint8 N C H W, when components is not in 1..min(N - 1, C*H*W), and when the
    iteration does not converge.
    """
    if images.ndim != 4 or images.dtype != np.uint8 or images.size == 0:
        raise GenlibError(f"images: {images.dtype} array of shape {images.shape}; pass uint8 N x C x H x W")
    count, channels, height, width = images.shape
    flat = images.reshape(count, -1)
    _check_components(components, min(count - 1, flat.shape[1]), "available (the lesser of images - 1 and C*H*W)")
    if flat.shape[1] <= exact_up_to:
        mean, values, vectors = _exact(flat, components)
    else:
        mean, values, vectors = _iterated(flat, components)
    return PCA(
        mean=mean / 255,
        components=np.ascontiguousarray(vectors.T[::-1]),
        variances=values[::-1] / 255**2,
        image_shape=(channels, height, width),
    )


_Eigen = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]  # mean D, rising values K, vectors D K


def _exact(flat: NDArray[np.uint8], components: int) -> _Eigen:
    fitted = statistics(flat)
    dimensions = flat.shape[1]
    top = (dimensions - components, dimensions - 1)
    values, vectors = scipy.linalg.eigh(fitted.covariance, subset_by_index=top)
    return fitted.mean, values, vectors


def _iterated(flat: NDArray[np.uint8], components: int) -> _Eigen:
    """Subspace iteration: multiply a basis by the covariance, make it orthonormal, until it captures no more variance.

    The basis is wider than asked for, since the error falls with the ratio of the first variance left out of it to the
    last one wanted. What is watched is what PCA is for: the variance captured, so the error left.
    """
    mean = np.sum([chunk.sum(axis=0) for chunk in float64_chunks(flat)], axis=0) / len(flat)
    width = min(components + max(16, components // 2), flat.shape[1])
    start = np.random.default_rng(0).standard_normal((flat.shape[1], width))
    basis = np.linalg.qr(start).Q
    captured = 0.0
    for _ in range(_MAX_PASSES):
        image = _covariance_times(flat, mean, basis)
        values, rotation = np.linalg.eigh(basis.T @ image)  # Rayleigh-Ritz: variances and axes within the basis
        growth, captured = float(values[-components:].sum()) - captured, float(values[-components:].sum())
        if growth <= _CONVERGED * captured:
            return mean, values[-components:], basis @ rotation[:, -components:]
        basis = np.linalg.qr(image).Q
    raise GenlibError(
        f"components: {components} not converged after {_MAX_PASSES} passes over the images; ask for fewer components"
    )


def _covariance_times(
    flat: NDArray[np.uint8], mean: NDArray[np.float64], basis: NDArray[np.float64]
) -> NDArray[np.float64]:
    product = np.zeros_like(basis)
    # Within a chunk in float32, which takes a third of the time; what adds up over chunks is float64.
    narrow, centre = basis.astype(np.float32), mean.astype(np.float32)
    for start in range(0, len(flat), _CHUNK):
        centred = flat[start : start + _CHUNK].astype(np.float32)
        centred -= centre
        product += centred.T @ (centred @ narrow)
    return product / (len(flat) - 1)


def _check_components(asked: int, limit: int, what: str) -> None:
    if not 1 <= asked <= limit:
        raise GenlibError(f"components: {asked} asked for, {limit} {what}; ask for 1 to {limit}")
