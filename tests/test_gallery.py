"""The pictures of a trained model: which there are, what is in them, and what may be published."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from ruamel.yaml import YAML

from genlib import models, objectives, rng, training
from genlib.data.arrays import Split
from genlib.errors import GenlibError
from genlib.figures import gallery
from genlib.figures.grids import fitting_scale, grid
from genlib.settings import ProgressSettings, RunSettings, SampleSettings
from genlib.training import history
from stages import sample

ROOT = Path(__file__).resolve().parent.parent
ATTRIBUTES = ["Bright", "Tall", "Never"]
TESTS = 70
SETTINGS = SampleSettings(
    images=64, grid=12, interpolations=2, manifold=3, gradient_draws=3, gradient_images=8, neighbours=3,
    attributes=("Tall",),
)  # fmt: skip

FIGURES = {"samples.png", "curves.png"}
DRAWN = {"progress.gif", "training_points.png"}
OF_IMAGES = {"data.png", "neighbours.png"}
EXPECTED: dict[str, tuple[set[str], set[str]]] = {
    "ae": (FIGURES, OF_IMAGES | DRAWN | {"interpolations.png", "reconstructions.png", "attributes.png"}),
    "dae": (FIGURES, OF_IMAGES | DRAWN | {"interpolations.png", "denoising.png", "attributes.png"}),
    "vae": (
        FIGURES | DRAWN | {"attributes_samples.png", "gradient_variance.png", "gradient_variance.json"}
        | {"codes.png", "codes.gif", "manifold.png"},
        OF_IMAGES | {"interpolations.png", "reconstructions.png", "attributes.png"},
    ),
    "gan": (FIGURES | DRAWN | {"samples_last.png", "interpolations.png", "alternation.json"}, OF_IMAGES),
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "ae": {"model": "ae"},
    "dae": {"model": "ae", "noise": 0.5},
    "vae": {"model": "vae", "latent_dim": 2},
    "gan": {"model": "gan", "dropout": 0.0, "ema_halflife_images": 100},
}


def split(count: int, seed: int) -> Split:
    """Colour images 32 x 32: a bright or dark square, tall or wide, on a background of noise; and both as labels."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 120, (count, 3, 32, 32), dtype=np.uint8)
    labels = np.zeros((count, 3), np.int64)
    for image, label in zip(images, labels, strict=True):
        label[:2] = rng.integers(0, 2, 2)
        height, width = (24, 10) if label[1] else (10, 24)
        top, left = (32 - height) // 2, rng.integers(0, 32 - width + 1)
        image[:, top : top + height, left : left + width] = 230 if label[0] else 15
    return Split(images, labels)


def data(**changes: Any) -> gallery.Data:
    card = {"dataset": "toys", "labels": "attributes", "classes": ATTRIBUTES, "people": True}
    card |= {"counts": {"train": 60, "val": 20, "test": TESTS}}
    return gallery.Data(card | changes, split(60, 1), split(20, 2))


@pytest.fixture(scope="module")
def progress() -> ProgressSettings:
    return ProgressSettings(frames=6, images=16, codes=10, rows_per_epoch=2, judged=8)


Trained = dict[str, Path]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, progress: ProgressSettings) -> Trained:
    """The folder of a tiny model of each kind, trained for a moment."""
    root, made = tmp_path_factory.mktemp("trained"), data()
    for name, own in OWN.items():
        settings, shape = tiny(own), (3, 32, 32)
        state = training.start(settings, 0, shape, torch.device("cpu"))
        for _ in training.run(state, made.train.images, made.heldout.images, progress, None):
            pass
        models.save(root / name / "model", name, 0, settings, shape, state.networks, state.averaged)
        history.write(root / name / "log", state, shape)
    return {name: root / name for name in OWN}


def tiny(own: dict[str, Any]) -> RunSettings:
    from genlib import objectives

    common: dict[str, Any] = {"lane": "demo", "dataset": "toys", "features": "toys", "net": "dcgan", "latent_dim": 3}
    common |= {"width": 2, "epochs": 4, "batch_size": 10, "flip": True, "lr": 1e-3, "precision": "float32"}
    common |= {"ema_halflife_images": None}
    of_model: dict[str, dict[str, Any]] = {
        "ae": {"output": "sigmoid", "noise": 0.0},
        "vae": {"output": "sigmoid", "beta": 1.0},
        "gan": {
            "discriminator_width": 2,
            "leaky_slope": 0.2,
            "real_label": 1.0,
            "beta1": 0.5,
            "lr_halflife_images": None,
        },
    }
    return objectives.get(own["model"]).Settings.model_validate(common | of_model[own["model"]] | own)


