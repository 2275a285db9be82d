"""The words of the page: what each figure and number means. What is not listed is shown under its own name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from genlib.presentation import text

DATASETS = {"mnist": "MNIST", "lfw": "LFW", "celeba": "CelebA", "digits": "drawn digits", "faces": "drawn faces"}

MODELS = {
    "ae": "autoencoder",
    "vae": "variational autoencoder",
    "bernoulli_vae": "variational autoencoder, Bernoulli likelihood",
    "gan": "generative adversarial network",
}

SHORT = {"ae": "autoencoder", "vae": "VAE", "bernoulli_vae": "Bernoulli VAE", "gan": "GAN"}

STATED: Mapping[str, Mapping[str, object]] = {
    "vae": {"net": "deck28", "width": 32, "output": "relu"},
    "gan": {
        "net": "deck28", "width": 64, "discriminator_width": 64, "dropout": 0.3, "latent_dim": 100, "real_label": 1.0,
    },
}  # fmt: skip
"""What the presentation states of its networks on 28 x 28 images; a run on such images that differs says so."""

STATED_SIZE = 28

SPLITS = {"train": "training", "val": "validation", "test": "test"}

SOURCES = {
    "mirror": "a mirror",
    "official": "the official address",
    "drawn": "this project's code",
    "folder": "a folder of the user's own",
}

VERIFIED = {
    "archive": "byte for byte the official file",
    "content": "content equals the official file's (packed again)",
    "mirror list": "equals the mirror's own list only: not known to be the official data",
    "drawn": "made by us, the same on every machine",
    "listed": "the list of the images, with a checksum of each",
}


@dataclass(frozen=True)
class Metric:
    """A row of a table of numbers. `better` is None where neither end of the scale is the good one."""

    label: str
    unit: str
    better: Literal["lower", "higher"] | None
    meaning: str
    shown: Literal["number", "per cent", "yes or no"] = "number"


METRICS = {
    "fid": Metric(
        "FID", "", "lower", "distance between samples and test images, by mean and covariance of the features"
    ),
    "fid_best": Metric("FID, best checkpoint", "", "lower", "of the epoch that was best on validation images"),
    "kid": Metric(
        "KID", "", "lower", "distance by a kernel of the features, unbiased: around 0 if both are alike, so also below"
    ),
    "kid_standard_error": Metric("KID's standard error", "", None, "of one sample set, by leaving out tenths"),
    "precision": Metric("Precision", "", "higher", "share of samples that lie among test images: fidelity"),
    "recall": Metric("Recall", "", "higher", "share of test images that lie among samples: variety"),
    "density": Metric("Density", "", "higher", "how densely test images surround a sample; above 1: in dense places"),
    "coverage": Metric("Coverage", "", "higher", "share of test images with a sample nearby"),
    "diversity": Metric("Diversity", "", None, "variance of the samples' features; 1 is that of test images"),
    "pair_similarity": Metric("Similarity of pairs", "", None, "SSIM of random pairs of samples: low is varied"),
    "collapse": Metric(
        "Mode collapse?", "", None, "classes are missing, or less than half the variety of real images", "yes or no"
    ),
    "classes_covered": Metric("Classes covered", "", "higher", "classes that the samples show often enough"),
    "min_class_share": Metric("Rarest class", "%", "higher", "its share of the samples", "per cent"),
    "class_kl_to_uniform": Metric("Classes from even", "nats", "lower", "KL of the class shares to all equal"),
    "class_distance": Metric(
        "Classes from the test's", "%", "lower", "share of samples that would have to change class", "per cent"
    ),
    "attribute_gap": Metric(
        "Attribute gap", "%", "lower",
        "between the shares of samples and of test images judged to have an attribute, mean over attributes",
        "per cent",
    ),
    "confidence": Metric(
        "Confidence", "%", None, "probability of the class that the measuring network chooses, mean", "per cent"
    ),
    "classifier_score": Metric(
        "Classifier score", "", "higher", "Inception score by the measuring network: 1 to the number of classes"
    ),
    "copied_share": Metric(
        "Looks copied", "%", None, "samples much nearer to one training image than to any other; 1% is expected",
        "per cent",
    ),
    "nearest_ratio": Metric(
        "Nearest training image", "", None, "its distance to a sample, in that to a test image: well below 1 is odd"
    ),
    "recon_mse": Metric("Reconstruction error", "", "lower", "mean squared error per pixel (0 to 1), test images"),
    "recon_psnr": Metric("Reconstruction PSNR", "dB", "higher", "the same as a signal-to-noise ratio"),
    "recon_ssim": Metric("Reconstruction SSIM", "", "higher", "structural similarity to the original; 1 is equal"),
    "pca_mse": Metric("PCA's error", "", None, "of principal components, with as many numbers per image as the code"),
    "noisy_psnr": Metric("PSNR of noisy images", "dB", None, "before denoising, against the clean image"),
    "noisy_ssim": Metric("SSIM of noisy images", "", None, "before denoising, against the clean image"),
    "restored_psnr": Metric("PSNR of restored images", "dB", "higher", "after denoising"),
    "restored_ssim": Metric("SSIM of restored images", "", "higher", "after denoising"),
    "restored_mse": Metric("Error of restored images", "", "lower", "mean squared error per pixel after denoising"),
    "kl": Metric("Latent loss", "nats", None, "KL of the codes to the unit Gaussian, test images"),
    "elbo": Metric("ELBO", "nats", "higher", "lower bound on the log-likelihood of a test image"),
    "nll": Metric("Neg. log-likelihood", "nats", "lower", "of a test image, by importance sampling; an upper bound"),
    "nll_standard_error": Metric("Its standard error", "nats", None, "over test images"),
    "nll_elbo": Metric("Negative ELBO", "nats", "lower", "by the draws of the importance sampling"),
    "bits_per_dim": Metric("Bits per dimension", "bits", "lower", "the negative log-likelihood for each number"),
    "active_units": Metric("Active units", "", None, "numbers of the code that say something of the image"),
    "code_mismatch": Metric(
        "Codes from the prior", "nats", "lower", "KL of the Gaussian fitted to all codes to that which samples are from"
    ),
}  # fmt: skip
"""Known numbers in the order of showing."""

HELPERS = {"fid_std"}
"""Numbers of the flat files that belong to others, and get no row."""

LIKELIHOODS = {"elbo", "nll", "nll_elbo", "bits_per_dim"}
"""Numbers that are of the card's likelihood, and compare under the same one only."""

