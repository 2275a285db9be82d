"""Which way each number of the evaluation goes when real images are spoilt more and more, and where it misleads.

    python -m benchmarks.directions [--data data/processed/mnist] [--network data/features/mnist/model.safetensors]
        [--samples 5000] [--out directions.json]

The samples are held-out images: half of the test split and the validation split. The other half of the test split is
what they are held against. Both are real, so the samples as they are get the best numbers there are, and each
corruption, at rising levels, has to make them worse. A change counts as one where it is larger than what other
held-out images would make: three standard deviations over sets of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from genlib import device, features, params
from genlib.data.arrays import Images, Split, open_card, open_split
from genlib.errors import GenlibError
from genlib.evaluation.yardstick import Numbers, Yardstick, spread, yardstick
from genlib.features import MeasuringNetwork
from genlib.files import write_json
from genlib.settings import EvaluateSettings
from stages.command import run

_SETS = 4
_DEVIATIONS = 3

Direction = Literal["worse", "better", "same", "mixed"]

BETTER: dict[str, Literal["low", "high"]] = {
    "fid": "low",
    "kid": "low",
    "precision": "high",
    "recall": "high",
    "density": "high",
    "coverage": "high",
    "diversity": "high",
    "pair_similarity": "low",
    "classes_covered": "high",
    "min_class_share": "high",
    "class_kl_to_uniform": "low",
    "class_distance": "low",
    "confidence": "high",
    "classifier_score": "high",
    "copied_share": "low",
    "nearest_ratio": "high",
}
"""Which way is better, of the numbers of `Yardstick.measure` on a dataset of classes."""

EXPECTED: dict[str, tuple[Direction | None, ...]] = {
    #                     noise     blur     dropped  duplicates copies
    "fid":                 ("worse", "worse", "worse", "worse", "same"),
    "kid":                 ("worse", "worse", None, "worse", "same"),
    "precision":           ("worse", None, None, None, "same"),
    "recall":              ("worse", "worse", "worse", "worse", "same"),
    "density":             (None, None, None, None, None),
    "coverage":            ("worse", "worse", "worse", "worse", "same"),
    "diversity":           ("worse", "worse", None, None, "same"),
    "pair_similarity":     ("better", "worse", None, None, "same"),
    "classes_covered":     (None, None, "worse", None, "same"),
    "min_class_share":     (None, None, "worse", None, "same"),
    "class_kl_to_uniform": (None, None, "worse", None, "same"),
    "class_distance":      (None, None, "worse", None, "same"),
    "confidence":          (None, None, None, None, None),
    "classifier_score":    ("worse", "worse", "worse", None, "same"),
    "copied_share":        ("same", "same", "same", "same", "worse"),
    "nearest_ratio":       ("better", None, None, None, "worse"),
}  # fmt: skip
"""What each number has to do under each of `CORRUPTIONS`, in their order; None where the data decide."""

_REAL = "training images are real: a model that copies them gets the best value there is"
_SINGLE = "it looks at one image at a time: what is missing is not seen"
_SPREAD = "a few images of a few classes can lie as far apart as many of all"

MISLEADS = {
    ("fid", "copies"): _REAL,
    ("kid", "copies"): _REAL,
    (
        "kid",
        "classes dropped",
    ): "always far from clean, but not always further with a class less: which ones are left counts",
    ("precision", "blur"): "mild blur can raise it: what is unusual about an image goes first",
    ("precision", "classes dropped"): _SINGLE,
    ("precision", "duplicates"): _SINGLE,
    ("precision", "copies"): _REAL,
    ("recall", "copies"): _REAL,
    ("density", "blur"): "mild blur can raise it: images move to where more real balls overlap",
    ("density", "classes dropped"): _SINGLE,
    ("density", "duplicates"): _SINGLE,
    ("density", "copies"): _REAL,
    ("coverage", "copies"): _REAL,
    ("diversity", "classes dropped"): _SPREAD,
    ("diversity", "duplicates"): _SPREAD,
    ("pair_similarity", "noise"): "noise makes any two images differ",
    ("pair_similarity", "duplicates"): "few of the pairs drawn are of equal images",
    ("confidence", "noise"): "a network can be certain of images unlike any that it was trained on",
    ("confidence", "blur"): "a network can be certain of images unlike any that it was trained on",
    ("confidence", "classes dropped"): _SINGLE,
    ("confidence", "duplicates"): _SINGLE,
    ("copied_share", "noise"): "fewer look copied than of real images: noise is far from all training images alike",
    ("copied_share", "blur"): "fewer look copied than of real images: blurred ones are near many training images alike",
    ("nearest_ratio", "noise"): "noise takes images away from all training images, copied ones too",
    ("nearest_ratio", "blur"): "a blurred image is nearer to any other: below 1 without a copy",
}
"""Where a number says the better or nothing of images that are worse, and why."""


@dataclass(frozen=True, eq=False)
class Material:
    """Real images: `reference`, what is measured against; `heldout`, others; `train`, what could have been copied."""

    train: Split
    reference: Split
    heldout: Split

    @classmethod
    def of(cls, train: Split, val: Split, test: Split) -> "Material":
        """Halves of the test split, images in turn; the validation split goes to the held-out images."""
        heldout = Split(
            np.concatenate([test.images[1::2], val.images]), np.concatenate([test.labels[1::2], val.labels])
        )
        return cls(train, Split(np.array(test.images[::2]), np.array(test.labels[::2])), heldout)


@dataclass(frozen=True)
class Corruption:
    """A way to spoil images. `levels` rise, and none of them is 0; `unit` says what they are."""

    name: str
    unit: str
    levels: tuple[float, ...]
    apply: Callable[[Material, int, float], Images]


def noise(material: Material, count: int, deviation: float) -> Images:
    """Gaussian noise of that standard deviation, in grey levels; the same draw, scaled, for all."""
    images = material.heldout.images[:count]
    drawn = np.random.default_rng(0).standard_normal(images.shape, np.float32)
    return _uint8(images + deviation * drawn)


def blur(material: Material, count: int, deviation: float) -> Images:
    """Gaussian blur of that standard deviation, in pixels."""
    images = material.heldout.images[:count].astype(np.float32)
    return _uint8(gaussian_filter(images, (0, 0, deviation, deviation)))


def drop_classes(material: Material, count: int, classes: float) -> Images:
    """The first so many classes are missing; in their place are further images of the others, repeated if need be."""
    rows = np.flatnonzero(material.heldout.labels >= classes)
    if len(rows) == 0:
        raise GenlibError(f"classes: {classes:g} dropped, and the held-out images have no others; drop fewer")
    return material.heldout.images[np.resize(rows, count)]


def duplicate(material: Material, count: int, times: float) -> Images:
    """Each image so many times: the fewer different ones."""
    return material.heldout.images[np.resize(np.arange(int(count // times)), count)]


def copy(material: Material, count: int, share: float) -> Images:
    """A share of the images, anywhere among them, is replaced by training images, chosen at random."""
    images = np.array(material.heldout.images[:count])
    random, copied = np.random.default_rng(0), round(share * count)
    places, chosen = (random.permutation(of)[:copied] for of in (count, len(material.train.images)))
    images[places] = material.train.images[chosen]
    return images


CORRUPTIONS = (
    Corruption("noise", "grey levels", (25, 50, 75, 100), noise),
    Corruption("blur", "pixels", (0.5, 1, 1.5, 2), blur),
    Corruption("classes dropped", "classes", (1, 2, 3, 4, 5, 6, 7, 8, 9), drop_classes),
    Corruption("duplicates", "times each", (4, 16, 64), duplicate),
    Corruption("copies", "share", (0.1, 0.25, 0.5, 1), copy),
)


@dataclass(frozen=True)
class Measured:
    """Numbers of the samples as they are, their deviation over other sets, and those of each corruption's levels."""

    clean: Numbers
    deviation: Numbers
    levels: dict[str, list[Numbers]]

    def values(self, metric: str, corruption: str) -> list[float]:
        """A metric along a corruption: clean, then each level."""
        return [self.clean[metric], *(numbers[metric] for numbers in self.levels[corruption])]

    def direction(self, metric: str, corruption: str) -> Direction:
        """Worse or better if it goes that way and ends further than noise from clean; same if it never goes so far."""
        values = np.array(self.values(metric, corruption)) * (1 if BETTER[metric] == "high" else -1)
        noise = _DEVIATIONS * self.deviation[metric]
        away = values - values[0]
        if np.abs(away).max() <= noise:
            return "same"
        steps = np.diff(values)
        if steps.max() <= noise and away[-1] < -noise:
            return "worse"
        if steps.min() >= -noise and away[-1] > noise:
            return "better"
        return "mixed"


