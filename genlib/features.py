"""The measuring network: a small classifier trained on a dataset's own labels; its last hidden layer gives features."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from genlib import rng
from genlib.data.arrays import Images, Split
from genlib.data.batches import resident, to_float
from genlib.errors import GenlibError
from genlib.files import digest, write_bytes
from genlib.settings import FeatureSettings

_BATCH = 500


class Classifier(nn.Module):
    """Four 3 x 3 convolutions with batch norm, the second and fourth halving the image; then a dense layer.

    Images B C H W in 0..1 to features B 4*width (after ReLU) to logits B K.
    """

    def __init__(self, channels: int, size: int, classes: int, width: int) -> None:
        super().__init__()
        self.sizes = {"channels": channels, "size": size, "width": width}
        self.features = nn.Sequential(
            *_block(channels, width, stride=1),
            *_block(width, width, stride=2),
            *_block(width, 2 * width, stride=1),
            *_block(2 * width, 2 * width, stride=2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(2 * width * (-(-size // 4)) ** 2, 4 * width),
            nn.ReLU(),
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


def _block(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


@dataclass(frozen=True)
class MeasuringNetwork:
    """A trained classifier with what identifies it: its dataset and the sha256 of its file."""

    dataset: str
    classes: tuple[str, ...]
    sha256: str
    classifier: Classifier
    device: torch.device

    @torch.no_grad()
    def measure(self, images: Images) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Images uint8 N C H W to features N D and class probabilities N K, both float32."""
        features, probabilities = [], []
        for start in range(0, len(images), _BATCH):
            batch = to_float(torch.from_numpy(np.array(images[start : start + _BATCH])).to(self.device))
            hidden = self.classifier.features(batch)
            features.append(hidden.cpu())
            probabilities.append(self.classifier.head(hidden).softmax(1).cpu())
        return torch.cat(features).numpy(), torch.cat(probabilities).numpy()


def train(train_split: Split, classes: int, settings: FeatureSettings, seed: int, device: torch.device) -> Classifier:
    """Train on randomly shifted images with Adam and a one-cycle schedule (Smith & Topin 2018)."""
    images, labels = resident(train_split.images, device), torch.from_numpy(np.array(train_split.labels)).to(device)
    _, channels, size, _ = images.shape
    with rng.default_generators(seed, "classifier weights"):
        classifier = Classifier(channels, size, classes, settings.width).to(device)
    steps = len(images) // settings.batch_size
    if steps == 0:
        raise GenlibError(f"features: batch_size {settings.batch_size} is more than the {len(images)} training images")
    optimizer = torch.optim.Adam(classifier.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=steps * settings.epochs)
    for epoch in range(1, settings.epochs + 1):
        order = torch.randperm(len(images), generator=rng.generator(seed, "classifier order", epoch)).to(device)
        shifts = rng.generator(seed, "classifier shifts", epoch)
        with rng.default_generators(seed, "classifier dropout", epoch):
            bar = tqdm(range(steps), f"epoch {epoch}/{settings.epochs}", leave=False, disable=None)
            for step in bar:
                chosen = order[step * settings.batch_size : (step + 1) * settings.batch_size]
                batch = _shifted(to_float(images[chosen]), settings.shift, shifts)
                loss = F.cross_entropy(classifier(batch), labels[chosen])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
        if not torch.isfinite(loss):
            raise GenlibError(f"features: loss is {loss.item()} in epoch {epoch}; lower features.<dataset>.lr")
    return classifier.eval()


def accuracy(network: MeasuringNetwork, split: Split) -> float:
    """Share of images whose most probable class is their label."""
    _, probabilities = network.measure(split.images)
    return float(np.mean(probabilities.argmax(1) == split.labels))


def save(path: Path, classifier: Classifier, dataset: str, classes: list[str]) -> None:
    """Write the weights as safetensors, with what is needed to build the network again."""
    metadata = {"dataset": dataset, "classes": classes, **classifier.sizes}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    write_bytes(path, save_tensors(tensors, metadata={"genlib": json.dumps(metadata, sort_keys=True)}))


def load(path: Path, device: torch.device) -> MeasuringNetwork:
    """Read a measuring network; GenlibError if the file is missing or is not one."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, Any] = json.loads((file.metadata() or {})["genlib"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        classes = tuple(str(name) for name in metadata["classes"])
        classifier = Classifier(metadata["channels"], metadata["size"], len(classes), metadata["width"])
        classifier.load_state_dict(tensors)
    except FileNotFoundError as error:
        raise GenlibError(f"{path}: no such file; run dvc repro features@{path.parent.name}") from error
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise GenlibError(f"{path}: not a measuring network ({reason}); run dvc repro") from error
    return MeasuringNetwork(metadata["dataset"], classes, digest(path), classifier.to(device).eval(), device)


def _shifted(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """The batch, moved by one random shift of up to `most` pixels in each direction; the border is repeated."""
    if most == 0:
        return images
    down, right = torch.randint(0, 2 * most + 1, (2,), generator=generator).tolist()
    padded = F.pad(images, (most, most, most, most), mode="replicate")
    return padded[:, :, down : down + images.shape[2], right : right + images.shape[3]]