@pytest.fixture(scope="module")
def drawn(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Draws all pictures of a model, once, into two folders."""
    root, made = tmp_path_factory.mktemp("drawn"), data()
    done: dict[str, tuple[Path, Path]] = {}

    def draw(name: str) -> tuple[Path, Path]:
        if name not in done:
            folders = root / name / "figures", root / name / "real"
            for folder in folders:
                folder.mkdir(parents=True)
            model = models.load(trained[name] / "model")
            columns = gallery.attribute_columns(made, SETTINGS.attributes)
            gallery.draw(model, model.sample(64).numpy(), trained[name] / "log", made, columns, SETTINGS, *folders)
            done[name] = folders
        return done[name]

    return draw


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def contains(picture: NDArray[np.uint8], image: NDArray[np.uint8], scale: int) -> bool:
    """Whether a picture has this image (C H W), magnified, anywhere in it."""
    tile = image.repeat(scale, 1).repeat(scale, 2).transpose(1, 2, 0)
    height, width = tile.shape[:2]
    corners = np.argwhere((picture[: -height + 1 or None, : -width + 1 or None] == tile[0, 0]).all(-1))
    return any((picture[y : y + height, x : x + width] == tile).all() for y, x in corners)


# Which pictures there are, and where


@pytest.mark.parametrize("name", EXPECTED)
def test_each_folder_holds_what_it_may(name: str, drawn: Callable[[str], tuple[Path, Path]]) -> None:
    figures, real = drawn(name)
    assert ({path.name for path in figures.iterdir()}, {path.name for path in real.iterdir()}) == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_no_image_of_the_dataset_is_in_figures(name: str, drawn: Callable[[str], tuple[Path, Path]]) -> None:
    figures, real = drawn(name)
    made = data()
    assert contains(pixels(real / "data.png"), made.train.images[0], 2)  # the test finds one where there is one
    assert contains(pixels(real / "data.png"), made.train.images[11], 2)
    shown = [*made.train.images[:12], *made.heldout.images[:16]]
    for path in figures.glob("*.png"):
        if path.name not in ("curves.png", "gradient_variance.png", "codes.png"):
            picture = pixels(path)
            assert not any(contains(picture, image, scale) for image in shown for scale in (1, 2)), path.name


@pytest.mark.parametrize("name", ["ae", "vae", "gan"])
def test_progress_is_published_only_where_it_ignores_the_images(name: str, trained: Trained) -> None:
    """The criterion against what the objective does: another held-out image, another picture?"""
    model = models.load(trained[name] / "model")
    codes, images = torch.zeros(2, model.settings.latent_dim), torch.from_numpy(data().heldout.images[:4] / 255)
    with torch.no_grad():
        first = model.objective.preview(model.networks, codes, images[:2].float())
        second = model.objective.preview(model.networks, codes, images[2:].float())
    assert objectives.draws_from_prior(model.objective) == torch.equal(first, second)


def test_datasets_without_attributes(trained: Trained, tmp_path: Path) -> None:
    """People: no directions, and codes in one colour."""
    made = data(labels="people", classes=[])
    people = np.arange(60)
    made = gallery.Data(made.card, Split(made.train.images, people), Split(made.heldout.images, people[:20]))
    assert gallery.attribute_columns(made, SETTINGS.attributes) == {}
    for folder in ("figures", "real"):
        (tmp_path / folder).mkdir()
    model = models.load(trained["vae"] / "model")
    log, samples = trained["vae"] / "log", model.sample(16).numpy()
    gallery.draw(model, samples, log, made, {}, SETTINGS, tmp_path / "figures", tmp_path / "real")
    figures, real = EXPECTED["vae"]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == figures - {"attributes_samples.png"}
    assert {path.name for path in (tmp_path / "real").iterdir()} == real - {"attributes.png"}


# What is in them


def test_the_same_codes_are_the_same_however_many_are_shown(trained: Trained, tmp_path: Path) -> None:
    """torch draws other numbers where it draws few: 5 codes of 3 numbers are not the first 5 of 64."""
    model = models.load(trained["gan"] / "model")
    codes = rng.latents(64, 3, model.seed, "samples")[:5]
    assert not torch.equal(rng.latents(5, 3, model.seed, "samples"), codes)
    settings = SETTINGS.model_copy(update={"grid": 5})
    gallery.draw(model, model.sample(64).numpy(), trained["gan"] / "log", data(), {}, settings, tmp_path, tmp_path)
    shown = pixels(tmp_path / "samples_last.png")
    for image in model.decode(codes, averaged=False).numpy():
        assert contains(shown, image, 1) or contains(shown, image, 2)


def test_sizes_are_for_a_page(drawn: Callable[[str], tuple[Path, Path]]) -> None:
    for name in EXPECTED:
        for folder in drawn(name):
            for path in folder.glob("*.png"):
                assert pixels(path).shape[1] <= 1300, path.name


def test_direction_is_the_difference_of_mean_codes(trained: Trained) -> None:
    model, made = models.load(trained["vae"] / "model"), data()
    with torch.no_grad():
        codes = model.networks["encoder"](torch.from_numpy(made.train.images) / 255).numpy()[:, :2].astype(np.float64)
    tall = made.train.labels[:, 1] == 1
    expected = codes[tall].mean(0) - codes[~tall].mean(0)
    direction = gallery.attribute_direction(model, made.train.images, made.train.labels[:, 1])
    assert direction.numpy() == pytest.approx(expected, abs=1e-5)
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("limit", [7, 10_000])
def test_direction_takes_the_first_images_of_either_kind(
    limit: int, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "_MEAN_OF", limit)
    monkeypatch.setattr(gallery, "_BATCH", 4)
    model, made = models.load(trained["ae"] / "model"), data()
    labels = made.train.labels[:, 0]
    with torch.no_grad():
        codes = model.networks["encoder"](torch.from_numpy(made.train.images) / 255).numpy()
    expected = codes[labels == 1][:limit].mean(0) - codes[labels == 0][:limit].mean(0)
    direction = gallery.attribute_direction(model, made.train.images, labels)
    assert direction.numpy() == pytest.approx(expected, abs=1e-5)


def test_attributes_picture_is_the_code_moved(trained: Trained, drawn: Callable[[str], tuple[Path, Path]]) -> None:
    model, made = models.load(trained["vae"] / "model"), data()
    with torch.no_grad():
        code = model.networks["encoder"](torch.from_numpy(made.heldout.images[3:4]) / 255)[:, :2]
    direction = gallery.attribute_direction(model, made.train.images, made.train.labels[:, 1])
    moved = torch.cat([code - 2 * direction, code, code + 2 * direction])
    first, middle, last = model.decode(moved).numpy()
    picture = pixels(drawn("vae")[1] / "attributes.png")
    assert picture.shape[0] == 4 * 65 + 1 + 26  # four held-out images, one attribute, the headings
    row = picture[26 + 3 * 65 :]
    tiles = [row[1:65, -7 * 65 + 65 * at : -7 * 65 + 65 * at + 64] for at in (0, 3, 6)]
    for tile, image in zip(tiles, (first, middle, last), strict=True):
        assert (tile == image.repeat(2, 1).repeat(2, 2).transpose(1, 2, 0)).all()
    plain = model.reconstruct(made.heldout.images[3:4])[0].repeat(2, 1).repeat(2, 2).transpose(1, 2, 0)
    assert np.abs(tiles[1].astype(int) - plain).max() <= 1


def test_progress_of_large_images_is_small(trained: Trained, tmp_path: Path) -> None:
    """64 x 64, six frames of 36 images, coarse shapes with a little noise; 30 frames then stay under 2.5 MB."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(20, 230, (6, 36, 3, 16, 16)).repeat(4, 3).repeat(4, 4)
    frames = {"samples": torch.from_numpy((coarse + rng.integers(0, 12, coarse.shape)).astype(np.uint8))}
    frames["images_seen"] = torch.arange(6) * 100
    model = models.load(trained["gan"] / "model")
    gallery._learning(replace(model, shape=(3, 64, 64)), frames, tmp_path)
    assert (tmp_path / "progress.gif").stat().st_size < 2_500_000 * 6 / 30
    with Image.open(tmp_path / "progress.gif") as gif:
        assert len(list(ImageSequence.Iterator(gif))) == 6
        assert gif.width == 4 * 65 + 1


# The stage


def write(folder: Path, card: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    for name, part in (("train", split(60, 1)), ("val", split(20, 2))):
        np.save(folder / f"{name}.npy", part.images)
        np.save(folder / f"{name}_labels.npy", part.labels)
    whole: dict[str, Any] = {"origin": {"files": []}, "edition": None, "image_size": 32, "channels": 3, "crop": None}
    whole |= {"class_counts": {}, "people_counts": None, "mean": [0.5] * 3, "std": [0.2] * 3, "resize": None}
    whole |= {"split_rule": "none", "sha256": {}}
    (folder / "card.json").write_text(json.dumps(whole | card))
    return folder


@pytest.fixture
def stage(alone: Path, trained: Trained) -> Callable[..., tuple[Path, Path]]:
    """Runs the stage on the tiny VAE; the card and the settings of `sample` may be changed."""

    def run(card: dict[str, Any], **changes: Any) -> tuple[Path, Path]:
        raw = YAML(typ="safe").load(ROOT / "params.yaml")
        raw["sample"] = SETTINGS.model_dump() | {"attributes": ["Tall"]} | changes
        with (alone / "params.yaml").open("w") as file:
            YAML(typ="safe").dump(raw, file)
        folder = write(alone / "toys", dict(data().card) | card)
        written = alone / "figures", alone / "real"
        model = trained["vae"]
        sample.main(model / "model", model / "log", folder, alone / "samples.npy", *written)
        return written

    return run


def test_no_more_samples_than_test_images(alone: Path, stage: Callable[..., tuple[Path, Path]]) -> None:
    stage({}, images=100)
    assert len(np.load(alone / "samples.npy")) == TESTS


@pytest.mark.parametrize("people", [True, False])
def test_people_are_not_sent_to_the_tracking_server(
    people: bool, alone: Path, stage: Callable[..., tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Path] = []
    monkeypatch.setattr("genlib.tracking.Tracker.log_figures", lambda tracker, folder, step: sent.append(folder))
    figures, real = stage({"people": people})
    assert sent == ([figures] if people else [figures, real])


@pytest.mark.parametrize(
    ("name", "said"),
    [("Smilling", "the dataset has Bright, Tall, Never"), ("Never", "0 of 60 training images of toys have it")],
)
def test_attributes_that_cannot_be_drawn_are_refused_first(
    name: str, said: str, alone: Path, stage: Callable[..., tuple[Path, Path]]
) -> None:
    with pytest.raises(GenlibError, match=said) as caught:
        stage({}, attributes=["Tall", name])
    assert f"params.yaml: sample.attributes: '{name}'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path.name for path in alone.iterdir()} == {"params.yaml", "toys"}


def test_an_attribute_that_all_have_is_refused() -> None:
    made = data()
    made.train.labels[:, 2] = 1
    with pytest.raises(GenlibError, match="60 of 60"):
        gallery.attribute_columns(made, ["Never"])


def test_scale_is_what_a_page_has_room_for() -> None:
    """Sixteen small images a row, eight large ones, at twice their size as long as a page is wide enough."""
    small, large = np.zeros((16, 1, 28, 28), np.uint8), np.zeros((8, 3, 64, 64), np.uint8)
    for images, columns, width in ((small, 16, 16 * 57 + 1), (large, 8, 8 * 129 + 1), (large, 16, 8 * 65 + 1)):
        scale = fitting_scale(images.shape[-1], columns)
        assert grid(images, min(columns, len(images)), scale).width == width


def test_the_log_of_another_training_is_refused_before_anything_is_drawn(trained: Trained, tmp_path: Path) -> None:
    model = models.load(trained["ae"] / "model")
    samples = model.sample(16).numpy()

    def refusal(log: Path, model: models.Model = model) -> str:
        with pytest.raises(GenlibError) as caught:
            gallery.draw(model, samples, log, data(), {}, SETTINGS, tmp_path, tmp_path)
        return str(caught.value)

    others = trained["vae"] / "log", trained["dae"] / "log"  # of another model, and of the same with other settings
    for log, key, theirs, own in zip(others, ("model", "noise"), ("'vae'", "0.5"), ("'ae'", "0.0"), strict=True):
        assert refusal(log) == (
            f"{log}: is not the log of ae, whose model is drawn: {key} is {theirs} in its settings.json, {own} in the "
            "model; give --log of the same training"
        )
    assert "seed is 0 in its settings.json, 1 in the model" in refusal(trained["ae"] / "log", replace(model, seed=1))
    assert "settings.json: no such file" in refusal(tmp_path)
    (tmp_path / "settings.json").write_text("[]")
    assert "settings.json: holds list, not a mapping" in refusal(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]
