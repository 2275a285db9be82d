"""What images are held against: counts, floors, ceilings, the card, and the same numbers however they are computed."""

from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from blobs import NAMES, blobs, by_class, card, classifier, network

from genlib import features, rng
from genlib.data.arrays import Images, Split
from genlib.errors import GenlibError
from genlib.evaluation.yardstick import Numbers, Yardstick, accuracy, network_name, spread, yardstick
from genlib.features import MeasuringNetwork
from genlib.metrics.frechet import frechet_distance, statistics
from genlib.metrics.gaussian import draw_gaussian
from genlib.metrics.kernel import polynomial_mmd
from genlib.settings import EvaluateSettings

OF_ALL = {
    "fid",
    "kid",
    "kid_standard_error",
    "diversity",
    "precision",
    "recall",
    "density",
    "coverage",
    "pair_similarity",
    "copied_share",
    "nearest_ratio",
}
OF_CLASSES = {
    "classes_covered",
    "min_class_share",
    "class_kl_to_uniform",
    "class_distance",
    "confidence",
    "classifier_score",
}
TRAIN, TEST = blobs(500, 0), blobs(200, 1)


def settings(**changes: Any) -> EvaluateSettings:
    values = {
        "seed": 0,
        "sets": 3,
        "neighbours": 3,
        "pairs": 50,
        "nearest_images": 100,
        "covered_share": 0.03,
        "importance": {"samples": 1, "images": 2},
        "importance_of": {},
        "features": "domain",
    }
    return EvaluateSettings.model_validate(values | changes)


def stick(
    samples: int = 120,
    train: Split = TRAIN,
    test: Split = TEST,
    measured_by: MeasuringNetwork | None = None,
    of: dict[str, Any] | None = None,
    **changes: Any,
) -> Yardstick:
    return yardstick(train, test, of or card(), measured_by or network(), settings(**changes), samples)


@cache
def usual() -> Yardstick:
    return stick()


@cache
def of_classes() -> Yardstick:
    return stick(train=by_class(TRAIN), test=by_class(TEST), measured_by=network("classes"), of=card("classes"))


def fid(images: Images, others: Images) -> float:
    return frechet_distance(*(statistics(network().measure(part)[0]) for part in (images, others)))


def drawn(purpose: str, count: int, seed: int = 0) -> Images:
    """Training images in the order drawn, each at most once."""
    order: list[int] = torch.randperm(len(TRAIN.images), generator=rng.generator(seed, purpose)).tolist()
    return TRAIN.images[order[:count]]


@pytest.mark.parametrize(
    ("samples", "train", "test", "count"), [(120, 500, 200, 120), (400, 500, 200, 200), (180, 150, 200, 150)]
)
def test_all_sets_have_as_many_images_as_the_least(samples: int, train: int, test: int, count: int) -> None:
    made = stick(samples, blobs(train, 0), blobs(test, 1))
    assert made.count == count
    assert made.card(card())["samples"] == count
    assert made.card(card())["reference"] == test


def test_distances_by_hand_and_as_part_of_all() -> None:
    images = blobs(120, 4).images
    numbers = usual().measure(images)
    assert numbers.keys() == OF_ALL | {"attribute_gap"}
    measured, reference = (network().measure(part)[0] for part in (images, TEST.images))
    assert numbers["fid"] == pytest.approx(fid(images, TEST.images), rel=1e-6)
    assert numbers["kid"] == pytest.approx(polynomial_mmd(measured, reference), rel=1e-9)
    varied = [np.var(part.astype(np.float64), axis=0, ddof=1).sum() for part in (measured, reference)]
    assert numbers["diversity"] == pytest.approx(varied[0] / varied[1], rel=1e-6)
    assert usual().distances(images) == {
        name: numbers[name] for name in ("fid", "kid", "kid_standard_error", "diversity")
    }


