"""What a trained model is worth, in numbers: its samples, its reconstructions, its likelihood, with what they mean."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from genlib import rng
from genlib.data.arrays import Images, Split
from genlib.evaluation import encoders, inception
from genlib.evaluation.yardstick import Numbers, Yardstick, accuracy, spread, yardstick
from genlib.features import MeasuringNetwork
from genlib.metrics.frechet import frechet_distance, statistics
from genlib.metrics.kernel import KernelReference
from genlib.models import Checkpoint, Model
from genlib.settings import EvaluateSettings

_DIGITS = 6
_COLLAPSED = 0.5  # diversity of a model that draws half of the variety that real images have

_OF_SAMPLES = ("fid", "kid", "precision", "recall", "coverage", "copied_share")
_OF_CLASSES = ("classes_covered", "class_distance")
_HEADLINES = {
    "gan": ("fid_best", "collapse", "min_class_share", "attribute_gap", *_OF_CLASSES),
    "vae": ("recon_mse", "recon_ssim", "elbo", "nll", "active_units"),
    "ae": ("recon_mse", "recon_ssim", "pca_mse", "restored_psnr", "restored_ssim", "noisy_psnr", "attribute_gap"),
}


@dataclass(frozen=True)
class Evaluation:
    """`metrics`: at most 12 headline numbers, flat. `everything`: nested, for evaluation.json. `warning`: or None."""

    metrics: Numbers
    everything: dict[str, Any]
    warning: str | None


def evaluate(
    model: Model,
    samples: Images,
    train: Split,
    test: Split,
    card: Mapping[str, Any],
    network: MeasuringNetwork,
    settings: EvaluateSettings,
    standard: "inception.Inception | inception.Unavailable | None" = None,
) -> Evaluation:
    """Measure a model against the test split.

    Args:
        model: the trained model.
        samples: its published samples, uint8 N C H W: the first of `settings.sets` sets; it draws the others itself.
        train: the training split, for floors, ceilings and neighbours.
        test: the test split.
        card: that of the dataset.
        network: the measuring network.
        settings: how to measure.
        standard: Inception features to measure in as well, or why they are not to be had; None if not asked for.

    Raises:
        GenlibError: samples or network do not fit the dataset.
    """
    stick = yardstick(train, test, card, network, settings, len(samples))
    measured = [stick.measure(images) for images in _sets(model, samples, stick, "last")]
    numbers = _with_limits(measured, stick)
    importance = settings.of_run(model.run)
    encoded = (
        encoders.of_reconstructions(model, train.images, test.images)
        | encoders.of_likelihood(model, test.images, importance)
        | encoders.of_codes(model, test.images)
    )
    everything: dict[str, Any] = {
        "run": model.run,
        "metrics": {},
        "samples": numbers,
        **stick.details(samples[: stick.count]),
    }
    if encoded:
        everything["encoding"] = encoded
    everything["card"] = (
        stick.card(card)
        | encoders.likelihood_card(model, test.images, importance)
        | {"checkpoint": "last", "seed": model.seed}
    )
    warning = None
    single: Numbers = {name: number["mean"] or 0.0 for name, number in numbers.items()} | encoded
    if model.best_epoch is not None:
        everything["best"] = _best(model, stick, numbers)
        single["fid_best"] = everything["best"]["samples"]["fid"]["mean"]
        warning = _collapse(single, stick)
        everything["collapse"] = warning
        single["collapse"] = float(warning is not None)
    found = accuracy(network, card, stick.judged, train, test)
    if found:
        everything["measuring_network"] = found
    if standard is not None:
        everything["inception"] = _standard(standard, samples[: stick.count], stick)
    everything["dataset"] = dict(card)
    metrics = {name: single[name] for name in _headline(model) if name in single}
    std = numbers["fid"]["std"]  # unknown of a single set
    metrics = {"fid": metrics.pop("fid"), **({} if std is None else {"fid_std": std})} | metrics
    everything["metrics"] = metrics
    everything = _rounded(everything)
    return Evaluation(everything["metrics"], everything, warning)


def _headline(model: Model) -> tuple[str, ...]:
    encodes, has_likelihood = hasattr(model.objective, "encode"), hasattr(model.objective, "log_likelihood")
    return _OF_SAMPLES + _HEADLINES["vae" if has_likelihood else "ae" if encodes else "gan"]


def _sets(model: Model, samples: Images | None, stick: Yardstick, checkpoint: Checkpoint) -> Iterator[Images]:
    """Independent sets of samples: the published one first, where it is given."""
    for number in range(stick.settings.sets):
        if number == 0 and samples is not None:
            yield samples[: stick.count]
        else:
            seed = rng.derive(model.seed, "sample set", number) if number else model.seed
            yield model.sample(stick.count, seed, checkpoint=checkpoint).numpy()


def _with_limits(measured: list[Numbers], stick: Yardstick) -> dict[str, dict[str, float | None]]:
    """Mean and deviation over sets, floor and ceiling of each number; FID's bias."""
    floor, ceiling = stick.floor(), stick.ceiling()
    numbers = {
        name: {**of_sets, "floor": floor[name], "ceiling": ceiling[name]} for name, of_sets in spread(measured).items()
    }
    numbers["fid"]["bias"] = stick.bias()
    return numbers


def _best(model: Model, stick: Yardstick, last: Mapping[str, Any]) -> dict[str, Any]:
    """The best checkpoint by its own samples; where that is the last one, its numbers."""
    said = {"epoch": model.best_epoch, "chosen_by": "FID of samples against validation images", "is_last": False}
    if model.best_epoch == model.settings.epochs:
        return said | {"is_last": True, "samples": {name: last[name] for name in ("fid", "kid", "diversity")}}
    return said | {"samples": spread([stick.distances(images) for images in _sets(model, None, stick, "best")])}


def _collapse(numbers: Numbers, stick: Yardstick) -> str | None:
    """What about the samples looks like mode collapse, in words; None if nothing does."""
    reasons = []
    if "classes_covered" in numbers and numbers["classes_covered"] < len(stick.network.classes):
        reasons.append(f"samples cover {numbers['classes_covered']:g} of {len(stick.network.classes)} classes")
    if numbers["diversity"] < _COLLAPSED:
        reasons.append(f"samples are {numbers['diversity']:.2f} times as diverse as real images")
    return f"{' and '.join(reasons)}; this may be mode collapse" if reasons else None


def _standard(
    found: "inception.Inception | inception.Unavailable", samples: Images, stick: Yardstick
) -> dict[str, Any]:
    """FID and KID in Inception features, of the published set only, or why they were not computed."""
    if isinstance(found, inception.Unavailable):
        return {"not_computed": str(found)}
    reference, drawn = found.features(stick.test), found.features(samples)
    kernel = KernelReference(reference, rng.generator(stick.settings.seed, "kid blocks"))
    distance = kernel.distance(drawn)
    return {
        "features": {"name": found.name, "sha256": found.sha256, "dimensions": int(reference.shape[1])},
        "samples": len(drawn),
        "reference": len(reference),
        "fid": frechet_distance(statistics(drawn), statistics(reference)),
        "kid": distance.value,
        "kid_standard_error": distance.standard_error,
    }


def _rounded(value: Any) -> Any:
    """Floats to six digits after the point; six significant ones where they are small."""
    if isinstance(value, dict):
        return {name: _rounded(of) for name, of in value.items()}
    if isinstance(value, float):
        return round(value, _DIGITS) if abs(value) >= 0.1 else float(f"{value:.{_DIGITS}g}")
    return value
