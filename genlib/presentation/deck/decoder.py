"""A decoder taken out of its model file as plain numbers, so that a page can run it. Needs no torch."""

import re
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from genlib.errors import GenlibError
from genlib.presentation.results import Layer, Network

_PLAIN = ("ReLU", "Sigmoid", "Tanh", "Identity")
_WEIGHTED = ("Linear", "ConvTranspose2d")
LAYERS = (*_PLAIN, *_WEIGHTED, "LeakyReLU", "Reshape")
"""What the page can run."""

MOST_PARAMETERS = 500_000
"""A decoder with more would make the page large and slow."""


def refusal(network: Network) -> str | None:
    """Why the page cannot run a network, None if it can."""
    unknown = [layer.type for layer in network.layers if layer.type not in LAYERS]
    if unknown:
        return f"its decoder has a layer that the page cannot run ({unknown[0]})"
    if network.parameters > MOST_PARAMETERS:
        return f"its decoder has {network.parameters:,} weights, too many for the page (at most {MOST_PARAMETERS:,})"
    return None


def describe(network: Network, model: Path, run: str) -> dict[str, Any]:
    """The network as JSON: its layers in order, each with its sizes and the place of its weights, and all weights.

    Args:
        network: as training described it; one that is not refused.
        model: the model file that holds its weights, and perhaps their running average, which is then taken.
        run: whose they are.

    Returns:
        `shape` of what comes out, `layers`, and `weights`: base64 of little-endian float32. Where a layer has weights,
        `weight` and `bias` (null if it has none) are offset and length in that array.

    Raises:
        GenlibError: the file is missing, damaged, or does not hold the network's weights.
    """
    packed: list[NDArray[np.float32]] = []
    layers = []
    try:
        with safe_open(model, framework="numpy") as file:
            names = set(file.keys())
            part = "averaged" if any(name.startswith("averaged.") for name in names) else network.name
            before = network.input
            for layer in network.layers:
                weights = {
                    kind: file.get_tensor(name) if (name := f"{part}.{layer.name}.{kind}") in names else None
                    for kind in ("weight", "bias")
                }
                layers.append(_layer(layer, before, weights, packed))
                before = layer.output
    except (OSError, SafetensorError, ValueError) as error:
        raise GenlibError(f"{model}: not the weights of {run} ({error}); delete it, dvc repro train@{run}") from error
    raw = np.concatenate(packed).astype("<f4").tobytes() if packed else b""
    return {"shape": list(network.output), "layers": layers, "weights": b64encode(raw).decode("ascii")}


def _layer(
    layer: Layer, before: Sequence[int], weights: dict[str, NDArray[Any] | None], packed: list[NDArray[np.float32]]
) -> dict[str, Any]:
    described: dict[str, Any] = {"type": layer.type}
    if layer.type == "LeakyReLU":
        described["slope"] = _number("slope", layer.detail)
    if layer.type in _WEIGHTED:
        weight = weights["weight"]
        expected = layer.parameters - (0 if weights["bias"] is None else weights["bias"].size)
        if weight is None or weight.size != expected:
            raise ValueError(f"layer {layer.name} is described with {layer.parameters} parameters")
        described |= {"input": list(before), "output": list(layer.output)}
        described |= {kind: _packed(values, packed) for kind, values in weights.items()}
        if layer.type == "ConvTranspose2d":
            described |= {"kernel": int(weight.shape[-1]), "stride": int(_number("stride", layer.detail))}
            described["padding"] = int(_number("padding", layer.detail))
    return described


def _packed(values: NDArray[Any] | None, packed: list[NDArray[np.float32]]) -> list[int] | None:
    if values is None:
        return None
    packed.append(values.astype(np.float32).ravel())
    return [sum(len(array) for array in packed[:-1]), values.size]


def _number(word: str, detail: str) -> float:
    """The number after a word of a layer's description; 0 if it is not said."""
    found = re.search(rf"\b{word} ([\d.]+)", detail)
    return float(found[1]) if found else 0.0