LIKELIHOOD_FACTS = {"likelihood", "elbo_draws", "importance_samples", "importance_images"}
"""Keys of the card that decide those numbers and no others."""


@dataclass(frozen=True)
class Fact:
    """A key of the measuring card in words, and what it says where its value is null."""

    label: str
    missing: str = "none"


CARD = {
    "features.name": Fact("Measured in the features of"),
    "features.dimensions": Fact("Dimensions of the features"),
    "features.sha256": Fact("Weights of that network, sha256"),
    "split": Fact("Held against the split"),
    "reference": Fact("Images of that split"),
    "samples": Fact("Samples in a set"),
    "sets": Fact("Independent sets of samples"),
    "checkpoint": Fact("Checkpoint that drew them"),
    "seed": Fact("Seed of training and samples"),
    "floor": Fact("Real images"),
    "ceiling": Fact("Pixel Gaussian"),
    "leading": Fact("Distance to go by"),
    "images.dataset": Fact("Dataset"),
    "images.edition": Fact("Edition", "all of it"),
    "images.image_size": Fact("Image size, pixels a side"),
    "images.channels": Fact("Channels"),
    "images.crop": Fact("Crop"),
    "images.resize": Fact("Resize filter", "none: not resized"),
    "images.train_sha256": Fact("Training images, sha256"),
    "images.test_sha256": Fact("Test images, sha256"),
    "neighbours": Fact("Neighbours (precision, recall, density, coverage)"),
    "kid_blocks": Fact("Blocks behind KID's standard error"),
    "pairs": Fact("Pairs of samples compared"),
    "pair_similarity": Fact("Pairs compared by"),
    "nearest_images": Fact("Samples whose nearest training images were looked for"),
    "covered_share": Fact("A class counts as covered from this share on"),
    "measuring_seed": Fact("Seed of what is drawn for measuring"),
    "likelihood": Fact("Likelihood of an image given its code"),
    "elbo_draws": Fact("Draws behind the ELBO, for each image"),
    "importance_samples": Fact("Importance samples, for each image"),
    "importance_images": Fact("Test images in the importance-weighted bound"),
    "protocol": Fact("Version of this way to measure"),
}
"""The measuring card in the order of showing; other keys are shown under their own names."""

DISTANCES = ("fid", "kid", "diversity")
"""What the best checkpoint is measured by, beside the last one."""


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
    "samples_best.png": Figure(
        "Samples, best checkpoint", "The same codes, by the epoch that was best on validation images.", plain=True
    ),
    "training_points.png": Figure(
        "Four points of training", "The same random codes, decoded after more and more training images."
    ),
    "progress.gif": Figure("Learning to draw", "The same random codes, decoded as training goes on."),
    "reconstructions.png": Figure("Reconstructions", "Held-out images, and what comes back from their codes."),
    "denoising.png": Figure("Denoising", "Held-out images with noise, what the network restores, and the truth."),
    "interpolations.png": Figure("Interpolations", "From one code to another, in equal steps.", plain=True),
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

_BETWEEN_IMAGES = Figure(
    "Interpolations", "From the code of one held-out image to that of another, in equal steps.", plain=True
)

FIGURES_OF = {
    **{(model, "interpolations.png"): _BETWEEN_IMAGES for model in ("ae", "vae", "bernoulli_vae")},
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
    ("gan", "curves.png"): Figure(
        "The game",
        "Losses of both players; what D makes of real and generated images, and how often it is right: at 0.5 it only "
        "guesses. The FID of each epoch's samples against validation images, the best epoch marked; crosses warn of "
        "mode collapse.",
    ),
    ("gan", "interpolations.png"): Figure(
        "Interpolations", "From one random code to another, in equal steps.", plain=True
    ),
}
"""What a figure is called where its model gives it another meaning."""


def figure(name: str, model: str) -> Figure:
    """The words for the figure file `name` of a run of `model`; an unknown one is called by its file name."""
    return FIGURES_OF.get((model, name)) or FIGURES.get(name, Figure(name, ""))


def departures(model: str, settings: Mapping[str, object], image_size: int) -> list[str]:
    """Settings that are not what the presentation states, such as "output sigmoid (stated: relu)"."""
    stated = STATED.get(model, {}) if image_size == STATED_SIZE else {}
    return [
        f"{key} {text.value(settings[key])} (stated: {text.value(value)})"
        for key, value in stated.items()
        if key in settings and settings[key] != value
    ]
