"""What evaluation makes of a model: which numbers, over which sets of samples, with what card and which warning."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from blobs import CPU, NAMES, blobs, by_class, card, network
from torch import Tensor, nn

from genlib import evaluation, objectives, rng
from genlib.data.arrays import Images, Split
from genlib.errors import GenlibError
from genlib.evaluation import inception
from genlib.evaluation.yardstick import yardstick
from genlib.features import MeasuringNetwork
from genlib.metrics.frechet import frechet_distance, statistics
from genlib.metrics.kernel import polynomial_mmd
from genlib.models import Model
from genlib.settings import EvaluateSettings, RunSettings

Small = Callable[..., RunSettings]

SHAPE = (3, 16, 16)
TRAIN, TEST = blobs(240, 0), blobs(120, 1)
COUNT = 110
SETTINGS = EvaluateSettings.model_validate(
    {"seed": 0, "sets": 2, "neighbours": 5, "pairs": 4, "nearest_images": 100, "covered_share": 0.03}
    | {"importance": {"samples": 3, "images": 12}, "importance_of": {}, "features": "domain"}
)
OF_SAMPLES = {"fid", "fid_std", "kid", "precision", "recall", "coverage", "copied_share"}
OF_CLASSES = {"classes_covered", "class_distance"}
OWN = {
    "ae": {"recon_mse", "recon_ssim", "pca_mse"},
    "dae": {"restored_psnr", "restored_ssim", "noisy_psnr"},
    "vae": {"recon_mse", "recon_ssim", "elbo", "nll", "active_units"},
    "bernoulli_vae": {"recon_mse", "recon_ssim", "elbo", "nll", "active_units"},
    "gan": {"fid_best", "collapse"},
}


class Album(nn.Module):
    """A generator that draws images out of a few, which one by the first number of the code; pixels in -1..1."""

    def __init__(self, images: Images) -> None:
        super().__init__()
        self.images = torch.from_numpy(images).float() / 127.5 - 1

    def forward(self, codes: Tensor) -> Tensor:
        quantile = 0.5 + 0.5 * torch.erf(codes[:, 0] / 2**0.5)
        return self.images[(quantile * len(self.images)).long().clamp(max=len(self.images) - 1)]


def made(small: Small, kind: str, **changes: Any) -> Model:
    """An untrained model on 16 x 16 pixels; its first weights are enough to be measured."""
    name = "ae" if kind == "dae" else kind
    own = {"noise": 0.3} if kind == "dae" else {}
    settings = small(name, net="mlp", width=9, **own, **changes)
    objective = objectives.get(name)
    with rng.default_generators(0, "test"):
        networks = {part: network.eval() for part, network in objective.build(settings, SHAPE).items()}
    return Model("a-run", 3, settings, SHAPE, objective, networks, None, None, None, CPU)


def drawing(small: Small, last: Images, best: Images | None = None, best_epoch: int | None = None) -> Model:
    """A GAN that draws out of `last`; its best checkpoint, if it has one, out of `best`."""
    model = made(small, "gan")
    album = None if best is None else Album(best)
    return replace(model, networks=model.networks | {"generator": Album(last)}, best=album, best_epoch=best_epoch)


def evaluated(
    model: Model,
    measuring: MeasuringNetwork | None = None,
    of: dict[str, Any] | None = None,
    settings: EvaluateSettings = SETTINGS,
    standard: Any = None,
    classes: bool = False,
) -> evaluation.Evaluation:
    """Measure a model with the network of attributes, or with the same network taken as one of classes."""
    samples = model.sample(COUNT, model.seed).numpy()
    train, test = (by_class(TRAIN), by_class(TEST)) if classes else (TRAIN, TEST)
    labels = "classes" if classes else "attributes"
    measuring, of = measuring or network(labels), of or card(labels)  # type: ignore[arg-type]
    return evaluation.evaluate(model, samples, train, test, of, measuring, settings, standard)


@cache
def pictures() -> Images:
    """Real images that neither split has."""
    return blobs(400, 5).images


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("classes", [True, False], ids=["classes", "attributes"])
def test_the_headline_has_at_most_twelve_numbers_of_the_kind_of_model_and_dataset(
    kind: str, classes: bool, small: Small
) -> None:
    model = made(small, kind)
    if kind == "gan":
        model = drawing(small, pictures(), pictures(), 1)
    found = evaluated(model, classes=classes)
    of_dataset: set[str] = set()
    if kind == "gan":
        of_dataset = OF_CLASSES | {"min_class_share"} if classes else {"attribute_gap"}
    elif kind in ("ae", "dae") and not classes:
        of_dataset = {"attribute_gap"}
    assert set(found.metrics) == OF_SAMPLES | OWN[kind] | of_dataset
    assert len(found.metrics) <= 12
    assert list(found.metrics)[:2] == ["fid", "fid_std"]
    assert all(isinstance(value, float) and np.isfinite(value) for value in found.metrics.values())
    assert found.everything["metrics"] == found.metrics
    assert ("class_shares" in found.everything) == classes
    assert ("attribute_shares" in found.everything) != classes


def test_images_whose_labels_the_network_does_not_tell_have_fewer_numbers(small: Small) -> None:
    found = evaluated(drawing(small, pictures(), pictures(), 1), network("classes"), card("people", ()))
    assert set(found.metrics) == OF_SAMPLES | OWN["gan"]
    assert {"class_shares", "attribute_shares", "measuring_network"}.isdisjoint(found.everything)
    faces = evaluated(drawing(small, pictures(), pictures(), 1), network(dataset="other"), card("people", ()))
    assert set(faces.metrics) == OF_SAMPLES | OWN["gan"] | {"attribute_gap"}
    assert "measuring_network" not in faces.everything


def test_the_measuring_network_says_how_good_it_is_on_its_own_dataset(small: Small) -> None:
    own = evaluated(drawing(small, pictures())).everything["measuring_network"]
    right = ((network().measure(TEST.images)[1] > 0.5) == TEST.labels).mean(0)
    assert own["accuracy"] == pytest.approx(right.mean(), abs=1e-5)
    assert [own["attributes"][name]["accuracy"] for name in NAMES] == pytest.approx(right, abs=1e-5)


def test_the_first_set_is_the_published_one_and_the_others_are_drawn_for_themselves(small: Small) -> None:
    """FID from the definition: the mean and deviation are over sets, and no set is another one's beginning."""
    model = drawing(small, pictures())
    settings = SETTINGS.model_copy(update={"sets": 3})
    seeds = [model.seed, *(rng.derive(model.seed, "sample set", number) for number in (1, 2))]
    sets = [model.sample(COUNT, seed).numpy() for seed in seeds]
    reference = statistics(network().measure(TEST.images)[0])
    fids = [frechet_distance(statistics(network().measure(images)[0]), reference) for images in sets]
    found = evaluated(model, settings=settings)
    assert found.metrics["fid"] == pytest.approx(np.mean(fids), rel=1e-5)
    assert found.metrics["fid_std"] == pytest.approx(np.std(fids, ddof=1), rel=1e-4)
    assert found.everything["samples"]["fid"]["std"] == found.metrics["fid_std"]
    assert len(set(fids)) == 3
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (sets[one] != sets[other]).any(axis=(1, 2, 3)).mean() > 0.9