def test_the_floor_is_of_training_images_and_the_ceiling_of_their_gaussian() -> None:
    floor, ceiling = usual().floor(), usual().ceiling()
    assert floor.keys() == ceiling.keys() == OF_ALL | {"attribute_gap"}
    assert floor["fid"] == pytest.approx(fid(drawn("floor", 120), TEST.images), rel=1e-5)
    gaussian = draw_gaussian(TRAIN.images, 120, rng.generator(0, "pixel gaussian"))
    assert ceiling == usual().measure(gaussian)
    assert floor["fid"] < 0.2 * ceiling["fid"]
    assert floor["coverage"] > ceiling["coverage"]


def test_the_floor_of_memorisation_is_that_of_held_out_images() -> None:
    """Training images are all copies of training images."""
    floor = usual().floor()
    assert usual().measure(drawn("floor", 120))["copied_share"] == 1
    assert floor["copied_share"] == 0.01
    assert floor["nearest_ratio"] == 1


def test_the_floor_does_not_depend_on_the_order_of_the_training_images() -> None:
    """Images of one person come one after another in LFW: the first ones are of few people, and make a worse floor."""
    order = np.argsort(TRAIN.images.mean((1, 2, 3)), kind="stable")
    sorted_train = Split(TRAIN.images[order], TRAIN.labels[order])
    first = fid(sorted_train.images[:120], TEST.images)
    assert stick(train=sorted_train).floor()["fid"] < 0.5 * first


def test_the_bias_is_between_two_parts_of_the_training_images_as_large_as_what_is_compared() -> None:
    both = drawn("bias", 320)
    assert usual().bias() == pytest.approx(fid(both[:120], both[120:]), rel=1e-5)
    assert stick(train=blobs(320, 0)).bias() is not None
    assert stick(train=blobs(319, 0)).bias() is None


def test_images_are_refused_that_are_not_those_to_be_measured() -> None:
    remedy = r"there should be 120 of shape \(3, 16, 16\); run dvc repro"
    with pytest.raises(GenlibError, match=r"samples: 119 of shape \(3, 16, 16\), and " + remedy):
        usual().measure(blobs(119, 0).images)
    with pytest.raises(GenlibError, match=r"samples: 120 of shape \(1, 16, 16\), and " + remedy):
        usual().distances(blobs(120, 0).images[:, :1])
    grey = [Split(split.images[:, :1], split.labels) for split in (TRAIN, TEST)]
    with pytest.raises(GenlibError, match=r"1 x 16 x 16, .* toy was trained on 3 x 16 x 16"):
        stick(train=grey[0], test=grey[1])


def test_attributes_are_judged_on_both_sides() -> None:
    images = blobs(120, 6).images[::-1]
    shares = [(network().measure(part)[1] >= 0.5).mean(0) for part in (images, TEST.images)]
    assert usual().measure(images)["attribute_gap"] == pytest.approx(np.abs(shares[0] - shares[1]).mean(), abs=1e-9)
    details = usual().details(images)["attribute_shares"]
    assert list(details) == list(NAMES)
    for index, name in enumerate(NAMES):
        assert details[name] == pytest.approx({"samples": shares[0][index], "test": shares[1][index]}, abs=1e-9)


def test_classes_are_judged_on_both_sides() -> None:
    images = blobs(120, 7).images[:30].repeat(4, axis=0)
    numbers = of_classes().measure(images)
    assert numbers.keys() == OF_ALL | OF_CLASSES
    outputs = [network("classes").measure(part)[1] for part in (images, TEST.images)]
    second = [float((part.argmax(1) == 1).mean()) for part in outputs]
    assert 0 < second[0] < 1
    shares = np.array([1 - second[0], second[0]])
    assert numbers["class_distance"] == pytest.approx(abs(second[0] - second[1]), abs=1e-9)
    assert numbers["min_class_share"] == pytest.approx(shares.min(), abs=1e-9)
    assert numbers["class_kl_to_uniform"] == pytest.approx(np.sum(shares * np.log(2 * shares)), abs=1e-9)
    assert numbers["classes_covered"] == 2
    assert numbers["confidence"] == pytest.approx(outputs[0].max(1).mean(), abs=1e-6)
    assert 1 <= numbers["classifier_score"] <= 2
    assert of_classes().details(images) == {"class_shares": pytest.approx(dict(zip(NAMES, shares, strict=True)))}


