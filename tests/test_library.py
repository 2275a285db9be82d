"""`from genlib import load`: numpy in, numpy out, as the networks give it; mistakes in one line; cheap to import."""

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import genlib
from genlib import models, training
from genlib.cli import COMMANDS
from genlib.data.readers.decode import Shape, pixels
from genlib.data.readers.reading import Picture
from genlib.errors import GenlibError
from genlib.library import TrainedModel
from genlib.settings import RunSettings

ROOT = Path(__file__).resolve().parent.parent
GREY, COLOUR = (1, 28, 28), (3, 32, 32)
Written = Callable[..., Path]


@pytest.fixture
def written(small: Callable[..., RunSettings], tmp_path: Path) -> Written:
    """Writes the file of a model that was never trained."""

    def write(model: str, shape: tuple[int, int, int] = GREY, best: bool = False, **changes: Any) -> Path:
        state = training.start(small(model, **changes), 3, shape, torch.device("cpu"))
        kept = {name: weight * 2 for name, weight in state.networks["generator"].state_dict().items()} if best else None
        path = tmp_path / f"{model}.safetensors"
        models.save(path, f"a-{model}", 3, state.settings, shape, state.networks, None, kept, 1 if best else None)
        return path

    return write


def test_every_name_that_is_promised_is_there_and_no_other() -> None:
    assert genlib.__all__ == ["GenlibError", "TrainedModel", "grid", "load"]
    assert all(getattr(genlib, name).__module__.startswith("genlib.") for name in genlib.__all__)
    assert set(genlib.__all__) <= set(dir(genlib))
    assert genlib.GenlibError is GenlibError
    with pytest.raises(AttributeError, match=r"module 'genlib' has no attribute 'lode'"):
        _ = genlib.lode
    with pytest.raises(ImportError):
        exec("from genlib import lode")


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import genlib, sys; print(sorted({'torch', 'numpy', 'PIL', 'pydantic'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


@pytest.mark.parametrize("model", ["vae", "gan"])
def test_samples_are_those_of_the_networks(model: str, written: Written) -> None:
    path = written(model)
    loaded = genlib.load(str(path))
    images = loaded.sample(5, seed=2)
    assert (str(images.dtype), images.shape) == ("uint8", (5, *GREY))
    assert np.array_equal(images, models.load(path).sample(5, seed=2).numpy())
    assert np.array_equal(loaded.sample(1), loaded.sample(1, seed=0))
    assert repr(loaded) == f"<a-{model}: {model} of digits, images 1 x 28 x 28, Z = 3>"


def test_the_best_checkpoint_draws_if_it_is_asked_for(written: Written) -> None:
    loaded = genlib.load(written("gan", best=True))
    assert not np.array_equal(loaded.sample(3), loaded.sample(3, checkpoint="best"))
    codes = loaded.random_codes(3)
    assert not np.array_equal(loaded.decode(codes), loaded.decode(codes, checkpoint="best"))
    with pytest.raises(GenlibError, match="a-vae: checkpoint best"):
        genlib.load(written("vae")).sample(3, checkpoint="best")


def test_what_a_model_can_do(written: Written) -> None:
    can = {name: genlib.load(written(name)) for name in ("ae", "vae", "gan")}
    assert {name: (model.encodes, model.has_prior) for name, model in can.items()} == {
        "ae": (True, False),
        "vae": (True, True),
        "gan": (False, True),
    }
    assert {(model.shape, model.latent_dim, model.run[:2]) for model in can.values()} == {(GREY, 3, "a-")}


def test_codes_go_there_and_back(written: Written, bars: Callable[[int], np.ndarray[Any, np.dtype[np.uint8]]]) -> None:
    path = written("vae")
    loaded, images = genlib.load(path), bars(4)
    codes = loaded.encode(images)
    assert (str(codes.dtype), codes.shape) == ("float32", (4, 3))
    assert np.array_equal(codes, models.load(path).encode(images).numpy())
    assert np.array_equal(loaded.reconstruct(images), loaded.decode(codes))
    assert not np.array_equal(loaded.random_codes(3, 0), loaded.random_codes(3, 1))


def test_a_model_of_binary_images_is_given_binary_ones(
    written: Written, bars: Callable[[int], np.ndarray[Any, np.dtype[np.uint8]]]
) -> None:
    path = written("bernoulli_vae", net="mlp")
    loaded, model, images = genlib.load(path), models.load(path), bars(3)
    assert np.array_equal(loaded.encode(images), model.encode(model.observed(images)).numpy())


def test_interpolation_is_a_straight_line_between_codes(written: Written) -> None:
    loaded = genlib.load(written("vae"))
    start, end = loaded.random_codes(2, 0), loaded.random_codes(2, 1)
    images = loaded.interpolate(start, end, steps=3)
    assert images.shape == (6, *GREY)
    expected = loaded.decode(np.stack([start, (start + end) / 2, end], axis=1).reshape(6, 3))
    assert np.abs(images.astype(int) - expected).max() <= 1


def a_picture(size: tuple[int, int]) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(noise)


@pytest.mark.parametrize("size", [(100, 60), (60, 101), (32, 32), (20, 24)])
def test_a_picture_is_prepared_as_in_preprocessing(size: tuple[int, int], written: Written, tmp_path: Path) -> None:
    loaded = genlib.load(written("vae", shape=COLOUR, net="dcgan"))
    picture = a_picture(size)
    picture.save(tmp_path / "p.png")
    side = min(size)
    left, upper = (size[0] - side) // 2, (size[1] - side) // 2
    shape = Shape(size, (left, upper, left + side, upper + side), 32)
    expected = pixels(Picture("train", 0, Path("a.zip"), "p.png", (tmp_path / "p.png").read_bytes()), shape)
    for given in (picture, tmp_path / "p.png", str(tmp_path / "p.png")):
        assert np.array_equal(loaded.prepare(given), expected[None])


def test_grey_upright_and_on_white(written: Written, tmp_path: Path) -> None:
    loaded = genlib.load(written("vae"))
    clear = Image.new("RGBA", (28, 28), (0, 0, 0, 0))
    assert (loaded.prepare(clear) == 255).all()
    dark_left = Image.fromarray(np.array([[0, 255]], np.uint8).repeat(14, axis=1).repeat(28, axis=0))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: to be seen upright, turn it clockwise
    dark_left.save(tmp_path / "turned.jpg", exif=exif, quality=100)
    turned = loaded.prepare(tmp_path / "turned.jpg")[0, 0]
    assert turned[:13].max() < 10
    assert turned[15:].min() > 245


def wrong_file(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "wrong.jpg").write_bytes(content)
    return tmp_path / "wrong.jpg"


def deep(folder: Path, depth: type[np.generic]) -> Path:
    """A picture of more than 8 bits a channel."""
    Image.fromarray(np.full((9, 9), 1000, depth)).save(folder / "deep.tiff")
    return folder / "deep.tiff"


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda model, _: model.sample(0), "count: 0 is less than 1; give 1 or more"),
        (
            lambda model, _: model.interpolate(model.random_codes(1), model.random_codes(2)),
            r"\(1, 3\) and end \(2, 3\)",
        ),
        (lambda model, _: model.interpolate(model.random_codes(1), model.random_codes(1), 0), "steps: 0 is less"),
        (lambda model, _: model.decode(np.zeros((2, 4))), r"codes: \(2, 4\) are not N x 3, which a-vae decodes"),
        (lambda model, _: model.encode(np.zeros((2, 1, 9, 9), np.uint8)), r"are not uint8 N 1 28 28, which a-vae enc"),
        (lambda model, _: model.encode(np.zeros((2, *GREY))), r"images: float64 \(2, 1, 28, 28\) are not uint8"),
        (lambda model, _: model.prepare("nowhere.jpg"), r"nowhere\.jpg: no such picture; name a file"),
        (lambda model, path: model.prepare(wrong_file(path, b"<html>")), r"wrong\.jpg: not a picture that can be read"),
        (lambda model, path: model.prepare(wrong_file(path, b"\xff\xd8\xff\xe0")), r"wrong\.jpg: not a picture"),
        (lambda model, path: model.prepare(path), "not a picture that can be read"),
        (
            lambda model, path: model.prepare(deep(path, np.uint16)),
            r"deep\.tiff: has colours of mode I;16: save it with 8 bits a channel",
        ),
        (
            lambda model, path: model.prepare(deep(path, np.float32)),
            r"deep\.tiff: has colours of mode F: save it with 8",
        ),
        (lambda model, _: model.prepare(Image.new("I", (9, 9))), "picture: has colours of mode I: save it with 8 bits"),
        (lambda _, __: genlib.grid(np.zeros((2, 2, 2), np.uint8)), "a grid takes uint8 N C H W"),
        (lambda _, path: genlib.load(path / "none"), "none: no such model file"),
        (lambda _, path: genlib.load(path / "vae.safetensors", "tpu"), "device: 'tpu' is none; give cpu, cuda or"),
        (lambda _, path: genlib.load(path / "vae.safetensors", "cuda:99"), "'cuda:99': torch sees .* CUDA devices"),
        (lambda _, path: genlib.load(path / "vae.safetensors", "meta"), "'meta': torch sees .* give cpu"),
    ],
)
def test_a_mistake_is_one_line(
    mistake: Callable[[TrainedModel, Path], object], message: str, written: Written, tmp_path: Path
) -> None:
    loaded = genlib.load(written("vae"))
    with pytest.raises(GenlibError, match=message) as caught:
        mistake(loaded, tmp_path)
    assert "\n" not in str(caught.value)