def test_the_published_samples_count_and_not_those_drawn_again(small: Small) -> None:
    model = drawing(small, pictures())
    settings = SETTINGS.model_copy(update={"sets": 1})
    measured = evaluation.evaluate(model, pictures()[:COUNT], TRAIN, TEST, card(), network(), settings)
    fid = frechet_distance(
        statistics(network().measure(pictures()[:COUNT])[0]), statistics(network().measure(TEST.images)[0])
    )
    assert measured.metrics["fid"] == pytest.approx(fid, rel=1e-5)
    assert "fid_std" not in measured.metrics
    assert measured.everything["samples"]["fid"]["std"] is None


def test_limits_are_those_of_the_yardstick_and_every_model_has_the_same(small: Small) -> None:
    stick = yardstick(TRAIN, TEST, card(), network(), SETTINGS, COUNT)
    floor, ceiling = stick.floor(), stick.ceiling()
    first, second = (evaluated(made(small, kind)).everything["samples"] for kind in ("gan", "vae"))
    for name in first:
        assert first[name]["floor"] == pytest.approx(floor[name], rel=1e-5, abs=1e-6)
        assert first[name]["ceiling"] == pytest.approx(ceiling[name], rel=1e-5, abs=1e-6)
        assert [first[name][limit] for limit in ("floor", "ceiling")] == [
            second[name][limit] for limit in ("floor", "ceiling")
        ]
    assert first["fid"]["bias"] == pytest.approx(stick.bias(), rel=1e-5)
    assert set(first["kid"]) == {"mean", "std", "floor", "ceiling"}


def test_the_best_checkpoint_has_numbers_of_its_own_network(small: Small) -> None:
    grey = np.full((1, *SHAPE), 90, np.uint8)
    found = evaluated(drawing(small, grey, pictures(), 1))
    alone = evaluated(drawing(small, pictures()))
    best = found.everything["best"]
    assert (best["epoch"], best["is_last"]) == (1, False)
    assert set(best["samples"]) == {"fid", "kid", "kid_standard_error", "diversity"}
    for name in best["samples"]:  # the same images, with a seed of their own
        assert best["samples"][name]["mean"] == pytest.approx(alone.everything["samples"][name]["mean"], rel=1e-5)
    assert found.metrics["fid_best"] == best["samples"]["fid"]["mean"] < 0.5 * found.metrics["fid"]


