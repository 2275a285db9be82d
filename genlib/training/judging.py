"""A model's samples judged while it trains: against the validation split, in the measuring network's features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from genlib import rng
from genlib.data.arrays import Images
from genlib.errors import GenlibError
from genlib.features import MeasuringNetwork
from genlib.metrics.classes import class_shares, covered
from genlib.metrics.frechet import Statistics, frechet_distance, statistics

COVERED_SHARE = 0.03
"""A class counts as covered from this share of the samples on. No param: what training does is not to depend on how
its result is evaluated.
"""
_FALL = 0.5  # of the diversity, below the highest so far
_LEAST_DIVERSITY = 0.25  # once the first quarter of training is over

Numbers = dict[str, float]


@dataclass(frozen=True)
class Judge:
    """What samples are held against: statistics of validation images in the features of `network`.

    `tells_classes`: whether the images are of the classes that the network knows.
    """

    network: MeasuringNetwork
    reference: Statistics
    tells_classes: bool

    @property
    def count(self) -> int:
        """How many samples to judge: as many as there are images behind the reference."""
        return self.reference.count

    def measure(self, samples: Images) -> Numbers:
        """Samples uint8 N C H W in numbers.

        `fid`: Frechet distance to the validation images (>= 0, lower is better); comparable between epochs of one
        training, hardly otherwise. `diversity`: total variance of the samples' features over that of the validation
        images' (0: one image over and over; 1: as varied as they are). `classes`, where the network tells them: how
        many have a share of at least `COVERED_SHARE`.
        """
        features, judged = self.network.measure(samples)
        drawn = statistics(features)
        numbers = {"fid": frechet_distance(drawn, self.reference)}
        if self.tells_classes:
            shares = class_shares(judged.argmax(1), len(self.network.classes))
            numbers["classes"] = float(covered(shares, COVERED_SHARE))
        return numbers | {"diversity": _variance(drawn) / _variance(self.reference)}


def judge(network: MeasuringNetwork, card: Mapping[str, Any], val: Images, most: int, seed: int) -> Judge:
    """A judge that knows `most` images of the validation split, or all of them if there are fewer.

    Args:
        network: the measuring network.
        card: that of the dataset.
        val: its validation split, uint8 N C H W.
        most: how many of them, and how many samples, are compared. FID falls with their number: equal counts.
        seed: of the choice among them.

    Raises:
        GenlibError: the network is for images of another shape, or the validation split has fewer than two images or
            no two that differ.
    """
    # At random, for the first ones may be of few people.
    chosen = torch.randperm(len(val), generator=rng.generator(seed, "judged images"))[:most].sort().values.numpy()
    if len(chosen) < 2:
        raise GenlibError(f"validation split: {len(val)} images; judging samples takes 2 or more: hold out more")
    reference = statistics(network.measure(np.array(val[chosen]))[0])
    if _variance(reference) == 0:
        raise GenlibError(
            f"validation split: the measuring network of {network.dataset} sees no difference between its "
            f"{len(chosen):,} images, so that samples cannot be judged; check the dataset, or train the network longer"
        )
    same_classes = network.labels == card["labels"] == "classes" and tuple(card["classes"]) == network.classes
    return Judge(network, reference, same_classes)


def collapse(numbers: Numbers, earlier: Sequence[Numbers], epochs: int, classes: int) -> str | None:
    """What makes an epoch's samples look like mode collapse, in words; None if nothing does.

    They cover at least two classes fewer than after an earlier epoch, or one fewer for the second time running; or they
    are less than half as diverse; or, after the first quarter of training, less than a quarter as diverse as real
    images.

    Args:
        numbers: what `Judge.measure` said after this epoch.
        earlier: the same after each epoch before it.
        epochs: of the whole training.
        classes: how many there are.
    """
    epoch, reasons = len(earlier) + 1, []
    if "classes" in numbers:
        before, most = _highest("classes", earlier)
        now = numbers["classes"]
        # One class fewer, once, may be luck: a share that wavers about the threshold.
        if now < most - 1 or all(row["classes"] < most for row in [*earlier[-1:], numbers]):
            reasons.append(f"samples cover {now:.0f} of {classes} classes, {most:.0f} after epoch {before}")
    before, highest = _highest("diversity", earlier)
    diversity = f"samples are {numbers['diversity']:.2f} times as diverse as real images"
    if numbers["diversity"] < _FALL * highest:
        reasons.append(f"{diversity}, {highest:.2f} times after epoch {before}")
    elif numbers["diversity"] < _LEAST_DIVERSITY and epoch > epochs / 4:
        reasons.append(diversity)
    return f"{' and '.join(reasons)}; this may be mode collapse" if reasons else None


def _highest(name: str, earlier: Sequence[Numbers]) -> tuple[int, float]:
    """The first epoch at which a number was highest, and what it was there; 0 and 0 if there is none yet."""
    return max(((n, row[name]) for n, row in enumerate(earlier, start=1)), key=lambda one: one[1], default=(0, 0.0))


def _variance(of: Statistics) -> float:
    """Total variance: the trace of the covariance."""
    return float(np.trace(of.covariance))
