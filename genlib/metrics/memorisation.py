"""Whether samples are copies of training images, judged by how near held-out images come to those."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genlib.errors import GenlibError
from genlib.metrics.nearest import NearestPoints

_SHARE = 0.01
_FEWEST_HELD_OUT = 100  # of fewer images there is no nearest 1 %


@dataclass(frozen=True)
class Memorisation:
    """Shares of samples and held-out images that look copied (0..1), and a ratio of distances; see `memorisation`."""

    copied_share: float
    expected_share: float
    median_ratio: float


class Originals:
    """Training images (M ..., M >= 2) that copies may be of.

    Rows of any equal shape, integers or floats; uint8 images are compared as they are, on the scale 0..255, and may be
    memory-mapped. Raises GenlibError for rows without numbers, NaN and infinity.
    """

    def __init__(self, train: NDArray[Any]) -> None:
        if train.ndim < 2 or train.size == 0:
            raise GenlibError(f"training rows: shape {train.shape}; pass 2 or more rows")
        self._shape = train.shape
        self._points = NearestPoints(train.reshape(len(train), -1))

    def two_nearest(self, queries: NDArray[Any]) -> NDArray[np.float64]:
        """Euclidean distances of `queries` (N ...) to the nearest and second nearest of these: N 2; a copy's is 0.

        Raises GenlibError for another shape, fewer than 2 training rows, NaN and infinity.
        """
        if queries.ndim < 2 or queries.shape[1:] != self._shape[1:] or queries.size == 0:
            raise GenlibError(
                f"queries: shape {queries.shape} for training rows of {self._shape}; pass N >= 1 rows of the same shape"
            )
        return self._points.distances(queries.reshape(len(queries), -1), 2)


def memorisation(samples: NDArray[np.float64], heldout: NDArray[np.float64]) -> Memorisation:
    """Judge samples (N 2) against held-out images (M 2, M >= 100) by distances that `two_nearest` gives, in pixels.

    An image looks copied when one training image is much nearer than all others: when the ratio of its two distances
    is no larger than that of the 1 % of held-out images where it is smallest. `copied_share`: of the samples;
    `expected_share`: of the held-out images, 0.01, and more where they contain copies themselves. `median_ratio`:
    median distance to the nearest training image, of samples over that of held-out images.

    Why the ratio: a blurred image is nearer to everything, so distances alone accuse every blurring model (8 % of an
    LFW VAE's samples, 3 % of a GAN's, where the ratio gives 0.9 % and 0.6 %), and `median_ratio` is below 1 for such a
    model: a hint and no proof. Why pixels: of training images put in the place of a tenth of the samples, with noise of
    10 grey levels or blurred a little, the ratio in pixels finds 9 in 10 or more; that in a measuring network's
    features finds few such faces and few such blurred digits.

    What it cannot see: copies of training images that have a near twin in the training set; mirrored ones (pass
    mirrored queries too); MNIST digits moved by one pixel, which is as far as from one digit to the next; and mixtures
    of several images. Up to the expected share, nothing can be said of single images.
    Raises GenlibError for other shapes, falling distances, NaN, and fewer than 100 held-out images.
    """
    _check_distances(samples, "samples", 1)
    _check_distances(heldout, "heldout", _FEWEST_HELD_OUT)
    typical = float(np.median(heldout[:, 0]))
    if typical == 0:
        raise GenlibError("heldout: median distance 0: most are training images; pass images kept out of the training")
    ratios, usual = _ratios(samples), _ratios(heldout)
    threshold = np.quantile(usual, _SHARE, method="inverted_cdf")
    return Memorisation(
        copied_share=float(np.mean(ratios <= threshold)),
        expected_share=float(np.mean(usual <= threshold)),
        median_ratio=float(np.median(samples[:, 0])) / typical,
    )


def _ratios(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nearest over second nearest: N in 0..1; 0 for a copy, also of an image that is in the training set twice."""
    return np.divide(distances[:, 0], distances[:, 1], out=np.zeros(len(distances)), where=distances[:, 1] > 0)


def _check_distances(distances: NDArray[np.float64], name: str, at_least: int) -> None:
    if distances.ndim != 2 or distances.shape[1] != 2 or len(distances) < at_least:
        raise GenlibError(
            f"{name}: shape {distances.shape}; pass N x 2 distances, made by Originals.two_nearest(), N >= {at_least}"
        )
    # Written so that NaN fails too.
    if not ((distances[:, 0] >= 0).all() and (distances[:, 1] >= distances[:, 0]).all()):
        raise GenlibError(f"{name}: negative, falling or NaN distances; make them with Originals.two_nearest()")
