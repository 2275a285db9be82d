"""What a set of images is worth, held against a dataset: the same numbers for samples, real images and bad models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genlib import rng
from genlib.data.arrays import Images, Split
from genlib.errors import GenlibError
from genlib.features import MeasuringNetwork, score
from genlib.metrics import classes, frechet, gaussian
from genlib.metrics.attributes import gap, prevalence
from genlib.metrics.kernel import KernelReference
from genlib.metrics.manifold import Manifold
from genlib.metrics.memorisation import Originals, memorisation
from genlib.metrics.structure import pair_similarity, similarity_used
from genlib.settings import EvaluateSettings

Numbers = dict[str, float]

_KID_BLOCKS = 10
_FEWEST = 100  # test images; of fewer there is no nearest 1 %


@dataclass(frozen=True, eq=False)
class Yardstick:
    """A dataset to hold images against; make it with `yardstick`.

    `count`: images in each set that is measured. `train` and `test`: the splits; `seed`: of what is drawn for
    measuring, the same for every model.
    """

    network: MeasuringNetwork
    settings: EvaluateSettings
    train: Images
    test: Images
    count: int
    tells_classes: bool
    statistics: frechet.Statistics
    kernel: KernelReference
    manifold: Manifold
    judged: NDArray[np.float32]
    originals: Originals
    heldout_distances: NDArray[np.float64]

    def measure(self, images: Images) -> Numbers:
        """Numbers of one set, `count` images uint8 N C H W; see docs/evaluation.md for what each means.

        Raises GenlibError for images of another shape or number.
        """
        features, judged = self._measured(images)
        near = self.manifold.compare(features)
        return {
            **self._distances(features),
            "precision": near.precision,
            "recall": near.recall,
            "density": near.density,
            "coverage": near.coverage,
            "pair_similarity": pair_similarity(images, self.settings.pairs, self._generator("pairs")),
            **self._of_outputs(judged),
            **self._of_neighbours(images),
        }

    def distances(self, images: Images) -> Numbers:
        """FID, KID and diversity alone: a tenth of the work of `measure`, and the same numbers."""
        return self._distances(self._measured(images)[0])

    def _measured(self, images: Images) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if images.shape[1:] != self.test.shape[1:] or len(images) != self.count:
            raise GenlibError(
                f"samples: {len(images)} of shape {images.shape[1:]}, and there should be {self.count} of shape "
                f"{self.test.shape[1:]}; run dvc repro"
            )
        return self.network.measure(images)

    def _distances(self, features: NDArray[np.float32]) -> Numbers:
        fitted, distance = frechet.statistics(features), self.kernel.distance(features)
        return {
            "fid": frechet.frechet_distance(fitted, self.statistics),
            "kid": distance.value,
            "kid_standard_error": distance.standard_error,
            "diversity": float(np.trace(fitted.covariance) / np.trace(self.statistics.covariance)),
        }

    def _of_outputs(self, judged: NDArray[np.float32]) -> Numbers:
        """What the network's outputs say, from its probabilities N K.

        Shares of classes mean something where the images are of the classes that it knows; shares of attributes always
        do. Test images are judged by the network as well, and not taken at their labels: so its mistakes are on both
        sides.
        """
        if self.network.labels == "attributes":
            return {"attribute_gap": gap(prevalence(judged), prevalence(self.judged))}
        if not self.tells_classes:
            return {}
        shares = self.class_shares(judged)
        return {
            "classes_covered": float(classes.covered(shares, self.settings.covered_share)),
            "min_class_share": float(shares.min()),
            "class_kl_to_uniform": classes.kl_to_uniform(shares),
            "class_distance": classes.total_variation(shares, self.class_shares(self.judged)),
            "confidence": classes.mean_confidence(judged),
            "classifier_score": classes.inception_style_score(judged),
        }

    def _of_neighbours(self, images: Images) -> Numbers:
        distances = self.originals.two_nearest(images[: self.settings.nearest_images])
        found = memorisation(distances, self.heldout_distances)
        return {"copied_share": found.copied_share, "nearest_ratio": found.median_ratio}

    def class_shares(self, judged: NDArray[np.float32]) -> NDArray[np.float64]:
        """Share of each class among images, K, from the network's probabilities N K."""
        return classes.class_shares(judged.argmax(1), len(self.network.classes))

    def details(self, images: Images) -> dict[str, Any]:
        """Shares of single classes or attributes in one set of images; empty where they mean nothing."""
        if not self.tells_classes and self.network.labels == "classes":
            return {}
        judged, names = self.network.measure(images)[1], self.network.classes
        if self.network.labels == "classes":
            return {"class_shares": dict(zip(names, self.class_shares(judged).tolist(), strict=True))}
        pairs = zip(names, prevalence(judged).tolist(), prevalence(self.judged).tolist(), strict=True)
        return {"attribute_shares": {name: {"samples": drawn, "test": real} for name, drawn, real in pairs}}

    def floor(self) -> Numbers:
        """The numbers of training images, chosen at random: what a perfect model would get.

        Except how many look copied: all of them are. In their place is what held-out images get.
        """
        chosen = _chosen(len(self.train), self.count, self._generator("floor"))
        numbers = self.measure(np.array(self.train[chosen]))
        expected = memorisation(self.heldout_distances, self.heldout_distances)
        return numbers | {"copied_share": expected.copied_share, "nearest_ratio": expected.median_ratio}

    def ceiling(self) -> Numbers:
        """The numbers of draws from the Gaussian with mean and covariance of the training pixels: a bad model."""
        return self.measure(gaussian.draw_gaussian(self.train, self.count, self._generator("pixel gaussian")))

    def bias(self) -> float | None:
        """FID between two sets of real images of one split, as many as are compared otherwise: it should be 0.

        None where the training split is too small for two sets without common images.
        """
        count = self.count + self.statistics.count
        if len(self.train) < count:
            return None
        chosen = _chosen(len(self.train), count, self._generator("bias"), sort=False)
        features = self.network.measure(np.array(self.train[chosen]))[0]
        halves = frechet.statistics(features[: self.count]), frechet.statistics(features[self.count :])
        return frechet.frechet_distance(*halves)

    def leading(self) -> str:
        """Which distance to go by: KID where the reference is too small for a covariance as large as FID's."""
        return "fid" if len(self.test) >= 10 * self.statistics.mean.size else "kid"

    def card(self, dataset: Mapping[str, Any]) -> dict[str, Any]:
        """What was measured with what: results whose cards differ are not to be compared. `dataset`: its card."""
        keys = ("dataset", "edition", "image_size", "channels", "crop", "resize")
        return {
            "protocol": 1,
            "features": {
                "name": network_name(self.network),
                "sha256": self.network.sha256,
                "dimensions": int(self.statistics.mean.size),
            },
            "images": {key: dataset[key] for key in keys}
            | {f"{split}_sha256": dataset["sha256"][f"{split}.npy"] for split in ("train", "test")},
            "split": "test",
            "reference": len(self.test),
            "samples": self.count,
            "sets": self.settings.sets,
            "floor": f"{self.count:,} training images, chosen at random, against the test split",
            "ceiling": f"{self.count:,} draws of the Gaussian of the training pixels against the test split",
            "leading": self.leading(),
            "neighbours": self.settings.neighbours,
            "kid_blocks": _KID_BLOCKS,
            "pairs": self.settings.pairs,
            "pair_similarity": similarity_used(self.test.shape[1:]),
            "nearest_images": min(self.settings.nearest_images, self.count),
            "covered_share": self.settings.covered_share,
            "measuring_seed": self.settings.seed,
        }

    def _generator(self, purpose: str) -> torch.Generator:
        return rng.generator(self.settings.seed, purpose)


