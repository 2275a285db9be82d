"""Real images, spoilt more and more: every number of the evaluation goes the way it should, or misleads as stated."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.directions import BETTER, CORRUPTIONS, EXPECTED, MISLEADS, Material, Measured, make_stick, measure
from genlib import features
from genlib.data.arrays import Split, open_split
from genlib.data.processed import preprocess
from genlib.data.sources import provide_dataset
from genlib.errors import GenlibError
from genlib.features import MeasuringNetwork
from genlib.settings import DigitsSource, EvaluateSettings, FeatureSettings, IdxSettings, MnistSource

CPU = torch.device("cpu")
_REAL = os.environ.get("GENLIB_MIRROR", "")
NAMES = [corruption.name for corruption in CORRUPTIONS]
BAD = [name for name in NAMES if name != "copies"]
CELLS = [(metric, name, way) for metric, ways in EXPECTED.items() for name, way in zip(NAMES, ways, strict=True) if way]

SETTINGS = EvaluateSettings.model_validate(
    {
        "seed": 0,
        "sets": 1,
        "neighbours": 5,
        "pairs": 200,
        "nearest_images": 300,
        "covered_share": 0.03,
        "importance": {"samples": 1, "images": 2},
        "importance_of": {},
        "features": "domain",
    }
)


def first(split: Split, count: int) -> Split:
    return Split(split.images[:count], split.labels[:count])


def spoilt(folder: Path, dataset: str, settings: IdxSettings, train_images: int, count: int) -> Measured:
    """All corruptions of `count` images against as many, with a network trained on `train_images` for two epochs."""
    raw, out = folder / "raw", folder / dataset
    provide_dataset(settings.source, dataset, raw, folder / "work")
    card = preprocess(dataset, settings, raw, out)
    train, val, test = (open_split(out, split) for split in ("train", "val", "test"))
    train = first(train, train_images)
    material = Material.of(train, val, first(test, 2 * count))
    values = {"seed": 0, "net": "plain", "epochs": 2, "batch_size": 64, "lr": 5e-3, "width": 8, "shift": 0}
    trained_by = FeatureSettings.model_validate(values | {"flip": False})
    classifier = features.train(train, "classes", 10, trained_by, 0, CPU)
    network = MeasuringNetwork(dataset, "classes", tuple(card["classes"]), "0" * 64, classifier, CPU)
    stick = make_stick(material, card, network, SETTINGS, count)
    assert len(stick.test) == stick.count == count
    return measure(material, stick)


@pytest.fixture(
    scope="module",
    params=[
        "digits",
        pytest.param("mnist", marks=pytest.mark.skipif(not _REAL, reason="GENLIB_MIRROR names no mirror")),
    ],
)
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("directions")
    if request.param == "mnist":
        settings = IdxSettings(source=MnistSource(kind="mnist"), image_size=28, validation_images=5000)
        return spoilt(folder, "mnist", settings, 10_000, 2000)
    drawn = DigitsSource(kind="digits", train_images=2500, test_images=1000)
    settings = IdxSettings(source=drawn, image_size=28, validation_images=500)
    return spoilt(folder, "digits", settings, 2000, 500)


@pytest.mark.parametrize("corruption", BAD)
def test_fid_worsens_at_every_level(measured: Measured, corruption: str) -> None:
    assert (np.diff(measured.values("fid", corruption)) > 0).all()


def test_kid_sees_every_set_without_some_class(measured: Measured) -> None:
    """It does not rise with each of them: with the pipeline's network on MNIST it falls by four errors at the last."""
    clean, *dropped = measured.values("kid", "classes dropped")
    assert min(dropped) - clean > 5 * measured.deviation["kid"]
    assert max(dropped[:4]) < min(dropped[5:])


@pytest.mark.parametrize("corruption", [name for name in BAD if name != "classes dropped"])
def test_kid_worsens_at_every_level(measured: Measured, corruption: str) -> None:
    kid = measured.values("kid", corruption)
    errors = [numbers["kid_standard_error"] for numbers in measured.levels[corruption]]
    assert (np.diff(kid) > -2 * np.array(errors)).all()
    assert kid[-1] == max(kid)
    assert kid[-1] - kid[0] > 5 * measured.deviation["kid"]


def test_copies_are_as_good_as_other_real_images_for_all_but_the_memorisation_test(measured: Measured) -> None:
    for metric in ("fid", "kid"):
        least = min(measured.values(metric, name)[-1] for name in BAD)
        assert measured.values(metric, "copies")[-1] < least / 3


def test_memorisation_sees_copies_and_nothing_else(measured: Measured) -> None:
    copies = next(corruption for corruption in CORRUPTIONS if corruption.name == "copies")
    assert measured.values("copied_share", "copies") == pytest.approx([0.01, *copies.levels], abs=0.07)
    assert measured.values("nearest_ratio", "copies")[-1] == 0
    assert max(max(measured.values("copied_share", name)) for name in BAD) < 0.1