def make_stick(
    material: Material, card: Mapping[str, Any], network: MeasuringNetwork, settings: EvaluateSettings, samples: int
) -> Yardstick:
    """What `evaluate` measures with, against the reference. GenlibError if the network does not tell its classes."""
    stick = yardstick(material.train, material.reference, card, network, settings, samples)
    if not stick.tells_classes:
        raise GenlibError(f"network: it tells the {network.labels} of {network.dataset}; pass the one of this dataset")
    return stick


def measure(material: Material, stick: Yardstick, corruptions: Sequence[Corruption] = CORRUPTIONS) -> Measured:
    """The numbers that `evaluate` computes, of the samples as they are and of each corruption at each level."""
    heldout = material.heldout.images
    if len(heldout) <= stick.count:
        raise GenlibError(f"samples: {stick.count} of {len(heldout)} held-out images; measure fewer, to have others")
    sets = [np.random.default_rng(number).permutation(len(heldout))[: stick.count] for number in range(_SETS)]
    over_sets = spread([stick.measure(heldout[np.sort(rows)]) for rows in sets])
    # The sets have images in common, as they are drawn from so few: Cochran 1977, eq. 2.20.
    shrunk = (1 - stick.count / len(heldout)) ** 0.5
    levels = {
        corruption.name: [
            stick.measure(corruption.apply(material, stick.count, level))
            for level in tqdm(corruption.levels, corruption.name, leave=False, disable=None)
        ]
        for corruption in corruptions
    }
    deviation = {name: (number["std"] or 0.0) / shrunk for name, number in over_sets.items()}
    return Measured(stick.measure(heldout[: stick.count]), deviation, levels)


