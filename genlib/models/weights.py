"""Weights out of a safetensors file that nobody vouches for: looked at before anything of its size is made."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

FILE_BYTES = 4 << 30
"""The largest file whose weights are read."""

HEADER_BYTES = 1 << 20
"""The longest header that is parsed, metadata included; those of networks have a few kB."""

_DTYPES = {torch.float32: "F32", torch.int64: "I64"}


@contextmanager
def opened(path: Path, header_bytes: int = HEADER_BYTES) -> Iterator[tuple[str, Any]]:
    """Our metadata, text in JSON, and the opened file, none of its tensors read.

    Raises ValueError if the file or its header is too large, KeyError if it has no metadata of ours, SafetensorError if
    it is another kind of file, OSError if it cannot be read.
    """
    with path.open("rb") as start:
        header = int.from_bytes(start.read(8), "little")
    if header > header_bytes or path.stat().st_size > FILE_BYTES:
        raise ValueError(f"a header of {header} bytes in a file of {path.stat().st_size}")
    with safe_open(path, framework="pt") as file:
        yield (file.metadata() or {})["genlib"], file


@contextmanager
def unfilled() -> Iterator[None]:
    """Networks that are built inside have shapes and no memory, until `fill` gives them their weights.

    Raises ValueError if a layer would have more bytes than 64 bits count.
    """
    try:
        with torch.device("meta"), _Undrawn():
            yield
    except RuntimeError as error:
        raise ValueError(f"cannot be built: {error}") from error


class _Undrawn(TorchFunctionMode):
    """On the meta device, drawing from a normal distribution does nothing but import torch's compiler, in a second."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (kwargs or {})["tensor"] if func is nn.init.normal_ else func(*args, **(kwargs or {}))


def fill(networks: Mapping[str, nn.Module], file: Any, device: torch.device) -> None:
    """Move networks that were built `unfilled` to `device`, with the weights of an opened file.

    `networks`: by the part that comes before the names of their tensors: NAME.TENSOR. The file must hold exactly their
    tensors, of their shapes and dtypes, all finite; ValueError names the first that is not so, before there is memory
    for any.
    """
    expected = {f"{part}.{name}": like for part, net in networks.items() for name, like in net.state_dict().items()}
    if odd := sorted(expected.keys() ^ set(file.keys())):
        raise ValueError(f"{odd[0]} is {'missing' if odd[0] in expected else 'not one of its tensors'}")
    for name, like in expected.items():
        found = file.get_slice(name)
        if tuple(found.get_shape()) != like.shape or found.get_dtype() != _DTYPES[like.dtype]:
            raise ValueError(
                f"size mismatch: {name} is {found.get_dtype()} {found.get_shape()}, not {like.dtype} {list(like.shape)}"
            )
    for part, network in networks.items():
        tensors = {name: file.get_tensor(f"{part}.{name}") for name in network.state_dict()}
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise ValueError(f"{part}.{name} has values that are not finite")
        placed = {name: _placed(tensors[name], like, device) for name, like in network.state_dict().items()}
        network.load_state_dict(placed, assign=True)


def _placed(tensor: Tensor, like: Tensor, device: torch.device) -> Tensor:
    """On the device, in the order in memory that the network has.

    What `to_empty` of a network does, too, but on the meta device it imports what torch's compiler needs (sympy).
    """
    return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device).copy_(tensor)
