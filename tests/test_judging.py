"""Samples judged while a model trains: what the numbers say of known images, and when the alarm goes off."""

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from genlib import rng
from genlib.errors import GenlibError
from genlib.features import MeasuringNetwork
from genlib.features.classifiers import build
from genlib.training.judging import Judge, collapse, judge

NAMES = tuple("abcdefg")
CARD = {"labels": "classes", "classes": list(NAMES)}
CPU = torch.device("cpu")

Bytes = NDArray[np.uint8]


class Places(torch.nn.Module):
    """A classifier that can be checked: features are the brightness of 7 vertical bars, the class is the brightest."""

    sizes: ClassVar = {"channels": 1, "size": 28, "width": 1}

    @staticmethod
    def features(images: torch.Tensor) -> torch.Tensor:
        return images.reshape(len(images), 28, 7, 4).mean((1, 3))

    @staticmethod
    def head(features: torch.Tensor) -> torch.Tensor:
        return 50 * features


def network(**changes: Any) -> MeasuringNetwork:
    made: dict[str, Any] = {"dataset": "bars", "labels": "classes", "classes": NAMES, "sha256": "0"}
    return MeasuringNetwork(**made | {"classifier": Places(), "device": CPU} | changes)


def bars(count: int, seed: int, places: int = 7) -> Bytes:
    """Images with one bar of random brightness in one of the first `places` places."""
    draws = np.random.RandomState(seed)
    images = np.zeros((count, 1, 28, 28), np.uint8)
    for index, image in enumerate(images):
        left = 4 * (index % places)
        image[0, :, left : left + 4] = draws.randint(150, 256)
    return images


def made(val: Bytes, most: int = 1000, **changes: Any) -> Judge:
    return judge(network(**changes), CARD, val, most, seed=0)


def test_one_image_over_and_over_has_no_diversity() -> None:
    numbers = made(bars(140, 0)).measure(np.repeat(bars(1, 1), 140, axis=0))
    assert numbers["diversity"] == pytest.approx(0, abs=1e-9)
    assert numbers["classes"] == 1
    assert numbers["fid"] > 0.1


def test_real_images_are_as_diverse_as_real_images() -> None:
    numbers = made(bars(700, 0)).measure(bars(700, 1))
    assert numbers["diversity"] == pytest.approx(1, abs=0.02)
    assert numbers["classes"] == 7
    assert numbers["fid"] < 1e-3
    assert list(numbers) == ["fid", "classes", "diversity"]
    assert all(type(value) is float for value in numbers.values())


def test_diversity_is_the_ratio_of_total_variances() -> None:
    val, samples = bars(300, 0), bars(300, 1, places=3)
    variances = [(images / 255).reshape(-1, 28, 7, 4).mean((1, 3)).var(0, ddof=1).sum() for images in (samples, val)]
    numbers = made(val).measure(samples)
    assert numbers["diversity"] == pytest.approx(variances[0] / variances[1], rel=1e-5)
    assert numbers["classes"] == 3


def test_a_class_is_covered_from_three_in_a_hundred_on() -> None:
    judging = made(bars(200, 0))
    for rare, classes in ((5, 1), (6, 2)):
        images = np.concatenate([bars(200 - rare, 1, places=1), np.roll(bars(rare, 1, places=1), 4, axis=3)])
        assert judging.measure(images)["classes"] == classes


def test_samples_and_reference_are_equally_many_chosen_from_all_over() -> None:
    val = np.concatenate([bars(50, 0, places=1), np.roll(bars(50, 0, places=1), 8, axis=3)])
    assert made(val).count == 100
    few = made(val, most=30)
    assert few.count == 30
    assert few.reference.mean[0] > 0.1  # of both halves
    assert few.reference.mean[2] > 0.1
    again = judge(network(), CARD, val, 30, seed=0)
    assert np.array_equal(again.reference.mean, few.reference.mean)
    assert not np.array_equal(judge(network(), CARD, val, 30, seed=1).reference.mean, few.reference.mean)


