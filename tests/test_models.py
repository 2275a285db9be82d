"""Model files: what is saved comes back; samples depend on the seed alone; hostile files are refused in one line."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from genlib import models, training
from genlib.errors import GenlibError
from genlib.rng import latents
from genlib.settings import RunSettings

SHAPE = (1, 28, 28)
Small = Callable[..., RunSettings]


@pytest.fixture
def written(small: Small, tmp_path: Path) -> Callable[..., tuple[Path, training.Training]]:
    def write(model: str, best: bool = False, **changes: Any) -> tuple[Path, training.Training]:
        state = training.start(small(model, **changes), 3, SHAPE, torch.device("cpu"))
        if state.averaged is not None:  # unlike the last weights
            with torch.no_grad():
                for weight in state.averaged.parameters():
                    weight.mul_(1.5)
        if best:  # unlike either
            network = copy.deepcopy(state.drawing()["generator"])
            with torch.no_grad():
                for weight in network.parameters():
                    weight.mul_(-0.5)
            state.best, state.best_epoch = network.state_dict(), 7
        path = tmp_path / f"{model}.safetensors"
        checkpoints = (state.averaged, state.best, state.best_epoch)
        models.save(path, "a-run", 3, state.settings, SHAPE, state.networks, *checkpoints)
        return path, state

    return write


Written = Callable[..., tuple[Path, training.Training]]


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("ae", {}),
        ("vae", {"beta": 2.5}),
        ("gan", {}),
        ("gan", {"ema_halflife_images": 10.0}),
        ("gan", {"best": True}),
        ("gan", {"best": True, "ema_halflife_images": 10.0}),
        ("vae", {"width": 1}),
    ],
)
def test_what_is_saved_comes_back(model: str, changes: dict[str, Any], written: Written) -> None:
    path, state = written(model, **changes)
    loaded = models.load(path)
    assert (loaded.run, loaded.seed, loaded.shape, loaded.settings) == ("a-run", 3, SHAPE, state.settings)
    assert type(loaded.settings) is type(state.settings)
    assert loaded.networks.keys() == state.networks.keys()
    pairs = [(loaded.networks[name], network) for name, network in state.networks.items()]
    assert (loaded.averaged is None) == (state.averaged is None)
    if loaded.averaged is not None and state.averaged is not None:
        pairs.append((loaded.averaged, state.averaged))
    assert (loaded.best is None) == (state.best is None)
    assert loaded.best_epoch == state.best_epoch
    best = None
    if loaded.best is not None and state.best is not None:
        best = loaded.best.state_dict()
        assert best.keys() == state.best.keys()
        assert all(torch.equal(tensor, state.best[name]) for name, tensor in best.items())
        assert not loaded.best.training
    for found, expected in pairs:
        tensors = expected.state_dict()
        assert found.state_dict().keys() == tensors.keys()
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in found.state_dict().items())
        assert not found.training
    checkpoints = (loaded.averaged, best, loaded.best_epoch)
    models.save(path.with_name("again"), "a-run", 3, loaded.settings, SHAPE, loaded.networks, *checkpoints)
    assert path.with_name("again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("model", ["vae", "gan"])
def test_the_same_seed_draws_the_same_images(model: str, written: Written) -> None:
    loaded = models.load(written(model)[0])
    images = loaded.sample(4, seed=1)
    assert (images.dtype, images.shape) == (torch.uint8, (4, *SHAPE))
    torch.manual_seed(7)
    state = torch.get_rng_state()
    assert torch.equal(images, loaded.sample(4, seed=1))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(images, loaded.sample(4, seed=2))


@pytest.mark.parametrize("model", ["ae", "gan"])
def test_an_image_does_not_depend_on_its_batch(model: str, written: Written) -> None:
    """Codes are decoded 250 at a time; around that boundary each image is what it is alone, up to rounding."""
    loaded = models.load(written(model)[0])
    codes = latents(503, loaded.settings.latent_dim, 0, "test")
    whole = loaded.decode(codes)
    assert whole.shape == (503, *SHAPE)
    for index in (0, 249, 250, 251, 499, 500, 502):
        alone = loaded.decode(codes[index : index + 1])[0]
        assert (whole[index].int() - alone.int()).abs().max() <= 1


def test_the_average_draws_unless_the_last_weights_are_asked_for(written: Written) -> None:
    path, state = written("gan", ema_halflife_images=10.0)
    loaded = models.load(path)
    codes = latents(5, 3, 0, "test")
    assert state.averaged is not None
    with torch.no_grad():
        average, last = (
            ((network.eval()(codes) + 1) * 127.5).round().to(torch.uint8)
            for network in (state.averaged, state.networks["generator"])
        )
    assert (loaded.decode(codes).int() - average.int()).abs().max() <= 1
    assert (loaded.decode(codes, averaged=False).int() - last.int()).abs().max() <= 1
    assert not torch.equal(average, last)


def test_the_best_checkpoint_is_never_taken_for_the_last(written: Written) -> None:
    path, state = written("gan", best=True, ema_halflife_images=10.0)
    loaded = models.load(path)
    codes = latents(5, 3, 0, "test")
    best, last, raw = loaded.decode(codes, checkpoint="best"), loaded.decode(codes), loaded.decode(codes, False)
    assert not torch.equal(best, last)
    assert not torch.equal(best, raw)
    generator = state.networks["generator"]
    assert state.best is not None
    generator.load_state_dict(state.best)
    with torch.no_grad():
        expected = ((generator.eval()(codes) + 1) * 127.5).round().to(torch.uint8)
    assert (best.int() - expected.int()).abs().max() <= 1
    drawn = [loaded.sample(4, seed=1, checkpoint=checkpoint) for checkpoint in ("best", "last")]
    assert torch.equal(drawn[0], loaded.decode(latents(4, 3, 1, "samples"), checkpoint="best"))
    assert not torch.equal(*drawn)
    with pytest.raises(GenlibError, match="a-run: the best checkpoint has no weights but those it draws with"):
        loaded.decode(codes, averaged=False, checkpoint="best")


def test_a_model_that_was_not_judged_has_no_best_checkpoint(written: Written) -> None:
    path, _ = written("vae")
    loaded = models.load(path)
    assert (loaded.best, loaded.best_epoch) == (None, None)
    assert set(metadata_of(path)) == {"run", "seed", "settings", "shape"}
    with pytest.raises(GenlibError, match="a-run: checkpoint best: this vae has only the last one; draw from last"):
        loaded.sample(1, checkpoint="best")


def test_a_best_checkpoint_and_its_epoch_belong_together(written: Written) -> None:
    path, state = written("gan", best=True)
    metadata = metadata_of(path)
    assert metadata["best_epoch"] == 7
    assert state.best is not None
    good = {f"{p}.{n}": t for p, network in state.networks.items() for n, t in network.state_dict().items()}
    best = {f"best.{name}": tensor for name, tensor in state.best.items()}
    rewrite(path, metadata, good | best)
    models.load(path)
    for epoch, tensors in ((7, good), (None, good | best), (0, good | best), ("7", good | best)):
        rewrite(path, metadata | {"best_epoch": epoch}, tensors)
        assert "not a model file of genlib" in refusal(path)
    rewrite(path, metadata, good | dict(list(best.items())[1:]))
    assert "not a model file of genlib" in refusal(path)


def refusal(path: Path) -> str:
    with pytest.raises(GenlibError) as caught:
        models.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    assert len(message) < 600
    return message


def rewrite(path: Path, metadata: Any, tensors: dict[str, Tensor] | None = None) -> None:
    """Write a model file with other metadata (text as it is, else as JSON; None: without)."""
    if tensors is None:
        state = models.load(path)
        parts = {part: network.state_dict() for part, network in state.networks.items()}
        tensors = {f"{part}.{name}": tensor.contiguous() for part, of in parts.items() for name, tensor in of.items()}
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    path.write_bytes(save_tensors(tensors, metadata=None if metadata is None else {"genlib": text}))


def metadata_of(path: Path) -> Any:
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(header["__metadata__"]["genlib"])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "no such model file; train it" in refusal(tmp_path / "model.safetensors")


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    refusal(tmp_path)


@pytest.mark.parametrize("end", [0, 4, 8, 100, -1000, -1])
def test_a_cut_file(end: int, written: Written) -> None:
    path, _ = written("vae")
    path.write_bytes(path.read_bytes()[:end])
    assert "not a model file of genlib" in refusal(path)


@pytest.mark.parametrize(
    "content",
    [b"<html>", bytes(100), b"\xff" * 100, pickle.dumps({"a": 1}), (100).to_bytes(8, "little") + b"{" * 100],
    ids=["page", "zeros", "ones", "pickle", "braces"],
)
def test_another_kind_of_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert "not a model file of genlib" in refusal(path)


def test_a_file_of_torch_is_not_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    torch.save({"a": torch.zeros(1)}, path)
    assert "not a model file of genlib" in refusal(path)


def test_tensors_without_metadata(written: Written) -> None:
    path, _ = written("vae")
    rewrite(path, None)
    assert "not a model file of genlib" in refusal(path)


@pytest.mark.parametrize("metadata", ["", "{", "[]", "3", "null", "{}", "[" * 100_000, '{"settings": 3}'])
def test_metadata_that_is_not_ours(metadata: str, written: Written) -> None:
    path, _ = written("vae")
    rewrite(path, metadata)
    assert "not a model file of genlib" in refusal(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("settings", None),
        ("settings", []),
        ("settings", "vae"),
        ("settings.model", "../os"),
        ("settings.model", "os"),
        ("settings.model", "_shared"),
        ("settings.model", ["vae"]),
        ("settings.model", "ae"),
        ("settings.net", "../os"),
        ("settings.net", "os"),
        ("settings.net", "layers"),
        ("settings.net", "nowhere"),
        ("settings.width", "wide"),
        ("settings.width", 1000),
        ("settings.width", 4),
        ("settings.latent_dim", -1),
        ("settings.lane", "../../etc"),
        ("settings.surprise", 1),
        ("shape", None),
        ("shape", [28, 28]),
        ("shape", "1 28"),
        ("shape", ["1", "28", "28"]),
        ("shape", ["1", 28, 28]),
        ("shape", [1, 64, 64]),
        ("shape", [3, 28, 28]),
        ("shape", [0, 28, 28]),
        ("shape", [-1, 28, 28]),
        ("shape", [1.5, 28, 28]),
        ("shape", [10**12, 28, 28]),
        ("shape", [10**30, 28, 28]),
        ("seed", "x"),
        ("seed", None),
        ("seed", []),
        ("seed", -1),
        ("seed", 1.5),
        ("run", None),
        ("run", 3),
        ("run", "../../escape"),
    ],
)
def test_metadata_of_wrong_types(key: str, value: Any, written: Written) -> None:
    path, _ = written("vae")
    metadata = metadata_of(path)
    target = metadata
    *folders, last = key.split(".")
    for folder in folders:
        target = target[folder]
    target[last] = value
    rewrite(path, metadata)
    refusal(path)


@pytest.mark.parametrize("key", ["run", "seed", "settings", "shape"])
def test_metadata_that_lacks_a_part(key: str, written: Written) -> None:
    path, _ = written("vae")
    metadata = metadata_of(path)
    del metadata[key]
    rewrite(path, metadata)
    assert "not a model file of genlib" in refusal(path)


def test_missing_strange_and_misshapen_tensors(written: Written) -> None:
    path, state = written("gan", ema_halflife_images=10.0)
    metadata = metadata_of(path)
    good = {f"{p}.{n}": t for p, network in state.networks.items() for n, t in network.state_dict().items()}
    assert state.averaged is not None
    good |= {f"averaged.{name}": tensor for name, tensor in state.averaged.state_dict().items()}
    rewrite(path, metadata, dict(good))
    models.load(path)
    name = next(name for name in good if name.startswith("generator."))
    missing = {other: tensor for other, tensor in good.items() if other != name}
    half_average = {n: t for n, t in good.items() if not n.startswith("averaged.") or n.endswith("running_mean")}
    no_discriminator = {n: t for n, t in good.items() if not n.startswith("discriminator.")}
    for tensors in (missing, half_average, no_discriminator, {}, good | {name: good[name][:1].clone()}):
        rewrite(path, metadata, tensors)
        assert "not a model file of genlib" in refusal(path)
    rewrite(path, metadata, good | {"generator.more": torch.zeros(1)})
    assert "not a model file of genlib" in refusal(path)
