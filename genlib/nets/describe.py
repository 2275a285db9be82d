"""Networks describe themselves: layers, shapes and parameters, so that pages need no torch."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def describe(networks: Mapping[str, nn.Module], inputs: Mapping[str, tuple[int, ...]]) -> list[dict[str, Any]]:
    """Run each network once on zeros and note what comes out of every layer.

    Args:
        networks: by name; a network that is not an `nn.Sequential` is described as one layer per leaf module.
        inputs: the input shape of each network, without the batch.

    Returns:
        For each network: name, parameters, input, output (shapes without the batch) and layers, each with name, type,
        detail, output and parameters. Plain data.
    """
    return [_network(name, network, inputs[name]) for name, network in networks.items()]


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