@pytest.mark.parametrize(
    ("card", "of_network"),
    [
        ({"labels": "people", "classes": []}, {}),
        ({"labels": "classes", "classes": ["x", *NAMES[1:]]}, {}),
        ({"labels": "attributes", "classes": list(NAMES)}, {"labels": "attributes"}),
    ],
)
def test_classes_are_counted_only_where_the_network_knows_them(
    card: dict[str, Any], of_network: dict[str, Any]
) -> None:
    found = judge(network(**of_network), card, bars(50, 0), 50, seed=0)
    assert set(found.measure(bars(50, 1))) == {"fid", "diversity"}


def test_images_of_another_shape_are_refused() -> None:
    colour = np.zeros((5, 3, 32, 32), np.uint8)
    with pytest.raises(GenlibError, match=r"3 x 32 x 32.*network of bars.*1 x 28 x 28; set runs.<run>.features"):
        made(colour)


def test_a_validation_split_that_says_nothing_is_refused() -> None:
    with pytest.raises(GenlibError, match=r"validation split: 1 images; .* 2 or more"):
        made(bars(1, 0))
    with pytest.raises(GenlibError, match="network of bars sees no difference between its 9 images"):
        made(np.repeat(bars(1, 0), 9, axis=0))


def test_judging_draws_nothing_from_global_generators() -> None:
    with rng.default_generators(0, "test"):
        real = network(classifier=build("plain", 1, 28, 7, 2).eval())
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), str(np.random.get_state())
    judge(real, CARD, bars(20, 0), 10, seed=0).measure(bars(10, 1))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == str(np.random.get_state())


# The alarm.


def said(*rows: tuple[float, float], epochs: int = 8) -> list[str | None]:
    """What the alarm says after each epoch, from (classes covered, diversity) of each."""
    numbers = [{"fid": 1.0, "classes": classes, "diversity": diversity} for classes, diversity in rows]
    return [collapse(row, numbers[:index], epochs, 10) for index, row in enumerate(numbers)]


def test_a_training_that_goes_well_is_not_alarming() -> None:
    assert said((2, 0.01), (5, 0.2), (9, 0.6), (10, 0.9), (10, 0.8), (10, 1.1), (10, 0.7), (10, 0.9)) == [None] * 8


def test_lost_classes_are_said_with_what_there_was() -> None:
    alarms = said((4, 0.5), (9, 0.8), (9, 0.8), (6, 0.8), (8, 0.8), (9, 0.8), (10, 0.8))
    assert [index for index, alarm in enumerate(alarms, start=1) if alarm] == [4, 5]
    assert alarms[3] == "samples cover 6 of 10 classes, 9 after epoch 2; this may be mode collapse"


def test_one_class_fewer_is_alarming_only_if_it_stays_away() -> None:
    alarms = said(*[(classes, 0.8) for classes in (10, 9, 10, 9, 9, 9, 10, 8)])
    assert [index for index, alarm in enumerate(alarms, start=1) if alarm] == [5, 6, 8]


def test_falling_diversity_is_said_with_what_there_was() -> None:
    alarms = said((10, 0.9), (10, 1.2), (10, 0.61), (10, 0.59), (10, 1.0))
    assert [index for index, alarm in enumerate(alarms, start=1) if alarm] == [4]
    assert alarms[3] == (
        "samples are 0.59 times as diverse as real images, 1.20 times after epoch 2; this may be mode collapse"
    )


def test_diversity_that_never_rises_is_alarming_after_a_quarter_of_training() -> None:
    alarms = said(*[(5, 0.2)] * 4, (5, 0.26))
    assert alarms[:2] == [None, None]
    assert alarms[2] == alarms[3] == "samples are 0.20 times as diverse as real images; this may be mode collapse"
    assert alarms[4] is None


def test_both_reasons_are_one_line() -> None:
    [*_, alarm] = said((10, 0.9), (1, 0.05))
    assert alarm is not None
    assert alarm.startswith("samples cover 1 of 10 classes, 10 after epoch 1 and samples are 0.05 times")
    assert alarm.count("mode collapse") == 1


def test_without_classes_diversity_alone_decides() -> None:
    rows = [{"fid": 1.0, "diversity": diversity} for diversity in (0.9, 0.8, 0.3)]
    assert collapse(rows[1], rows[:1], 8, 40) is None
    assert collapse(rows[2], rows[:2], 8, 40) is not None