def test_a_class_counts_as_covered_from_its_share_on() -> None:
    images = blobs(360, 7).images[np.r_[1:360:4, 2:120:4]]  # 90 dark squares, 30 bright bars
    shares = of_classes().class_shares(network("classes").measure(images)[1])
    assert shares == pytest.approx([0.75, 0.25], abs=0.1)
    above = replace(of_classes(), settings=settings(covered_share=float(shares.min()) + 1e-6))
    assert above.measure(images)["classes_covered"] == 1


@pytest.mark.parametrize(
    "of", [card("classes", ("cat", "dog")), card("attributes"), card("people", ()), card("classes", ("a", "b"), "x")]
)
def test_classes_that_the_images_are_not_of_say_nothing(of: dict[str, Any]) -> None:
    made = stick(measured_by=network("classes"), of=of)
    assert not made.tells_classes
    assert made.measure(blobs(120, 8).images).keys() == OF_ALL
    assert made.details(blobs(120, 8).images) == {}


def test_the_same_classes_of_another_dataset_count() -> None:
    assert stick(measured_by=network("classes", dataset="other"), of=card("classes")).tells_classes


def test_the_card() -> None:
    made = stick(seed=3, neighbours=4, pairs=60, nearest_images=110, covered_share=0.2, sets=7)
    assert made.card(card() | {"edition": "all", "crop": "central 16 x 16", "resize": "Lanczos"}) == {
        "protocol": 1,
        "features": {"name": "classifier of toy's 2 attributes", "sha256": "0" * 64, "dimensions": 16},
        "images": {
            "dataset": "toy",
            "edition": "all",
            "image_size": 16,
            "channels": 3,
            "crop": "central 16 x 16",
            "resize": "Lanczos",
            "train_sha256": card()["sha256"]["train.npy"],
            "test_sha256": card()["sha256"]["test.npy"],
        },
        "split": "test",
        "reference": 200,
        "samples": 120,
        "sets": 7,
        "floor": "120 training images, chosen at random, against the test split",
        "ceiling": "120 draws of the Gaussian of the training pixels against the test split",
        "leading": "fid",
        "neighbours": 4,
        "kid_blocks": 10,
        "pairs": 60,
        "pair_similarity": "SSIM",
        "nearest_images": 110,
        "covered_share": 0.2,
        "measuring_seed": 3,
    }
    assert card()["sha256"]["train.npy"] != card()["sha256"]["test.npy"]
    assert network_name(network("classes")) == "classifier trained on toy"


def test_no_more_neighbours_are_looked_for_than_there_are_samples() -> None:
    assert stick(samples=110, nearest_images=150).card(card())["nearest_images"] == 110


@pytest.mark.parametrize(("test", "leading"), [(160, "fid"), (159, "kid")])
def test_kid_leads_where_the_reference_has_fewer_than_ten_images_for_each_dimension(test: int, leading: str) -> None:
    assert stick(test=blobs(test, 1)).leading() == leading


def test_spread_is_mean_and_unbiased_deviation() -> None:
    sets: list[Numbers] = [{"fid": 1.0, "kid": 5.0}, {"fid": 2.0, "kid": 5.0}, {"fid": 6.0, "kid": 5.0}]
    assert spread(sets) == {
        "fid": {"mean": 3.0, "std": pytest.approx(7**0.5)},
        "kid": {"mean": 5.0, "std": 0.0},
    }
    assert spread(sets[:1]) == {"fid": {"mean": 1.0, "std": None}, "kid": {"mean": 5.0, "std": None}}


def test_accuracy_is_told_on_the_networks_own_dataset_only() -> None:
    judged = network().measure(TEST.images)[1]
    right = ((judged >= 0.5) == TEST.labels).mean(0)
    baseline = (TEST.labels == (TRAIN.labels.mean(0) >= 0.5)).mean(0)
    found = accuracy(network(), card(), judged, TRAIN, TEST)
    assert found["accuracy"] == pytest.approx(right.mean())
    assert found["baseline"] == pytest.approx(baseline.mean())
    for index, name in enumerate(NAMES):
        expected = {"accuracy": right[index], "baseline": baseline[index]}
        assert found["attributes"][name] == pytest.approx(expected)

    labels, measured_by = (by_class(TRAIN), by_class(TEST)), network("classes")
    chosen = measured_by.measure(TEST.images)[1]
    assert accuracy(measured_by, card("classes"), chosen, *labels) == {
        "accuracy": pytest.approx((chosen.argmax(1) == TEST.labels[:, 0]).mean()),
        "baseline": None,
    }
    assert accuracy(network(dataset="other"), card(), judged, TRAIN, TEST) == {}
    assert accuracy(measured_by, card("people", ()), chosen, *labels) == {}


