"""Which classes a set of generated images holds, as a classifier sees them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genlib.errors import GenlibError

_SUM_TOLERANCE = 1e-3  # bfloat16 and float32 softmax outputs sum to 1 only so well


def class_shares(labels: NDArray[Any], classes: int) -> NDArray[np.float64]:
    """Share of each class: K float64 in [0, 1] that sum to 1, from `labels` (N integers in 0..classes - 1, N >= 1).

    Raises GenlibError when the labels are empty, not integers, not one-dimensional or out of range.
    """
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.size == 0:
        raise GenlibError(
            f"labels: {labels.dtype} array of shape {labels.shape}; pass N >= 1 integers (the argmax of each row)"
        )
    if classes < 1 or labels.min() < 0 or labels.max() >= classes:
        raise GenlibError(
            f"labels: {labels.min()} to {labels.max()} for {classes} classes; pass labels in 0..{classes - 1}"
        )
    return np.bincount(labels, minlength=classes) / labels.size


def entropy_nats(shares: NDArray[np.float64]) -> float:
    """Shannon entropy of `shares` (K, a distribution) in nats, 0 log 0 = 0: 0 (one class) to log K (all equally)."""
    present = _distributions(shares, "shares", ndim=1)
    present = present[present > 0]
    # Each term is >= 0 as written, so that one class alone gives 0.0, never -0.0.
    return float(np.sum(present * np.log(1 / present)))


def kl_to_uniform(shares: NDArray[np.float64]) -> float:
    """KL(shares || uniform) = log K - entropy, in nats: 0 (all classes equally) to log K (one class)."""
    return max(0.0, float(np.log(shares.size)) - entropy_nats(shares))


def covered(shares: NDArray[np.float64], at_least: float) -> int:
    """How many of the K classes have a share of at least `at_least` (in (0, 1])."""
    if not 0 < at_least <= 1:
        raise GenlibError(f"at_least: {at_least} is not a share; pass a number above 0 and up to 1")
    return int(np.count_nonzero(_distributions(shares, "shares", ndim=1) >= at_least))


def mean_confidence(probabilities: NDArray[Any]) -> float:
    """Mean over images of the probability of the likeliest class (1/K to 1), from `probabilities` N K.

    Raises GenlibError when a row is not a distribution: logits and log-probabilities are refused.
    """
    return float(_distributions(probabilities, "probabilities", ndim=2).max(axis=1).mean())


def inception_style_score(probabilities: NDArray[Any]) -> float:
    """exp of the mean over images of KL(p(y|x) || p(y)), from `probabilities` N K: 1 (all alike) to K.

    High when each image is of one class for certain and all classes are equally frequent (Salimans et al. 2016, sec. 4,
    in one split). With the dataset's own classifier in the place of Inception: not comparable with Inception scores.
    Raises GenlibError when a row is not a distribution.
    """
    given = _distributions(probabilities, "probabilities", ndim=2)
    given /= given.sum(axis=1, keepdims=True)
    overall = given.mean(axis=0)
    # 0 log 0 = 0; where a probability is above 0, so is the mean over images.
    ratios = np.divide(given, overall, out=np.ones_like(given), where=given > 0)
    return float(np.exp(np.maximum(0.0, np.sum(given * np.log(ratios), axis=1).mean())))


def total_variation(shares_a: NDArray[Any], shares_b: NDArray[Any]) -> float:
    """Half the sum of |difference| of two distributions (K): 0 (equal) to 1 (no class in common).

    It is the share of images that would have to change class. Raises GenlibError when one is no distribution or they
    are of unequal length.
    """
    a, b = _distributions(shares_a, "shares_a", ndim=1), _distributions(shares_b, "shares_b", ndim=1)
    if a.shape != b.shape:
        raise GenlibError(f"shares: {a.size} classes against {b.size}; measure both sets with the same network")
    return float(min(1.0, np.abs(a - b).sum() / 2))


def _distributions(values: NDArray[Any], name: str, ndim: int) -> NDArray[np.float64]:
    """`values` as float64, checked: `ndim` axes, none of length 0, entries >= 0 that sum to 1 over the last axis."""
    if values.ndim != ndim or values.size == 0:
        raise GenlibError(f"{name}: shape {values.shape}; pass {ndim} axes, the last one over classes")
    exact = values.astype(np.float64)
    # Written so that NaN fails too.
    if not ((exact >= 0).all() and (np.abs(exact.sum(axis=-1) - 1) <= _SUM_TOLERANCE).all()):
        raise GenlibError(
            f"{name}: not a distribution (minimum {exact.min():.3g}); pass values >= 0 that sum to 1, "
            f"such as the softmax of logits or the exponential of log-probabilities"
        )
    return exact
