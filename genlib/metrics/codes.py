"""What an encoder makes of its code: how many of its numbers it uses, and how far all codes together are from N(0, I).

A decoder is fed codes from N(0, I) when samples are drawn; where the codes of images are elsewhere, it was not trained.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genlib.errors import GenlibError
from genlib.metrics.frechet import statistics

ACTIVE_ABOVE = 0.01


def active_units(means: NDArray[Any], threshold: float = ACTIVE_ABOVE) -> int:
    """How many of Z numbers of the code tell images apart: variance over images above `threshold`.

    means: N Z real numbers, N >= 2, each row the mean of an image's posterior. A number that the encoder ignores has
    mean 0 for every image; those in use are mostly far above the threshold (Burda et al. 2016, section 5.2).
    Raises GenlibError for other means (see `statistics`).
    """
    return int((np.diag(statistics(means).covariance) > threshold).sum())


def aggregate_mismatch(codes: NDArray[Any]) -> float:
    """KL(N(m, C) || N(0, I)) in nats, with the mean m and the unbiased covariance C of `codes`; 0 or more.

    codes: N Z real numbers, N > Z: one draw from each image's posterior, for an autoencoder the codes themselves. This
    sees the first two moments of the codes only: 0 does not say that they are Gaussian. Of N draws from N(0, I) itself
    it is about Z (Z + 3) / (4 N), not 0.
    Raises GenlibError for too few codes, for a covariance that is singular, and as `statistics` does.
    """
    fitted = statistics(codes)
    dimensions = fitted.mean.size
    if fitted.count <= dimensions:
        raise GenlibError(f"codes: {fitted.count} of {dimensions} numbers each; pass at least {dimensions + 1}")
    variances = np.linalg.eigvalsh(fitted.covariance)
    flat = int((variances <= dimensions * np.finfo(np.float64).eps * variances[-1]).sum())
    if flat:
        raise GenlibError(
            f"codes: without variance in {flat} of {dimensions} directions, which is infinitely far from N(0, I); "
            "check the encoder, or lower latent_dim"
        )
    return float(0.5 * (fitted.mean @ fitted.mean + (variances - 1 - np.log(variances)).sum()))
