"""The measuring network: a small classifier trained on a dataset's own labels; its last hidden layer gives features.

Labels are classes (each image has one of them) or attributes (each image has, or has not, each of them).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from genlib import rng
from genlib.adam import Adam
from genlib.data.arrays import Images, Labels, Split
from genlib.data.batches import resident, to_float
from genlib.errors import GenlibError
from genlib.features.classifiers import Classifier, build
from genlib.files import digest, write_bytes
from genlib.models import weights
from genlib.settings import FeatureSettings, Frozen

_BATCH = 500

Kind = Literal["classes", "attributes"]


class _Metadata(Frozen):
    """What the file of a measuring network says of itself; `classes` are the names of its outputs."""

    dataset: str
    labels: Kind
    classes: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    net: Literal["plain", "residual"]
    channels: Annotated[int, Field(ge=1, le=16)]
    size: Annotated[int, Field(ge=1, le=4096)]
    width: Annotated[int, Field(ge=1, le=4096)]


@dataclass(frozen=True)
class MeasuringNetwork:
    """A trained classifier with what identifies it: its dataset and the sha256 of its file.

    `classes`: what its outputs are called, the names of classes or of attributes; `labels` says of which.
    """

    dataset: str
    labels: Kind
    classes: tuple[str, ...]
    sha256: str
    classifier: Classifier
    device: torch.device

    @torch.no_grad()
    def measure(self, images: Images) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Images uint8 N C H W to features N D and probabilities N K, both float32.

        Probabilities of classes add up to 1; each attribute has one of its own. GenlibError if the images are not of
        the shape that the network was trained on.
        """
        sizes = self.classifier.sizes
        trained_on = (sizes["channels"], sizes["size"], sizes["size"])
        if images.shape[1:] != trained_on:
            raise GenlibError(
                f"images: {_by(images.shape[1:])}, but the measuring network of {self.dataset} was trained on "
                f"{_by(trained_on)}; set runs.<run>.features to a dataset of the same shape"
            )
        features, probabilities = [], []
        for start in range(0, len(images), _BATCH):
            batch = to_float(torch.from_numpy(np.array(images[start : start + _BATCH])).to(self.device))
            hidden = self.classifier.features(batch)
            logits = self.classifier.head(hidden)
            features.append(hidden.cpu())
            probabilities.append((logits.softmax(1) if self.labels == "classes" else logits.sigmoid()).cpu())
        return torch.cat(features).numpy(), torch.cat(probabilities).numpy()


def train(
    train_split: Split,
    kind: Kind,
    outputs: int,
    settings: FeatureSettings,
    seed: int,
    device: torch.device,
    graph: bool = True,
) -> Classifier:
    """Train on randomly shifted and mirrored images with Adam and a one-cycle schedule (Smith & Topin 2018).

    `outputs`: how many classes or attributes there are. `graph`: on a CUDA device, what a step launches forwards and
    backwards is captured once and replayed. Raises GenlibError if the labels are not of the kind, if there
    is no full batch of images, and if the loss is no longer finite.
    """
    images, labels = resident(train_split.images, device), _targets(train_split.labels, kind, outputs).to(device)
    _, channels, size, _ = images.shape
    with rng.default_generators(seed, "classifier weights"):
        classifier = build(settings.net, channels, size, outputs, settings.width).to(device)
    steps = len(images) // settings.batch_size
    if steps == 0:
        raise GenlibError(f"features: batch_size {settings.batch_size} is more than the {len(images)} training images")
    if graph and device.type == "cuda":
        _capture(classifier, to_float(images[: settings.batch_size]))
    optimizer = Adam(classifier.parameters(), fused=device.type == "cuda" or None)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=steps * settings.epochs)
    for epoch in range(1, settings.epochs + 1):
        order = torch.randperm(len(images), generator=rng.generator(seed, "classifier order", epoch)).to(device)
        mirrored = _mirrored(len(images), seed, epoch).to(device) if settings.flip else None
        shifts = rng.generator(seed, "classifier shifts", epoch)
        with rng.default_generators(seed, "classifier dropout", epoch):
            bar = tqdm(range(steps), f"epoch {epoch}/{settings.epochs}", leave=False, disable=None)
            for step in bar:
                chosen = order[step * settings.batch_size : (step + 1) * settings.batch_size]
                batch = to_float(images[chosen])
                if mirrored is not None:
                    batch = torch.where(mirrored[chosen, None, None, None], batch.flip(3), batch)
                loss = loss_of(kind, classifier(_shifted(batch, settings.shift, shifts)), labels[chosen])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
        if not torch.isfinite(loss):
            raise GenlibError(f"features: loss is {loss.item()} in epoch {epoch}; lower features.<dataset>.lr")
    return classifier.eval()


