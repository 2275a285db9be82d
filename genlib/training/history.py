"""What a training leaves beside its model: settings, architecture, history, pictures of the progress."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from genlib.files import staged_folder, write_json
from genlib.training import Row, Training


def write(folder: Path, training: Training, shape: tuple[int, int, int]) -> None:
    """Write the folder whole: settings.json, architecture.json, history.csv (a row an epoch), steps.csv,
    progress.safetensors (`images_seen` F, `samples` uint8 F N C H W, `codes` F M 2 if recorded).
    """
    inputs = dict.fromkeys(training.networks, shape) | {training.objective.DRAWS: (training.settings.latent_dim,)}
    with staged_folder(folder) as new:
        write_json(new / "settings.json", {"seed": training.seed, **training.settings.model_dump()})
        write_json(new / "architecture.json", {"networks": describe(training.networks, inputs)})
        (new / "history.csv").write_text(_csv(training.history), newline="")
        (new / "steps.csv").write_text(_csv(training.steps), newline="")
        # Images of networks that keep channels last are in that order too, which safetensors does not store.
        frames = {name: torch.stack(frames).contiguous() for name, frames in training.frames.items()}
        (new / "progress.safetensors").write_bytes(save_tensors(frames))


@torch.no_grad()
def describe(networks: Mapping[str, nn.Module], inputs: Mapping[str, tuple[int, ...]]) -> list[dict[str, Any]]:
    """Run each network once on zeros and note what comes out of every layer, so that pages need no torch.

    Args:
        networks: by name; a network that is not an `nn.Sequential` is described as one layer per leaf module.
        inputs: the input shape of each network, without the batch.

    Returns:
        For each network: name, parameters, input, output (shapes without the batch) and layers, each with name, type,
        detail, output and parameters. Plain data.
    """
    return [_network(name, network, inputs[name]) for name, network in networks.items()]


def _csv(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: value if isinstance(value, int) else f"{value:.7g}" for key, value in row.items()})
    return text.getvalue()


def _network(name: str, network: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    layers: list[dict[str, Any]] = []
    hooks = [
        leaf.register_forward_hook(_note(layers, path))
        for path, leaf in network.named_modules()
        if not list(leaf.children())
    ]
    training = network.training
    device = next(network.parameters()).device
    output = network.eval()(torch.zeros(2, *shape, device=device))
    network.train(training)
    for hook in hooks:
        hook.remove()
    return {
        "name": name,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "input": list(shape),
        "output": list(output.shape[1:]),
        "layers": layers,
    }


def _note(layers: list[dict[str, Any]], path: str) -> Any:
    def hook(layer: nn.Module, _: Any, output: Tensor) -> None:
        layers.append(
            {
                "name": path,
                "type": type(layer).__name__,
                "detail": _detail(layer),
                "output": list(output.shape[1:]),
                "parameters": sum(weight.numel() for weight in layer.parameters()),
            }
        )

    return hook


def _detail(layer: nn.Module) -> str:
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        bias = "" if layer.bias is not None else ", no bias"
        padding = f", padding {layer.padding[0]}" if layer.padding[0] else ""
        return f"{layer.out_channels} filters, kernel {layer.kernel_size[0]}, stride {layer.stride[0]}{padding}{bias}"
    if isinstance(layer, nn.Linear):
        return f"{layer.out_features} outputs" + ("" if layer.bias is not None else ", no bias")
    if isinstance(layer, nn.LeakyReLU):
        return f"slope {layer.negative_slope}"
    if isinstance(layer, nn.Dropout):
        return f"probability {layer.p}"
    return layer.extra_repr() if type(layer).__name__ == "Reshape" else ""