def test_every_class_dropped_is_seen(measured: Measured) -> None:
    assert measured.values("classes_covered", "classes dropped") == list(range(10, 0, -1))
    assert (np.diff(measured.values("class_distance", "classes dropped")) > 0.03).all()
    assert (np.diff(measured.values("coverage", "classes dropped")) < -0.03).all()
    assert measured.values("class_distance", "classes dropped")[-1] > 0.8
    assert measured.values("coverage", "classes dropped")[-1] < 0.2


def test_the_table(measured: Measured) -> None:
    """Same: within the noise, or less than a third of what the corruptions do to it that it sees."""
    wrong = {}
    for metric, corruption, way in CELLS:
        found = measured.direction(metric, corruption)
        seen = [name for of, name, towards in CELLS if of == metric and towards == "worse"]
        moves = {name: abs(measured.values(metric, name)[-1] - measured.clean[metric]) for name in NAMES}
        small = moves[corruption] < min((moves[name] for name in seen), default=0.0) / 3
        if found != way and not (way == "same" and small):
            wrong[metric, corruption] = (way, found, measured.values(metric, corruption))
    assert wrong == {}


def test_the_table_is_of_all_that_is_measured_and_says_where_it_misleads(measured: Measured) -> None:
    assert BETTER.keys() == EXPECTED.keys() == measured.clean.keys() - {"kid_standard_error"}
    assert {len(ways) for ways in EXPECTED.values()} == {len(NAMES)}
    assert MISLEADS.keys() <= {(metric, name) for metric in EXPECTED for name in NAMES}
    better = {(metric, corruption) for metric, corruption, way in CELLS if way == "better"}
    assert better <= MISLEADS.keys()
    assert not MISLEADS.keys() & {(metric, corruption) for metric, corruption, way in CELLS if way == "worse"}


def ways(values: list[float], deviation: float = 0.1, metric: str = "fid") -> str:
    numbers = [{metric: value} for value in values]
    return Measured(numbers[0], {metric: deviation}, {"noise": numbers[1:]}).direction(metric, "noise")


@pytest.mark.parametrize(
    ("values", "direction"),
    [
        ([1, 2, 3], "worse"),
        ([1, 1.2, 1.0, 3], "worse"),
        ([3, 2, 1], "better"),
        ([1, 1.29, 0.71], "same"),
        ([1, 3, 2], "mixed"),
        ([1, 3, 1], "mixed"),
        ([1, 0.8, 2], "worse"),
        ([1, 0.5, 2], "mixed"),
    ],
)
def test_directions(values: list[float], direction: str) -> None:
    assert ways(values) == direction
    opposite = {"worse": "better", "better": "worse"}
    assert ways(values, metric="recall") == opposite.get(direction, direction)


def test_what_the_corruptions_make() -> None:
    random = np.random.default_rng(0)
    drawn = [random.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8) for count in (50, 40, 60)]
    train, val, test = (Split(images, np.arange(len(images)) % 4) for images in drawn)
    material = Material.of(train, val, test)
    np.testing.assert_array_equal(material.reference.images, test.images[::2])
    np.testing.assert_array_equal(material.heldout.images[:30], test.images[1::2])
    np.testing.assert_array_equal(material.heldout.images[30:], val.images)
    np.testing.assert_array_equal(material.heldout.labels[:30], test.labels[1::2])
    clean = material.heldout.images[:20]
    made = {corruption.name: corruption.apply for corruption in CORRUPTIONS}
    for name in ("noise", "blur"):
        assert made[name](material, 20, 0.5).dtype == np.uint8
        np.testing.assert_array_equal(made[name](material, 20, 1e-3), clean)
    assert made["noise"](material, 20, 5).astype(int).std() > 0
    assert np.abs(made["noise"](material, 20, 9).astype(int) - clean).mean() == pytest.approx(7.2, abs=1)
    assert made["blur"](material, 20, 2).std() < 0.4 * clean.std()
    np.testing.assert_array_equal(made["classes dropped"](material, 20, 0), clean)
    kept = material.heldout.images[material.heldout.labels == 3]
    np.testing.assert_array_equal(made["classes dropped"](material, 60, 3), kept[np.arange(60) % len(kept)])
    with pytest.raises(GenlibError, match="classes: 4 dropped"):
        made["classes dropped"](material, 20, 4)
    np.testing.assert_array_equal(made["duplicates"](material, 20, 5), np.tile(clean[:4], (5, 1, 1, 1)))
    copies = made["copies"](material, 20, 0.3)
    known = {image.tobytes() for image in train.images}
    assert sum(image.tobytes() in known for image in copies) == 6
    assert sum(image.tobytes() == other.tobytes() for image, other in zip(copies, clean, strict=True)) == 14