def test_a_best_checkpoint_that_is_the_last_one_is_not_measured_again(small: Small) -> None:
    """Two epochs. Of its album nothing is drawn: the published samples are quoted."""
    found = evaluated(drawing(small, pictures(), np.zeros((1, *SHAPE), np.uint8), 2))
    best = found.everything["best"]
    assert (best["epoch"], best["is_last"]) == (2, True)
    assert all(best["samples"][name] == found.everything["samples"][name] for name in best["samples"])
    assert found.metrics["fid_best"] == found.metrics["fid"]


def test_a_model_without_a_best_checkpoint_says_nothing_of_one(small: Small) -> None:
    found = evaluated(drawing(small, pictures()))
    assert {"fid_best", "collapse"}.isdisjoint(found.metrics)
    assert {"best", "collapse"}.isdisjoint(found.everything)
    assert found.warning is None


def test_a_generator_that_draws_one_image_is_said_to_have_collapsed(small: Small) -> None:
    one = pictures()[:1]
    found = evaluated(drawing(small, one, one, 2), classes=True)
    assert found.warning is not None
    assert "samples cover 1 of 2 classes and samples are 0.00 times as diverse as real images" in found.warning
    assert "may be mode collapse" in found.warning
    assert found.everything["collapse"] == found.warning
    assert found.metrics["collapse"] == 1
    found = evaluated(drawing(small, one, one, 2))
    assert found.warning == "samples are 0.00 times as diverse as real images; this may be mode collapse"


def test_a_generator_of_real_images_is_not(small: Small) -> None:
    found = evaluated(drawing(small, pictures(), pictures(), 2), classes=True)
    assert found.warning is None
    assert found.everything["collapse"] is None
    assert found.metrics["collapse"] == 0
    assert found.metrics["classes_covered"] == 2


def test_a_generator_that_lacks_a_class_is_warned_of_however_diverse_it_is(small: Small) -> None:
    """A class counts from all samples on: so none does, though these are real images."""
    found = evaluated(
        drawing(small, pictures(), pictures(), 2),
        classes=True,
        settings=SETTINGS.model_copy(update={"covered_share": 1.0}),
    )
    assert found.warning == "samples cover 0 of 2 classes; this may be mode collapse"


CHANGES: dict[str, Any] = {
    "seed": 1,
    "sets": 3,
    "neighbours": 3,
    "pairs": 9,
    "nearest_images": 105,
    "covered_share": 0.2,
    "importance": {"samples": 4, "images": 12},
    "importance_of": {"a-run": {"samples": 3, "images": 13}},
    "features": "inception",
}


def test_every_setting_is_changed_once() -> None:
    assert set(CHANGES) == set(EvaluateSettings.model_fields)


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "features"])
def test_a_setting_that_changes_a_number_changes_the_card(name: str, small: Small) -> None:
    settings = EvaluateSettings.model_validate(SETTINGS.model_dump() | {name: CHANGES[name]})
    model = made(small, "vae")
    before, after = evaluated(model).everything["card"], evaluated(model, settings=settings).everything["card"]
    assert before != after
    named = {"seed": "measuring_seed", "importance": "importance_samples", "importance_of": "importance_images"}
    assert {key for key in after if after[key] != before.get(key)} == {named.get(name, name)}


def test_the_importance_bound_of_another_run_changes_nothing(small: Small) -> None:
    settings = EvaluateSettings.model_validate(
        SETTINGS.model_dump() | {"importance_of": {"other": {"samples": 9, "images": 9}}}
    )
    model = made(small, "vae")
    assert evaluated(model, settings=settings) == evaluated(model)


def test_cards_of_two_models_differ_in_seed_and_likelihood_alone(small: Small) -> None:
    gan = evaluated(made(small, "gan")).everything["card"]
    vae = evaluated(replace(made(small, "vae", beta=3.0), seed=8)).everything["card"]
    of_likelihood = {"likelihood", "elbo_draws", "importance_samples", "importance_images"}
    assert set(vae) - set(gan) == of_likelihood
    assert {name for name in gan if gan[name] != vae[name]} == {"seed"}
    assert (gan["seed"], vae["seed"], vae["measuring_seed"]) == (3, 8, 0)
    assert vae["likelihood"] == "Gaussian, variance 1.5 per pixel in 0..1"


