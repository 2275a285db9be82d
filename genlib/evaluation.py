"""What a trained model is worth, in numbers: its samples in the measuring network's features, its reconstructions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genlib import rng
from genlib.data.arrays import Images, Split
from genlib.data.batches import in_order
from genlib.errors import GenlibError
from genlib.features import MeasuringNetwork, score
from genlib.metrics import classes
from genlib.metrics.attributes import gap, prevalence
from genlib.metrics.frechet import frechet_distance, statistics
from genlib.metrics.gaussian import draw_gaussian
from genlib.metrics.pca import fit_pca
from genlib.metrics.reconstruction import image_mse, mean_psnr
from genlib.models import Model

_BATCH = 500
_DIGITS = 6

Numbers = dict[str, float]


def of_samples(
    samples: Images,
    train: Split,
    test: Split,
    card: Mapping[str, Any],
    network: MeasuringNetwork,
    seed: int,
    covered_share: float,
) -> tuple[Numbers, dict[str, Any]]:
    """Judge samples (uint8 N C H W) against the test split; the headline numbers, and all that belongs to them.

    FID (Heusel et al. 2017) is between samples and the test split, in the features of the measuring network: not
    comparable with FIDs in Inception features. Lower is better. Its floor is what training images get in place of the
    samples; its ceiling what draws of the Gaussian of the training pixels get. All three are of equally many images,
    since FID falls with their number. `seed`: of those draws.

    What the network's outputs say is compared where it means something: shares of classes where the images are of the
    classes that it knows, shares of attributes always. `card`: that of the dataset of `train` and `test`.
    """
    if samples.shape[1:] != test.images.shape[1:]:
        raise GenlibError(
            f"samples: shape {samples.shape[1:]}, the dataset's are {test.images.shape[1:]}; run dvc repro"
        )
    count = min(len(samples), len(test.images), len(train.images))
    drawn = draw_gaussian(train.images, count, rng.generator(seed, "pixel gaussian"))
    features, judged = network.measure(samples[:count])
    real_features, real_judged = network.measure(test.images)
    # Chosen at random, for the first ones may be of few people.
    chosen = torch.randperm(len(train.images), generator=rng.generator(seed, "floor"))[:count].sort().values.numpy()
    floor_features, floor_judged = network.measure(train.images[chosen])
    reference = statistics(real_features)
    numbers = {
        "fid": frechet_distance(statistics(features), reference),
        "fid_floor": frechet_distance(statistics(floor_features), reference),
        "fid_ceiling": frechet_distance(statistics(network.measure(drawn)[0]), reference),
    }
    same_labels = card["labels"] == network.labels and tuple(card["classes"]) == network.classes
    details: dict[str, Any] = {}
    if network.labels == "attributes":
        of_outputs, details = _of_attributes(judged, real_judged, floor_judged, network.classes)
        numbers |= of_outputs
    elif same_labels:
        of_outputs, details = _of_classes(judged, network.classes, covered_share)
        numbers |= of_outputs
    details["measured_with"] = {
        "features": _name(network),
        "sha256": network.sha256,
        "dimensions": int(features.shape[1]),
        "classifier_test_accuracy": None,
        "classifier_test_baseline": None,
        "samples": count,
        "reference": f"test split, {len(test.images):,} images",
        "floor": f"{count:,} training images, chosen at random, against the test split",
        "ceiling": f"{count:,} draws of the Gaussian of the training pixels against the test split",
    }
    if same_labels and card["dataset"] == network.dataset:
        own = score(network, real_judged, test.labels, train.labels)
        details["measured_with"]["classifier_test_accuracy"] = round(own.accuracy, _DIGITS)
        if own.baseline is not None:
            details["measured_with"]["classifier_test_baseline"] = round(own.baseline, _DIGITS)
            details["attribute_accuracy"] = {
                name: _rounded({"accuracy": accuracy, "baseline": baseline})
                for name, (accuracy, baseline) in own.attributes.items()
            }
    return _rounded(numbers), details


def _of_classes(
    judged: NDArray[np.float32], names: tuple[str, ...], covered_share: float
) -> tuple[Numbers, dict[str, Any]]:
    """Which classes the network sees in the samples, from its probabilities N K."""
    shares = classes.class_shares(judged.argmax(1), len(names))
    numbers = {
        "classes_covered": classes.covered(shares, covered_share),
        "min_class_share": float(shares.min()),
        "class_entropy": classes.entropy_nats(shares),
        "confidence": classes.mean_confidence(judged),
    }
    return numbers, {
        "class_shares": dict(zip(names, shares.round(_DIGITS).tolist(), strict=True)),
        "class_kl_to_uniform": round(classes.kl_to_uniform(shares), _DIGITS),
    }


def _of_attributes(
    judged: NDArray[np.float32], real: NDArray[np.float32], floor: NDArray[np.float32], names: tuple[str, ...]
) -> tuple[Numbers, dict[str, Any]]:
    """Which attributes the network sees in samples, test and training images, from its probabilities N A.

    Test images are judged by the network as well, and not taken at their labels: so its mistakes are on both sides.
    """
    shares, real_shares = prevalence(judged), prevalence(real)
    numbers = {"attribute_gap": gap(shares, real_shares), "attribute_gap_floor": gap(prevalence(floor), real_shares)}
    pairs = zip(names, shares, real_shares, strict=True)
    return numbers, {"attribute_shares": {name: _rounded({"samples": a, "test": b}) for name, a, b in pairs}}


def _name(network: MeasuringNetwork) -> str:
    if network.labels == "classes":
        return f"classifier trained on {network.dataset}"
    return f"classifier of {network.dataset}'s {len(network.classes)} attributes"


def of_reconstructions(model: Model, train: Split, test: Split) -> Numbers:
    """Judge a model that encodes, on the test split; empty for one that does not.

    Mean squared errors are per pixel in 0..1. A VAE reconstructs from the mean of its code. `pca_mse` is that of the
    principal components of the training split, as many as the code has numbers. A denoising autoencoder is judged by
    what it restores: PSNR in dB before and after.
    """
    if not hasattr(model.objective, "encode"):
        return {}
    images = np.array(test.images)
    if getattr(model.settings, "noise", 0.0) > 0:
        noisy = model.corrupted(images)
        before, after = _errors(images, noisy), _errors(images, model.reconstruct(noisy))
        return _rounded(
            {"noisy_psnr": mean_psnr(before), "restored_psnr": mean_psnr(after), "restored_mse": after.mean()}
        )
    errors = _errors(images, model.reconstruct(images))
    components = model.settings.latent_dim
    pca = fit_pca(train.images, components)
    pca_errors = [
        image_mse(batch, pca.reconstruct(batch, components))
        for batch in np.array_split(images, -(-len(images) // _BATCH))
    ]
    numbers = {
        "recon_mse": float(errors.mean()),
        "recon_psnr": mean_psnr(errors),
        "pca_mse": float(np.concatenate(pca_errors).mean()),
    }
    return _rounded(numbers | _bound(model, images))


@torch.no_grad()
def _bound(model: Model, images: Images) -> Numbers:
    """KL and ELBO of a VAE in nats, means over images, one posterior draw for each."""
    objective: Any = model.objective
    if not hasattr(objective, "elbo"):
        return {}
    noise = rng.generator(model.seed, "evaluation codes", device=model.device)
    bounds, latents = [], []
    for batch in in_order(torch.from_numpy(images).to(model.device), _BATCH):
        losses = objective.heldout_losses(model.networks, batch, noise, model.settings)
        beta = model.settings.beta  # type: ignore[attr-defined]
        bounds.append(objective.elbo(losses["generation"], losses["latent"], images[0].size, beta).double().cpu())
        latents.append(losses["latent"].double().cpu())
    return {"kl": float(torch.cat(latents).mean()), "elbo": float(torch.cat(bounds).mean())}


def _errors(originals: Images, others: Images) -> Any:
    pieces = -(-len(originals) // _BATCH)
    pairs = zip(np.array_split(originals, pieces), np.array_split(others, pieces), strict=True)
    return np.concatenate([image_mse(original, other) for original, other in pairs])


def _rounded(numbers: Numbers) -> Numbers:
    return {name: value if isinstance(value, int) else round(float(value), _DIGITS) for name, value in numbers.items()}
