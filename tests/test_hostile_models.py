"""Model files from strangers: no memory for what they only announce, no tensor of another type, one short line."""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_tensors
from strangers import MIB, frugal, parts_of, refusal, rewrite, settled

from genlib import features, models, objectives
from genlib.models import weights
from genlib.settings import RunSettings

CPU = torch.device("cpu")
Small = Callable[..., RunSettings]


@pytest.fixture
def model(small: Small, tmp_path: Path) -> Path:
    chosen = small("gan", net="mlp", ema_halflife_images=10.0)
    networks = objectives.get("gan").build(chosen, (1, 4, 4))
    averaged = objectives.get("gan").build(chosen, (1, 4, 4))["generator"]
    path = tmp_path / "model.safetensors"
    models.save(path, "a-run", 0, chosen, (1, 4, 4), networks, averaged)
    return path


def change_metadata(path: Path, **changes: Any) -> None:
    header, body = parts_of(path)
    metadata = json.loads(header["__metadata__"]["genlib"])
    metadata["settings"] |= changes.pop("settings", {})
    header["__metadata__"]["genlib"] = json.dumps(metadata | changes)
    rewrite(path, header, body)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [16, 4096, 4096]},
        {"shape": [10**9, 10**9, 10**9]},
        {"settings": {"width": 1024, "discriminator_width": 10**9}},
        {"settings": {"discriminator_width": 10**18}},
        {"settings": {"discriminator_width": 10**30}},
        {"settings": {"latent_dim": 4096, "width": 1024}},
        {"settings": {"net": "dcgan", "width": 1024, "discriminator_width": 10**6}, "shape": [3, 128, 128]},
        {"seed": 10**30},
        {"settings": {"lr": 10**400}},
    ],
)
def test_sizes_that_are_announced_are_not_allocated(
    changes: dict[str, Any], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks are built without memory, and the file has not the tensors that would fill them."""
    models.load(model)
    monkeypatch.setattr(torch.nn.Module, "to_empty", lambda *_, **__: pytest.fail("memory was taken"))
    change_metadata(model, **changes)
    with frugal(32 * MIB):
        assert "not a model file of genlib" in refusal(lambda: models.load(model))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32, torch.uint8])
def test_tensors_of_another_type_are_not_cast(dtype: torch.dtype, model: Path) -> None:
    loaded = models.load(model)
    assert loaded.averaged is not None
    networks = loaded.networks | {"averaged": loaded.averaged}
    tensors = {f"{part}.{name}": tensor for part, net in networks.items() for name, tensor in net.state_dict().items()}
    metadata = parts_of(model)[0]["__metadata__"]
    model.write_bytes(save_tensors(tensors, metadata))
    models.load(model)
    tensors["generator.0.bias"] = tensors["generator.0.bias"].to(dtype)
    model.write_bytes(save_tensors(tensors, metadata))
    assert "size mismatch: generator.0.bias is " in refusal(lambda: models.load(model))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(value: float, model: Path) -> None:
    header, body = parts_of(model)
    start, end = header["discriminator.1.weight"]["data_offsets"]
    changed = body[: end - 4] + struct.pack("<f", value) + body[end:]
    assert start < end
    rewrite(model, header, changed)
    assert "discriminator.1.weight has values that are not finite" in refusal(lambda: models.load(model))


def test_a_header_of_many_tensors_is_not_parsed(tmp_path: Path) -> None:
    """The library would take 2.5 GB for these."""
    path = tmp_path / "toy" / "model.safetensors"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.write((90_000_000).to_bytes(8, "little") + b"{")
        file.truncate(90_000_008)
    with frugal(MIB):
        assert "a header of 90000000 bytes" in refusal(lambda: models.load(path))
        assert "a header of 90000000 bytes" in refusal(lambda: features.load(path, CPU))


def test_a_file_of_terabytes_is_not_mapped(model: Path) -> None:
    with model.open("r+b") as file:
        file.truncate(weights.FILE_BYTES + 1)
    assert f"in a file of {weights.FILE_BYTES + 1}" in refusal(lambda: models.load(model))


def test_a_reason_that_a_terminal_would_obey(model: Path) -> None:
    change_metadata(model, settings={"\x1b[2J": 1})
    assert r"\x1b[2J" in refusal(lambda: models.load(model))
    change_metadata(model, **{"\x1b[2J": 1})
    assert r"\x1b[2J" in refusal(lambda: models.load(model))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_a_model_file_with_a_few_bytes_changed(seed: int, model: Path) -> None:
    whole, chance = bytearray(model.read_bytes()), random.Random(seed)
    for _ in range(chance.randint(1, 3)):
        whole[chance.randrange(len(whole))] = chance.randrange(256)
    spoiled = model.with_name("spoiled.safetensors")
    spoiled.write_bytes(whole)
    settled(lambda: models.load(spoiled))