def test_the_card_tells_what_was_measured_with_what(small: Small) -> None:
    found = evaluated(made(small, "gan"), network(dataset="other"), card("people", ())).everything["card"]
    assert found["features"] == {"name": "classifier of other's 2 attributes", "sha256": "0" * 64, "dimensions": 16}
    assert found["images"]["train_sha256"] == "1" * 64
    assert found["images"]["test_sha256"] == "2" * 64
    assert (found["images"]["dataset"], found["images"]["image_size"]) == ("toy", 16)
    counts = {"samples": COUNT, "sets": 2, "reference": 120, "nearest_images": 100, "pairs": 4, "neighbours": 5}
    assert {name: found[name] for name in counts} == counts
    assert (found["split"], found["checkpoint"]) == ("test", "last")
    other = card("people", ())
    other["sha256"]["test.npy"] = "3" * 64
    assert evaluated(made(small, "gan"), network(dataset="other"), other).everything["card"] != found


def test_evaluating_again_gives_the_same(small: Small) -> None:
    model = made(small, "bernoulli_vae")
    assert evaluated(model) == evaluated(model)


def test_the_seed_of_the_model_moves_what_it_draws_and_no_limit(small: Small) -> None:
    model = made(small, "vae")
    first, other = (evaluated(replace(model, seed=seed)).everything for seed in (3, 4))
    assert first["samples"]["fid"]["mean"] != other["samples"]["fid"]["mean"]
    assert first["encoding"]["elbo"] != other["encoding"]["elbo"]
    limits = [
        {(n, k): of[n][k] for n in of for k in ("floor", "ceiling")} for of in (first["samples"], other["samples"])
    ]
    assert limits[0] == limits[1]


def test_floats_have_six_digits_after_the_point_or_six_significant_ones(small: Small) -> None:
    seen = []

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            for inner in value.values():
                visit(inner)
        elif isinstance(value, float):
            seen.append(value)

    visit(evaluated(made(small, "vae")).everything)
    assert len(seen) > 50
    for value in seen:
        assert value == (round(value, 6) if abs(value) >= 0.1 else float(f"{value:.6g}"))
    assert any(value != round(value, 5) for value in seen)


def test_inception_that_is_not_to_be_had_is_said_in_place_of_numbers(small: Small) -> None:
    found = evaluated(made(small, "gan"), standard=inception.Unavailable("no network"))
    assert found.everything["inception"] == {"not_computed": "not computed: weights not available (no network)"}
    assert "inception" not in evaluated(made(small, "gan")).everything


def test_inception_measures_the_published_set(small: Small) -> None:
    class Standard:
        """Features that are a few means over pixels."""

        name, sha256 = "means", "9" * 64

        def features(self, images: Images) -> Any:
            return images.reshape(len(images), 6, -1).mean(2).astype(np.float32)

    model = drawing(small, pictures())
    found = evaluated(model, standard=Standard())
    standard = found.everything["inception"]
    drawn, real = (Standard().features(images) for images in (model.sample(COUNT, model.seed).numpy(), TEST.images))
    assert standard["features"] == {"name": "means", "sha256": "9" * 64, "dimensions": 6}
    assert (standard["samples"], standard["reference"]) == (COUNT, 120)
    assert standard["fid"] == pytest.approx(frechet_distance(statistics(drawn), statistics(real)), rel=1e-4)
    assert standard["kid"] == pytest.approx(polynomial_mmd(drawn, real), rel=1e-4)
    assert standard["kid_standard_error"] > 0
    assert found.metrics == evaluated(model).metrics


@pytest.mark.parametrize(("samples", "train", "test", "count"), [(400, 240, 120, 120), (130, 110, 120, 110)])
def test_the_least_of_the_three_counts_is_used(samples: int, train: int, test: int, count: int, small: Small) -> None:
    drawn, settings = blobs(samples, 6).images, SETTINGS.model_copy(update={"sets": 1})
    splits = blobs(train, 0), blobs(test, 1)
    model = made(small, "gan")
    more, fewer = (
        evaluation.evaluate(model, images, *splits, card(), network(), settings) for images in (drawn, drawn[:count])
    )
    assert more.everything["card"]["samples"] == count
    assert more == fewer


def test_images_of_another_shape_are_refused(small: Small) -> None:
    model = made(small, "gan")
    with pytest.raises(GenlibError, match=r"samples: 120 of shape \(1, 16, 16\).*\(3, 16, 16\).*dvc repro"):
        evaluation.evaluate(model, TEST.images[:, :1], TRAIN, TEST, card(), network(), SETTINGS)
    train, test = (Split(split.images[:, :1], split.labels) for split in (TRAIN, TEST))
    with pytest.raises(GenlibError, match=r"1 x 16 x 16, .* toy was trained on 3 x 16 x 16"):
        evaluation.evaluate(model, test.images, train, test, card(), network(), SETTINGS)