def _capture(classifier: Classifier, images: Tensor) -> None:
    """Let the classifier be a CUDA graph forwards and one backwards while it trains on batches like this one."""
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    torch.cuda.make_graphed_callables(classifier, (images,))
    classifier.load_state_dict(before)  # some steps were taken on the way, which batch norm's statistics remember


def loss_of(kind: Kind, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss in nats of logits B K: cross-entropy against class indices B int64, or, for attributes, the binary
    cross-entropy against 0 or 1 in B K float32, mean over attributes.
    """
    if kind == "classes":
        return F.cross_entropy(logits, labels)
    return F.binary_cross_entropy_with_logits(logits, labels)


@dataclass(frozen=True)
class Score:
    """How often a network is right on held-out images, 0..1; for attributes the means over them.

    `baseline`: how often it would be right to say of each image what holds for the majority of the training images;
    None for classes. `attributes`: accuracy and baseline of each attribute; empty for classes.
    """

    accuracy: float
    baseline: float | None
    attributes: dict[str, tuple[float, float]]


def score(network: MeasuringNetwork, probabilities: NDArray[np.float32], labels: Labels, train_labels: Labels) -> Score:
    """Compare what `network.measure` said of held-out images (N K) with their labels (N, or N K of 0 and 1).

    `train_labels`: those of the training split, which decide what the majority is. An attribute is taken to be there
    from a probability of 0.5 on.
    """
    if network.labels == "classes":
        return Score(float(np.mean(probabilities.argmax(1) == labels)), None, {})
    accuracies = np.mean((probabilities >= 0.5) == labels, axis=0)
    baselines = np.mean((np.mean(train_labels, axis=0) >= 0.5) == labels, axis=0)
    pairs = zip(accuracies.tolist(), baselines.tolist(), strict=True)
    return Score(float(accuracies.mean()), float(baselines.mean()), dict(zip(network.classes, pairs, strict=True)))


def save(path: Path, classifier: Classifier, dataset: str, kind: Kind, classes: list[str], net: str) -> None:
    """Write the weights as safetensors, with what is needed to build the network again."""
    metadata = {"dataset": dataset, "labels": kind, "classes": classes, "net": net, **classifier.sizes}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    write_bytes(path, save_tensors(tensors, metadata={"genlib": json.dumps(metadata, sort_keys=True)}))


def load(path: Path, device: torch.device) -> MeasuringNetwork:
    """Read a measuring network; GenlibError if the file is missing, damaged, or of an earlier format."""
    try:
        with weights.opened(path) as (text, file):
            metadata = _Metadata.model_validate_json(text)
            outputs = len(metadata.classes)
            with weights.unfilled():
                classifier = build(metadata.net, metadata.channels, metadata.size, outputs, metadata.width)
            parts = {"features": classifier.features, "head": classifier.head}
            weights.fill(parts, file, device)
        sha256 = digest(path)
    except FileNotFoundError as error:
        raise GenlibError(f"{path}: no such file; {_remedy(path)}") from error
    except (SafetensorError, OSError, LookupError, ValueError, TypeError, OverflowError, GenlibError) as error:
        reason = " ".join(str(error).split()).encode("unicode_escape").decode()[:200]
        raise GenlibError(f"{path}: not a measuring network ({reason}); {_remedy(path)}") from error
    return MeasuringNetwork(metadata.dataset, metadata.labels, metadata.classes, sha256, classifier.eval(), device)


def _remedy(path: Path) -> str:
    """The pipeline's files are in a folder that is called as their stage; a file named by hand may be anywhere."""
    dataset = path.parent.name
    stage = f" features@{dataset}" if path.name == "model.safetensors" and dataset.strip(".") else ""
    return f"run dvc repro{stage}, or name a file that the features stage wrote"


def _targets(labels: Labels, kind: Kind, outputs: int) -> Tensor:
    """The labels as `loss_of` takes them; GenlibError if they are none of that kind."""
    shape, most = ((len(labels),), outputs - 1) if kind == "classes" else ((len(labels), outputs), 1)
    if labels.shape != shape or labels.min() < 0 or labels.max() > most:
        raise GenlibError(
            f"labels: shape {labels.shape}, {labels.min()} to {labels.max()}, are not those of {outputs} {kind}; "
            f"run dvc repro preprocess"
        )
    targets = torch.from_numpy(np.array(labels))
    return targets if kind == "classes" else targets.float()


def _mirrored(count: int, seed: int, epoch: int) -> Tensor:
    """Which of the images are mirrored left to right in an epoch: half of them, B bool, at random."""
    return torch.rand(count, generator=rng.generator(seed, "classifier flips", epoch)).lt(0.5)


def _shifted(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """The batch, moved by one random shift of up to `most` pixels in each direction; the border is repeated."""
    if most == 0:
        return images
    down, right = torch.randint(0, 2 * most + 1, (2,), generator=generator).tolist()
    padded = F.pad(images, (most, most, most, most), mode="replicate")
    return padded[:, :, down : down + images.shape[2], right : right + images.shape[3]]


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
