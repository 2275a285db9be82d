"""Faces through all the stages, as the demo lane does it: drawn in CelebA's format, measured by their attributes."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from genlib.errors import GenlibError
from stages import download, evaluate, features, preprocess, present, sample, train

ROOT = Path(__file__).resolve().parent.parent
DATA, NETWORK = Path("data/processed/faces"), Path("data/features/faces/model.safetensors")
COUNTS = {"train": 130, "val": 20, "test": 104}
SIZE = 32


def write_params(change: Callable[[dict[str, Any]], None] = lambda raw: None) -> None:
    """params.yaml with drawn faces only, at half size, and next to nothing to do."""
    raw: dict[str, Any] = YAML(typ="safe").load(ROOT / "params.yaml")
    raw["data"] = {"faces": raw["data"]["faces"] | {"image_size": SIZE}}
    raw["data"]["faces"]["source"] |= {
        "train_images": COUNTS["train"],
        "validation_images": COUNTS["val"],
        "test_images": COUNTS["test"],
    }
    raw["features"] = {"faces": raw["features"]["faces"] | {"epochs": 1, "batch_size": 20, "width": 2}}
    raw["progress"] |= {"frames": 3, "images": 9}
    raw["sample"] |= {"images": 120, "grid": 16, "interpolations": 2, "gradient_draws": 3, "gradient_images": 8}
    raw["evaluate"] |= {"sets": 2, "pairs": 10, "nearest_images": 100}
    raw["evaluate"] |= {"importance": {"samples": 2, "images": 10}, "importance_of": {}}
    tiny = {"epochs": 1, "batch_size": 20, "width": 2, "latent_dim": 5}
    raw["runs"] = {name: raw["runs"][name] | tiny for name in ("faces-vae", "faces-gan")}
    raw["runs"]["faces-gan"]["discriminator_width"] = 2
    change(raw)
    with Path("params.yaml").open("w") as file:
        YAML(typ="safe").dump(raw, file)


def folder(name: str) -> Path:
    return Path("runs/demo") / name


def draw(name: str) -> None:
    sample.main(
        model=folder(name) / "model.safetensors",
        log=folder(name) / "training",
        data=DATA,
        samples=folder(name) / "samples.npy",
        figures=folder(name) / "figures",
        real=folder(name) / "real",
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder in which all stages of both runs have been run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("faces"))
        patch.setenv("GENLIB_TRACKING", "off")
        patch.setenv("GENLIB_DEVICE", "cpu")
        write_params()
        download.main("faces", out=Path("data/raw/faces"))
        preprocess.main("faces", raw=Path("data/raw/faces"), out=DATA)
        features.main("faces", data=DATA, model=NETWORK, metrics=NETWORK.with_name("metrics.json"))
        for name in ("faces-vae", "faces-gan"):
            model = folder(name) / "model.safetensors"
            written = {part: folder(name) / part for part in ("training", "provenance.json")}
            train.main(name, DATA, NETWORK, model, written["training"], written["provenance.json"])
            draw(name)
            evaluate.main(
                model,
                samples=folder(name) / "samples.npy",
                data=DATA,
                network=NETWORK,
                out=folder(name) / "evaluation.json",
                metrics=Path("metrics/demo") / f"{name}.json",
            )
        present.main("demo", runs=Path("runs/demo"), metrics=Path("metrics/demo"), out=Path("presentation/demo"))
        yield


def read(path: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(path.read_text())
    return parsed


def test_the_processed_form(project: None) -> None:
    card = read(DATA / "card.json")
    assert card["counts"] == COUNTS
    assert (card["people"], card["labels"], card["channels"], card["image_size"]) == (False, "attributes", 3, SIZE)
    assert {"Smiling", "Eyeglasses"} <= set(card["classes"])
    for split, count in COUNTS.items():
        labels = np.load(DATA / f"{split}_labels.npy")
        assert labels.shape == (count, len(card["classes"]))
        assert card["class_counts"][split] == labels.sum(0).tolist()
    assert np.load(DATA / "train.npy").std() > 20


def test_the_measuring_network_says_how_good_it_is(project: None) -> None:
    metrics = read(NETWORK.with_name("metrics.json"))
    names = read(DATA / "card.json")["classes"]
    assert list(metrics["attributes"]) == names
    labels = {split: np.load(DATA / f"{split}_labels.npy") for split in ("train", "val")}
    majority = labels["train"].mean(0) >= 0.5
    expected = (labels["val"] == majority).mean(0)
    found = [metrics["attributes"][name]["baseline"] for name in names]
    assert found == pytest.approx(expected, abs=1e-5)
    assert metrics["val_baseline"] == pytest.approx(expected.mean(), abs=1e-5)
    accuracies = [metrics["attributes"][name]["accuracy"] for name in names]
    assert metrics["val_accuracy"] == pytest.approx(np.mean(accuracies), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("faces-vae", {"recon_mse", "recon_ssim", "elbo", "nll", "active_units"}),
        ("faces-gan", {"fid_best", "collapse", "attribute_gap"}),
    ],
)
def test_numbers(name: str, own: set[str], project: None) -> None:
    metrics = read(Path("metrics/demo") / f"{name}.json")
    assert set(metrics) == {"fid", "fid_std", "kid", "precision", "recall", "coverage", "copied_share"} | own
    evaluation = read(folder(name) / "evaluation.json")
    assert evaluation["samples"]["fid"]["floor"] < metrics["fid"]
    assert list(evaluation["attribute_shares"]) == read(DATA / "card.json")["classes"]
    assert evaluation["card"]["samples"] == COUNTS["test"]  # though params.yaml asks for 120
    assert evaluation["card"]["leading"] == "kid"  # too few images for a covariance
    assert evaluation["card"]["images"]["image_size"] == SIZE
    assert np.load(folder(name) / "samples.npy").shape == (COUNTS["test"], 3, SIZE, SIZE)


def test_images_of_the_dataset_are_in_a_folder_of_their_own(project: None) -> None:
    vae = {part: {path.name for path in (folder("faces-vae") / part).iterdir()} for part in ("figures", "real")}
    gan = {part: {path.name for path in (folder("faces-gan") / part).iterdir()} for part in ("figures", "real")}
    assert {"data.png", "reconstructions.png", "interpolations.png", "attributes.png", "neighbours.png"} <= vae["real"]
    assert gan["real"] == {"data.png", "neighbours.png"}
    assert {"samples.png", "samples_last.png", "training_points.png", "interpolations.png"} <= gan["figures"]
    for parts, name in ((vae, "faces-vae"), (gan, "faces-gan")):
        assert parts["figures"].isdisjoint(parts["real"])
        for part, files in parts.items():
            for file in files:
                if file.endswith((".png", ".gif")):
                    with Image.open(folder(name) / part / file) as picture:
                        extrema = picture.convert("RGB").getextrema()
                    assert any(low != high for low, high in extrema), file  # type: ignore[misc]


def test_the_page_shows_both_runs_and_the_attributes(project: None) -> None:
    page = Path("presentation/demo/results.html").read_text()
    assert "faces-vae" in page
    assert "faces-gan" in page
    assert "Eyeglasses" in page
    assert "photograph" not in page  # drawn faces are no people


def test_an_attribute_that_the_dataset_lacks_is_said_before_any_work(
    project: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder("faces-vae") / "samples.npy").stat().st_mtime_ns
    write_params(lambda raw: raw["sample"].update(attributes=["Smilling"]))
    try:
        with pytest.raises(GenlibError, match=r"sample\.attributes.*Smilling") as caught:
            draw("faces-vae")
    finally:
        write_params()
    assert "\n" not in str(caught.value)
    assert (folder("faces-vae") / "samples.npy").stat().st_mtime_ns == before


def test_people_cannot_be_classes_of_a_measuring_network(project: None, tmp_path: Path) -> None:
    card = read(DATA / "card.json")
    (tmp_path / "card.json").write_text(json.dumps(card | {"labels": "people"}))
    with pytest.raises(GenlibError, match=r"features\.faces.*people"):
        features.main("faces", data=tmp_path, model=tmp_path / "m", metrics=tmp_path / "n")