def test_measuring_again_gives_the_same_numbers_and_the_seed_moves_only_what_is_drawn() -> None:
    images = blobs(120, 9).images
    first, other = stick(), stick(seed=1)
    assert first.measure(images) == stick().measure(images) == first.measure(images)
    moved = {name for name, number in other.measure(images).items() if number != first.measure(images)[name]}
    # 100 of the 200 test images are the held-out ones of the memorisation test.
    assert {"kid_standard_error", "pair_similarity"} <= moved
    assert moved <= {"kid", "kid_standard_error", "pair_similarity", "copied_share", "nearest_ratio"}
    assert other.measure(images)["kid"] == pytest.approx(first.measure(images)["kid"], rel=1e-9)
    assert other.floor()["fid"] != first.floor()["fid"]
    assert other.ceiling()["fid"] != first.ceiling()["fid"]
    assert other.bias() != first.bias()


# What float32 features computed in another order differ by; sums over them are float64.
_ROUNDING = 1e-5


def same(found: Numbers, expected: Numbers, tolerance: float = _ROUNDING, but: tuple[str, ...] = ()) -> None:
    assert found.keys() == expected.keys()
    for name in expected.keys() - set(but):
        assert found[name] == pytest.approx(expected[name], rel=tolerance, abs=tolerance), name


@pytest.mark.parametrize("batch", [1, 7, 200])
def test_batch_size_changes_no_number(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = blobs(120, 10).images
    expected = of_classes().measure(images)
    monkeypatch.setattr(features, "_BATCH", batch)
    again = stick(train=by_class(TRAIN), test=by_class(TEST), measured_by=network("classes"), of=card("classes"))
    same(again.measure(images), expected)


def test_order_of_the_samples_changes_no_number_but_those_of_pairs_and_blocks() -> None:
    """With as many neighbours looked for as there are samples: else they are those of the first ones."""
    images = blobs(120, 11).images
    shuffled = images[np.random.default_rng(0).permutation(120)]
    made = stick(nearest_images=120)
    expected, found = made.measure(images), made.measure(shuffled)
    same(found, expected, but=("pair_similarity", "kid_standard_error"))
    assert found["pair_similarity"] != expected["pair_similarity"]
    assert found["pair_similarity"] == pytest.approx(expected["pair_similarity"], abs=0.1)
    assert found["kid_standard_error"] == pytest.approx(expected["kid_standard_error"], rel=1)


def test_order_of_the_reference_changes_no_number_but_that_of_blocks() -> None:
    images, order = blobs(120, 12).images, np.random.default_rng(1).permutation(200)
    shuffled = Split(TEST.images[order], TEST.labels[order])
    expected, found = (stick(test=test, nearest_images=200).measure(images) for test in (TEST, shuffled))
    same(found, expected, but=("kid_standard_error",))
    assert found["kid_standard_error"] == pytest.approx(expected["kid_standard_error"], rel=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_device_changes_no_number() -> None:
    """Convolutions on a GPU round in TensorFloat-32, to 1e-3, unless told otherwise."""
    images, on = blobs(120, 13).images, torch.device("cuda")
    there = replace(network(), classifier=deepcopy(classifier()).to(on), device=on)
    same(stick(measured_by=there).measure(images), usual().measure(images), tolerance=1e-2)


def test_too_few_test_images_are_said_before_the_work() -> None:
    with pytest.raises(GenlibError, match=r"^toy: 99 test images, too few to measure with; .* data.toy\)$"):
        stick(test=blobs(99, 1))
    assert stick(test=blobs(100, 1)).count == 100