def _uint8(images: Any) -> Images:
    clipped: Images = np.clip(np.round(images), 0, 255).astype(np.uint8)
    return clipped


def main(
    data: Annotated[Path, typer.Option(help="Folder of a processed dataset of classes.")] = Path(
        "data/processed/mnist"
    ),
    network: Annotated[Path, typer.Option(help="Its measuring network.")] = Path(
        "data/features/mnist/model.safetensors"
    ),
    samples: Annotated[int, typer.Option(min=100, help="How many images are spoilt and measured.")] = 5000,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Measure all corruptions and print a table in Markdown."""
    everything = params.load()
    measuring, settings = features.load(network, device.choose(everything.threads)), everything.evaluate
    material = Material.of(*(open_split(data, split) for split in ("train", "val", "test")))
    stick = make_stick(material, open_card(data), measuring, settings, samples)
    measured = measure(material, stick)
    print(f"{stick.count:,} samples against {len(stick.test):,} images of {data.name}\n")
    print("\n".join(_table(measured)))
    if out is not None:
        write_json(
            out,
            {
                "dataset": data.name,
                "network_sha256": measuring.sha256,
                "samples": stick.count,
                "reference": len(stick.test),
                "clean": measured.clean,
                "deviation": measured.deviation,
                "corruptions": {corruption.name: _as_json(measured, corruption) for corruption in CORRUPTIONS},
            },
        )


def _as_json(measured: Measured, corruption: Corruption) -> dict[str, Any]:
    return {
        "unit": corruption.unit,
        "levels": list(corruption.levels),
        "numbers": measured.levels[corruption.name],
        "directions": {metric: measured.direction(metric, corruption.name) for metric in BETTER},
    }


def _table(measured: Measured) -> list[str]:
    """A row for each number: clean, and what it is at each corruption's worst level, with its direction."""
    worst = [f"{corruption.name} ({corruption.levels[-1]:g} {corruption.unit})" for corruption in CORRUPTIONS]
    lines = [f"| number (better) | real | {' | '.join(worst)} |", "| --- |" + " --- |" * (1 + len(worst))]
    for metric, better in BETTER.items():
        cells = [
            f"{measured.values(metric, corruption.name)[-1]:.4g} {measured.direction(metric, corruption.name)}"
            + ("*" if (metric, corruption.name) in MISLEADS else "")
            for corruption in CORRUPTIONS
        ]
        lines.append(f"| {metric} ({better}) | {measured.clean[metric]:.4g} | {' | '.join(cells)} |")
    return [*lines, "", "`*` misleads:", *(f"- {metric}, {name}: {why}" for (metric, name), why in MISLEADS.items())]


if __name__ == "__main__":
    run(main)