def test_what_draws_only_does_not_encode(written: Written) -> None:
    loaded = genlib.load(written("gan"))
    with pytest.raises(
        GenlibError, match=r"a-gan: a gan draws images and encodes none; take a run whose model encodes"
    ):
        loaded.reconstruct(np.zeros((1, *GREY), np.uint8))


def test_a_grid_is_as_square_as_it_can_be() -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(8, 2).repeat(8, 3)
    assert genlib.grid(images).size == (3 * 17 + 1, 2 * 17 + 1)
    assert genlib.grid(images, columns=5, scale=1).size == (5 * 9 + 1, 9 + 1)


def test_the_page_on_the_library_names_what_there_is() -> None:
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    _, promised, methods, commands, _ = re.split(
        r"^\| (?:name|of a|command) .*\n\| --- \|.*\n", page + "\n| name |\n| --- |\n", flags=re.M
    )
    rows = [re.findall(r"`(\w+)", line.split(" | ")[0]) for line in promised.split("\n\n")[0].splitlines()]
    assert sorted(name for names in rows for name in names[:1]) == sorted(genlib.__all__)
    named = {
        name for line in methods.split("\n\n")[0].splitlines() for name in re.findall(r"`(\w+)", line.split(" | ")[0])
    }
    public = {name for name in [*vars(TrainedModel), "model"] if not name.startswith("_")}
    assert named == public
    assert set(re.findall(r"^\| `python -m genlib (\w+)", commands, flags=re.M)) == set(COMMANDS)


def test_what_the_page_on_the_library_calls_is_called_so() -> None:
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    for name, said in re.findall(r"^\| `(\w+)\(([^)]*)\)`", page, flags=re.M):
        function = getattr(genlib, name, None) or getattr(TrainedModel, name)
        taken = [
            name if parameter.default is parameter.empty else f"{name}={parameter.default!r}".replace("'", '"')
            for name, parameter in inspect.signature(function).parameters.items()
            if name != "self"
        ]
        assert said == ", ".join(taken), name


@pytest.mark.filterwarnings("error")
def test_a_large_picture_is_read_and_one_too_large_is_to_be_made_smaller(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow warns from its limit on and refuses from twice that on."""
    loaded = genlib.load(written("vae"))
    for name, side in (("large", 40), ("larger", 60)):
        a_picture((side, side)).save(tmp_path / f"{name}.png")
    expected = loaded.prepare(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert np.array_equal(loaded.prepare(tmp_path / "large.png"), expected)
    refusal = r"larger\.png: Image size \(3600 pixels\) exceeds limit of 2000 pixels; make it smaller$"
    with pytest.raises(GenlibError, match=refusal):
        loaded.prepare(tmp_path / "larger.png")