def yardstick(
    train: Split,
    test: Split,
    card: Mapping[str, Any],
    network: MeasuringNetwork,
    settings: EvaluateSettings,
    samples: int,
) -> Yardstick:
    """Measure the test split of a dataset once, to hold sets of `samples` images against it.

    Fewer where a split has fewer: floor and ceiling are of equally many, since FID falls with their number.
    `card`: that of the dataset. Raises GenlibError for fewer than 100 test images.
    """
    if len(test.images) < _FEWEST:
        raise GenlibError(
            f"{card['dataset']}: {len(test.images)} test images, too few to measure with; take {_FEWEST} or more "
            f"(params.yaml: data.{card['dataset']})"
        )
    count = min(samples, len(test.images), len(train.images))
    features, judged = network.measure(test.images)
    seed = settings.seed
    heldout = _chosen(len(test.images), settings.nearest_images, rng.generator(seed, "held-out neighbours"))
    originals = Originals(train.images)
    return Yardstick(
        network=network,
        settings=settings,
        train=train.images,
        test=test.images,
        count=count,
        tells_classes=same_labels(card, network) and network.labels == "classes",
        statistics=frechet.statistics(features),
        kernel=KernelReference(features, rng.generator(seed, "kid blocks"), _KID_BLOCKS),
        manifold=Manifold(features, settings.neighbours),
        judged=judged,
        originals=originals,
        heldout_distances=originals.two_nearest(np.array(test.images[heldout])),
    )


def spread(sets: Sequence[Numbers]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation (n - 1) of each number over sets; None for the deviation of a single one."""
    return {
        name: {
            "mean": fmean(numbers[name] for numbers in sets),
            "std": stdev(numbers[name] for numbers in sets) if len(sets) > 1 else None,
        }
        for name in sets[0]
    }


def accuracy(
    network: MeasuringNetwork, card: Mapping[str, Any], judged: NDArray[np.float32], train: Split, test: Split
) -> dict[str, Any]:
    """How often the network is right on the test split of its own dataset; empty on any other."""
    if not same_labels(card, network) or card["dataset"] != network.dataset:
        return {}
    own = score(network, judged, test.labels, train.labels)
    found: dict[str, Any] = {"accuracy": own.accuracy, "baseline": own.baseline}
    if own.attributes:
        found["attributes"] = {
            name: {"accuracy": right, "baseline": baseline} for name, (right, baseline) in own.attributes.items()
        }
    return found


def same_labels(card: Mapping[str, Any], network: MeasuringNetwork) -> bool:
    """Whether a dataset's labels are those that the network tells."""
    return bool(card["labels"] == network.labels and tuple(card["classes"]) == network.classes)


def network_name(network: MeasuringNetwork) -> str:
    """What a card calls it."""
    if network.labels == "classes":
        return f"classifier trained on {network.dataset}"
    return f"classifier of {network.dataset}'s {len(network.classes)} attributes"


def _chosen(of: int, count: int, generator: torch.Generator, sort: bool = True) -> NDArray[np.int64]:
    """Rows chosen at random, each at most once: the first ones may be of few people."""
    rows = torch.randperm(of, generator=generator)[:count]
    chosen: NDArray[np.int64] = (rows.sort().values if sort else rows).numpy()
    return chosen
