"""The words of the page: what each figure and number means. What is not listed is shown under its own name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

DATASETS = {"mnist": "MNIST", "lfw": "LFW", "celeba": "CelebA", "digits": "drawn digits", "faces": "drawn faces"}

MODELS = {
    "ae": "autoencoder",
    "vae": "variational autoencoder",
    "bernoulli_vae": "variational autoencoder, Bernoulli likelihood",
    "gan": "generative adversarial network",
}

STATED: Mapping[str, Mapping[str, object]] = {
    "vae": {"net": "deck28", "width": 32, "output": "relu"},
    "gan": {
        "net": "deck28", "width": 64, "discriminator_width": 64, "dropout": 0.3, "latent_dim": 100, "real_label": 1.0,
    },
}  # fmt: skip
"""What the presentation states of its networks on 28 x 28 images; a run on such images that differs says so."""

STATED_SIZE = 28

SPLITS = {"train": "training", "val": "validation", "test": "test"}

SOURCES = {"mirror": "a mirror", "official": "the official address", "drawn": "drawn by this project's code"}

VERIFIED = {
    "archive": "byte for byte the official file",
    "content": "content equals the official file's (packed again)",
    "mirror list": "equals the mirror's own list only: not known to be the official data",
    "drawn": "made by us, the same on every machine",
}


@dataclass(frozen=True)
class Metric:
    """A row of the comparison table. `better` is None where neither end of the scale is the good one."""

    label: str
    unit: str
    better: Literal["lower", "higher"] | None
    meaning: str
    percent: bool = False


METRICS = {
    "fid": Metric(
        "FID", "", "lower",
        "distance between samples and real images, in the measuring network's features; real images reach the floor, "
        "a Gaussian with the training pixels' mean and covariance the ceiling",
    ),
    "attribute_gap": Metric(
        "Attribute gap", "%", "lower",
        "between the shares of samples and of test images that are judged to have an attribute, mean over attributes",
        percent=True,
    ),
    "classes_covered": Metric("Classes covered", "", "higher", "classes that the samples show often enough"),
    "min_class_share": Metric("Rarest class", "%", "higher", "its share of the samples", percent=True),
    "class_entropy": Metric("Entropy of classes", "nats", "higher", "of the samples; the most is all classes equal"),
    "confidence": Metric(
        "Confidence", "%", None, "probability of the class that the measuring network chooses, mean", percent=True
    ),
    "recon_mse": Metric("Reconstruction error", "", "lower", "mean squared error per pixel (0 to 1), test images"),
    "recon_psnr": Metric("Reconstruction PSNR", "dB", "higher", "the same as a signal-to-noise ratio"),
    "pca_mse": Metric("PCA's error", "", None, "of principal components, with as many numbers per image as the code"),
    "kl": Metric("Latent loss", "nats", None, "KL of the codes to the unit Gaussian, test images"),
    "elbo": Metric("ELBO", "nats", "higher", "lower bound on the log-likelihood of a test image"),
    "noisy_psnr": Metric("PSNR of noisy images", "dB", None, "before denoising, against the clean image"),
    "restored_psnr": Metric("PSNR of restored images", "dB", "higher", "after denoising"),
    "restored_mse": Metric("Error of restored images", "", "lower", "mean squared error per pixel after denoising"),
}  # fmt: skip
"""Known metrics in the order of showing; shares are shown in per cent."""

LIMITS = {
    "fid": {"floor": "fid_floor", "ceiling": "fid_ceiling"},
    "attribute_gap": {"floor": "attribute_gap_floor"},
}
"""Metrics that are shown together with what real images reach, the floor, and what a Gaussian does, the ceiling."""


@dataclass(frozen=True)
class Figure:
    """A known figure: its title and one or two sentences that say what to look for.

    `plain`: images only, without text in it, so that it may be shown smaller than it is.
    """

    title: str
    caption: str
    plain: bool = False


FIGURES = {
    "data.png": Figure("Real images", "From the training data.", plain=True),
    "samples.png": Figure("Samples", "Drawn from random codes, not selected.", plain=True),
    "samples_last.png": Figure(
        "Samples, last weights", "The same codes, without the running average of the weights.", plain=True
    ),
    "training_points.png": Figure(
        "Four points of training", "The same random codes, decoded after more and more training images."
    ),
    "progress.gif": Figure("Learning to draw", "The same random codes, decoded as training goes on."),
    "reconstructions.png": Figure("Reconstructions", "Held-out images, and what comes back from their codes."),
    "denoising.png": Figure("Denoising", "Held-out images with noise, what the network restores, and the truth."),
    "interpolations.png": Figure(
        "Interpolations", "From the code of one held-out image to that of another, in equal steps.", plain=True
    ),
    "attributes.png": Figure(
        "Directions of attributes",
        "Codes of held-out images, moved along the mean code of training images with the attribute minus the mean "
        "without. 0 is the plain reconstruction; to the right the attribute should appear, and as little else change "
        "as may be.",
    ),
    "attributes_samples.png": Figure(
        "Directions of attributes, from random codes", "The same for samples: 0 is the sample as it was drawn."
    ),
    "neighbours.png": Figure(
        "Is it memorising?",
        "The first samples, each with the training images nearest to it (mirrored where training mirrored them and "
        "that is nearer) and the root mean square difference of their pixels, from 0 to 1. A copy would be near 0 and "
        "look the same; nearest in pixels is mostly nearest in pose, background and light.",
    ),
    "codes.png": Figure("Codes", "Each dot is a held-out image, coloured by its class, which training never saw."),
    "codes.gif": Figure("The latent space forming", "Codes of the same held-out images as training goes on."),
    "manifold.png": Figure("The learned manifold", "Codes on an even grid of the prior's quantiles, decoded."),
    "curves.png": Figure("Learning curves", "On training images, and on held-out ones after each epoch."),
    "gradient_variance.png": Figure(
        "Why reparameterize",
        "Total variance of the encoder's gradient by either estimator, on the same images and the same noise.",
    ),
}
"""Known figures in the order of showing."""

FIGURES_OF = {
    ("ae", "samples.png"): Figure(
        "Random codes, decoded",
        "Drawn from the unit Gaussian, which an autoencoder is not trained to fill.",
        plain=True,
    ),
    ("ae", "training_points.png"): Figure(
        "Four points of training", "The same held-out images, reconstructed after more and more training images."
    ),
    ("ae", "progress.gif"): Figure("Learning to reconstruct", "The same held-out images as training goes on."),
    ("gan", "samples.png"): Figure(
        "Samples",
        "Drawn from random codes, not selected; with the running average of the weights if it is on.",
        plain=True,
    ),
    ("gan", "curves.png"): Figure("The game", "Losses of both players, and what D makes of real and generated images."),
    ("gan", "interpolations.png"): Figure(
        "Interpolations", "From one random code to another, in equal steps.", plain=True
    ),
}
"""What a figure is called where its model gives it another meaning."""


def figure(name: str, model: str) -> Figure:
    """The words for the figure file `name` of a run of `model`; an unknown one is called by its file name."""
    return FIGURES_OF.get((model, name)) or FIGURES.get(name, Figure(name, ""))
