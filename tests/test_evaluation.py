"""What evaluation makes of samples: the yardsticks in their order, equal counts, the keys of each case."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from genlib import classifiers, evaluation, features, rng
from genlib.data.arrays import Images, Split
from genlib.errors import GenlibError
from genlib.features import MeasuringNetwork
from genlib.metrics.frechet import frechet_distance, statistics
from genlib.metrics.gaussian import draw_gaussian
from genlib.settings import FeatureSettings

CPU = torch.device("cpu")
NAMES = ("square", "bright")
FIDS = {"fid", "fid_floor", "fid_ceiling"}
OF_CLASSES = {"classes_covered", "min_class_share", "class_entropy", "confidence"}


def blobs(count: int, seed: int) -> Split:
    """Colour images 16 x 16 of one square or one bar in a random place; attributes: is it a square, is it bright."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 30, size=(count, 3, 16, 16), dtype=np.uint8)
    labels = np.stack([np.arange(count) % 2, np.arange(count) // 2 % 2], axis=1)
    for image, (square, bright) in zip(images, labels, strict=True):
        height, width = (6, 6) if square else (2, 14)
        top, left = random.integers(0, 17 - height), random.integers(0, 17 - width)
        image[:, top : top + height, left : left + width] += np.uint8(200 if bright else 110)
    return Split(images, labels)


@cache
def classifier() -> classifiers.Classifier:
    values = {"net": "plain", "epochs": 3, "batch_size": 25, "lr": 5e-3, "width": 4, "shift": 0, "flip": False}
    return features.train(blobs(500, 0), "attributes", 2, FeatureSettings.model_validate(values), 0, CPU)


def network(
    kind: features.Kind = "attributes", names: tuple[str, ...] = NAMES, dataset: str = "toy"
) -> MeasuringNetwork:
    return MeasuringNetwork(dataset, kind, names, "0" * 64, classifier(), CPU)


def card(labels: str = "attributes", classes: tuple[str, ...] = NAMES, dataset: str = "toy") -> dict[str, Any]:
    return {"dataset": dataset, "labels": labels, "classes": list(classes)}


TRAIN, TEST = blobs(500, 0), blobs(300, 1)


def judge(
    samples: Images, network: MeasuringNetwork, card: dict[str, Any], train: Split = TRAIN, test: Split = TEST
) -> tuple[evaluation.Numbers, dict[str, Any]]:
    return evaluation.of_samples(samples, train, test, card, network, 0, 0.03)


def by_class(split: Split) -> Split:
    return Split(split.images, split.labels[:, 0])


def floor_images(count: int) -> Images:
    """Training images chosen at random, each at most once."""
    order = torch.randperm(len(TRAIN.images), generator=rng.generator(0, "floor")).tolist()
    return TRAIN.images[sorted(order[:count])]


def test_fid_puts_floor_corruption_and_ceiling_in_order() -> None:
    noise = np.random.default_rng(2).normal(0, 25, size=TEST.images.shape)
    mild = np.clip(0.85 * blobs(300, 3).images + noise, 0, 255).astype(np.uint8)
    numbers, _ = judge(mild, network(), card())
    assert 0 < numbers["fid_floor"] < 0.5 * numbers["fid"]
    assert numbers["fid"] < 0.5 * numbers["fid_ceiling"]
    real, _ = judge(blobs(300, 3).images, network(), card())
    assert real["fid"] == pytest.approx(real["fid_floor"], rel=0.8)
    assert {name: numbers[name] for name in ("fid_floor", "fid_ceiling")} == {
        name: real[name] for name in ("fid_floor", "fid_ceiling")
    }


def test_floor_and_ceiling_are_of_as_many_images_as_there_are_samples() -> None:
    samples, measuring = blobs(120, 4).images, network()
    numbers, details = judge(samples, measuring, card())

    def fid(images: Images) -> float:
        return frechet_distance(statistics(measuring.measure(images)[0]), statistics(measuring.measure(TEST.images)[0]))

    drawn = draw_gaussian(TRAIN.images, 120, rng.generator(0, "pixel gaussian"))
    assert numbers["fid"] == pytest.approx(fid(samples), abs=1e-5)
    assert numbers["fid_floor"] == pytest.approx(fid(floor_images(120)), abs=1e-5)
    assert numbers["fid_ceiling"] == pytest.approx(fid(drawn), rel=1e-4)
    said = details["measured_with"]
    assert said["samples"] == 120
    assert "300" in said["reference"]
    assert all("120" in said[key] for key in ("floor", "ceiling"))


@pytest.mark.parametrize(("samples", "train", "test", "count"), [(400, 500, 300, 300), (90, 80, 300, 80)])
def test_the_least_of_the_three_counts_is_used(samples: int, train: int, test: int, count: int) -> None:
    drawn = blobs(samples, 5).images
    numbers, details = judge(drawn, network(), card(), blobs(train, 0), blobs(test, 1))
    assert details["measured_with"]["samples"] == count
    fewer, _ = judge(drawn[:count], network(), card(), blobs(train, 0), blobs(test, 1))
    assert fewer == numbers


def test_attributes_on_their_own_dataset() -> None:
    measuring = network()
    samples = blobs(300, 6).images
    numbers, details = judge(samples, measuring, card())
    assert set(numbers) == FIDS | {"attribute_gap", "attribute_gap_floor"}

    assert 0.1 < measuring.measure(samples)[1].mean() < 0.9
    shares, real, floor = ((measuring.measure(i)[1] > 0.5).mean(0) for i in (samples, TEST.images, floor_images(300)))
    assert numbers["attribute_gap"] == pytest.approx(np.abs(shares - real).mean(), abs=1e-6)
    assert numbers["attribute_gap_floor"] == pytest.approx(np.abs(floor - real).mean(), abs=1e-6)
    for index, name in enumerate(NAMES):
        assert details["attribute_shares"][name]["samples"] == pytest.approx(shares[index], abs=1e-6)
        assert details["attribute_shares"][name]["test"] == pytest.approx(real[index], abs=1e-6)

    right = ((measuring.measure(TEST.images)[1] > 0.5) == TEST.labels).mean(0)
    majority = TRAIN.labels.mean(0) >= 0.5
    baseline = (TEST.labels == majority).mean(0)
    for index, name in enumerate(NAMES):
        assert details["attribute_accuracy"][name] == pytest.approx(
            {"accuracy": right[index], "baseline": baseline[index]}, abs=1e-6
        )
    said = details["measured_with"]
    assert said["features"] == "classifier of toy's 2 attributes"
    assert said["dimensions"] == 16
    assert said["classifier_test_accuracy"] == pytest.approx(right.mean(), abs=1e-6)
    assert said["classifier_test_baseline"] == pytest.approx(baseline.mean(), abs=1e-6)
    assert "class_shares" not in details


def test_a_dataset_of_people_with_another_datasets_attributes() -> None:
    train, test = (Split(split.images, np.arange(len(split.images))) for split in (TRAIN, TEST))
    numbers, details = judge(TEST.images, network(dataset="other"), card("people", ()), train, test)
    assert set(numbers) == FIDS | {"attribute_gap", "attribute_gap_floor"}
    assert numbers["fid"] == numbers["attribute_gap"] == 0
    said = details["measured_with"]
    assert said["features"] == "classifier of other's 2 attributes"
    assert said["classifier_test_accuracy"] is None
    assert said["classifier_test_baseline"] is None
    assert "attribute_accuracy" not in details


def test_classes_on_their_own_dataset() -> None:
    measuring = network("classes")
    numbers, details = judge(TEST.images, measuring, card("classes"), by_class(TRAIN), by_class(TEST))
    assert set(numbers) == FIDS | OF_CLASSES
    chosen = measuring.measure(TEST.images)[1].argmax(1)
    assert details["class_shares"] == pytest.approx(
        {"square": np.mean(chosen == 0), "bright": np.mean(chosen == 1)}, abs=1e-6
    )
    said = details["measured_with"]
    assert said["features"] == "classifier trained on toy"
    assert said["classifier_test_accuracy"] == pytest.approx(np.mean(chosen == TEST.labels[:, 0]), abs=1e-6)
    assert said["classifier_test_baseline"] is None
    assert {"attribute_shares", "attribute_accuracy"}.isdisjoint(details)


def test_the_same_classes_in_another_dataset() -> None:
    measuring = network("classes", dataset="other")
    numbers, details = judge(TEST.images, measuring, card("classes"), by_class(TRAIN), by_class(TEST))
    assert set(numbers) == FIDS | OF_CLASSES
    assert details["measured_with"]["classifier_test_accuracy"] is None


@pytest.mark.parametrize(
    "card", [card("classes", ("cat", "dog")), card("attributes"), card("people", ()), card("classes", ("a", "b"), "x")]
)
def test_classes_that_the_images_are_not_of_say_nothing(card: dict[str, Any]) -> None:
    numbers, details = judge(TEST.images, network("classes"), card)
    assert set(numbers) == FIDS
    assert set(details) == {"measured_with"}
    assert details["measured_with"]["classifier_test_accuracy"] is None


def test_the_longest_list_of_numbers_has_twelve() -> None:
    of_a_vae = {"recon_mse", "recon_psnr", "pca_mse", "kl", "elbo"}
    assert len(FIDS | OF_CLASSES | of_a_vae) == 12
    assert len(FIDS | {"attribute_gap", "attribute_gap_floor"} | of_a_vae) == 10


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(GenlibError, match=r"samples: shape \(1, 16, 16\), the dataset's are \(3, 16, 16\)"):
        judge(TEST.images[:, :1], network(), card())
    grey = [Split(split.images[:, :1], split.labels) for split in (TRAIN, TEST)]
    with pytest.raises(GenlibError, match=r"1 x 16 x 16, .* toy was trained on 3 x 16 x 16"):
        judge(grey[1].images, network(), card(), *grey)


def test_the_floor_does_not_depend_on_the_order_of_the_training_images() -> None:
    """Images of one person come one after another in LFW: the first ones are of few people, and make a worse floor."""
    order = np.argsort(TRAIN.images.mean((1, 2, 3)), kind="stable")
    by_brightness = Split(TRAIN.images[order], TRAIN.labels[order])
    samples, measuring = blobs(120, 4).images, network()
    numbers, _ = judge(samples, measuring, card(), by_brightness)
    reference = statistics(measuring.measure(TEST.images)[0])
    first = frechet_distance(statistics(measuring.measure(by_brightness.images[:120])[0]), reference)
    assert numbers["fid_floor"] < 0.5 * first


def test_judging_again_gives_the_same_numbers_and_the_seed_moves_only_what_is_drawn() -> None:
    samples = blobs(300, 7).images
    first, _ = judge(samples, network(), card())
    assert judge(samples, network(), card())[0] == first
    other, _ = evaluation.of_samples(samples, TRAIN, TEST, card(), network(), 1, 0.03)
    assert {name for name in first if first[name] != other[name]} == {"fid_ceiling", "fid_floor", "attribute_gap_floor"}
