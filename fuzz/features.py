"""Fuzzes `features.load`: the safetensors file of a measuring network."""

import random
import tempfile
from pathlib import Path

import numpy as np
import torch

from fuzz.harness import fuzz, instrumented
from fuzz.tensors import changed

with instrumented():
    from genlib import features
    from genlib.features import classifiers


def read(folder: Path, data: bytes) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    network = features.load(path, torch.device("cpu"))
    sizes = network.classifier.sizes
    images = np.zeros((1, sizes["channels"], sizes["size"], sizes["size"]), np.uint8)
    assert network.measure(images)[1].shape == (1, len(network.classes))


def seeds() -> list[bytes]:
    torch.manual_seed(0)
    return [_saved("plain", 1, 8), _saved("residual", 3, 32)]


def _saved(net: str, channels: int, size: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        network = classifiers.build(net, channels, size, 2, 1)
        features.save(path, network, "toy", "classes", ["a", "b"], net)
        return path.read_bytes()


def mutate(data: bytes, chance: random.Random) -> bytes:
    return changed(data, chance)


if __name__ == "__main__":
    fuzz("features", read, seeds(), mutate)
