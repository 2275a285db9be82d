"""A DVC remote in a folder: what is pushed, what never is, and what a fresh clone can do with it."""

import re
from dataclasses import dataclass
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import pytest
from archives import write_lfw
from projects import ROOT, Project, finished
from ruamel.yaml import YAML

PRIVATE = re.compile(r"data/(raw|processed)/[^/]+|runs/[^/]+/[^/]+/real|presentation/[^/]+")
"""Outputs that may hold images of a dataset, or pictures in which real people are seen."""


@dataclass(frozen=True)
class Pushed:
    """A project whose outputs were pushed to a folder, and a clone of it that knows that remote."""

    project: Project
    remote: Path
    clone: Project

    def outputs(self, private: bool) -> list[str]:
        """Paths of the outputs that DVC keeps: those that are private, or all others."""
        stages = YAML(typ="safe").load(self.project.folder / "dvc.lock")["stages"].values()
        paths = [output["path"] for stage in stages for output in stage["outs"]]
        kept = [path for path in paths if not path.startswith("metrics/")]
        return [path for path in kept if (PRIVATE.fullmatch(path) is not None) == private]


def with_people(project: Project, mirror: Path) -> None:
    """Add a run on people, from a small archive in LFW's format, and train it."""
    archive = write_lfw(mirror)
    archive = archive.rename(mirror / "lfw")
    files = [path for path in archive.iterdir() if path.name != "origin.json"]
    sums = [f"{sha256(path.read_bytes()).hexdigest()}  lfw/{path.name}\n" for path in files]
    (mirror / "SHA256SUMS").write_text("".join(sums))
    path, yaml = project.folder / "params.yaml", YAML()
    raw: Any = yaml.load(path)
    raw["data"]["lfw"] = {"source": {"kind": "lfw"}, "image_size": 32, "crop": 50, "validation_images": 2}
    committed = YAML(typ="safe").load(ROOT / "params.yaml")
    raw["data"]["faces"] = committed["data"]["faces"] | {"image_size": 32}
    raw["data"]["faces"]["source"] |= {"train_images": 60, "validation_images": 20, "test_images": 120}
    raw["features"]["faces"] = committed["features"]["faces"] | {"epochs": 1, "batch_size": 20, "width": 2}
    run = {"lane": "presentation", "dataset": "lfw", "features": "faces", "model": "vae", "net": "dcgan"}
    raw["runs"]["lfw-vae"] = run | {"batch_size": 2, "latent_dim": 2}
    raw["lanes"]["presentation"] = {"title": "People"}
    yaml.dump(raw, path)
    project.dvc("repro", "sample@lfw-vae", GENLIB_MIRROR=str(mirror))
    project.call("git", "commit", "--quiet", "--all", "--message", "people")


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Pushed:
    """With a run on people, from a mirror that the clone does not have."""
    folder = tmp_path_factory.mktemp("remote")
    project, remote = finished()[0].copy(folder / "origin"), folder / "store"
    with_people(project, folder / "mirror")
    clone = Project(folder / "clone" / "project", folder / "clone" / "settings")
    clone.settings.mkdir(parents=True)
    project.call("git", "clone", "--quiet", str(project.folder), str(clone.folder))
    for place in (project, clone):
        place.dvc("remote", "add", "--local", "--default", "store", str(remote))
    project.dvc("push", "--run-cache")
    return Pushed(project, remote, clone)


@pytest.fixture(scope="module")
def pulled(pushed: Pushed) -> str:
    """What a plain `dvc pull` says in the clone, which has a cache of its own."""
    return pushed.clone.dvc("pull", status=1)


def contents(folder: Path, paths: list[str]) -> dict[str, bytes]:
    """The files among or below these paths."""
    files = [file for path in paths for file in [folder / path, *(folder / path).rglob("*")] if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def ran(said: str) -> set[str]:
    return set(re.findall(r"^Running stage '([^']+)'", said, re.MULTILINE))


def test_no_image_of_a_dataset_is_pushed(pushed: Pushed) -> None:
    """Neither by `dvc push` with the run cache nor when it is asked for by name."""
    private = pushed.outputs(private=True)
    assert {"data/raw/lfw", "data/processed/lfw", "runs/presentation/lfw-vae/real"} <= set(private)
    pushed.project.dvc("push", "data/processed/lfw", "sample@lfw-vae", "download@lfw")
    held = {md5(path.read_bytes()).hexdigest() for path in pushed.remote.rglob("*") if path.is_file()}
    named = {path.parent.name + path.name.removesuffix(".dir") for path in (pushed.remote / "files").rglob("*")}
    shown = contents(pushed.project.folder, private)
    assert len(shown) > 30
    published = contents(pushed.project.folder, pushed.outputs(private=False))
    public = {md5(content).hexdigest() for content in published.values()}  # pages show such pictures, too
    assert [path for path, content in shown.items() if md5(content).hexdigest() in (held | named) - public] == []
    assert [path for path, content in published.items() if md5(content).hexdigest() not in held] == []


def test_a_pull_brings_every_model_and_publishable_figure(pushed: Pushed, pulled: str) -> None:
    assert "Checkout failed for following targets" in pulled
    missing = {line for line in pulled.splitlines() if PRIVATE.fullmatch(line)}
    assert missing == {*pushed.outputs(private=True), "presentation/presentation"}  # this page was never made
    pushed.clone.dvc("pull", "--allow-missing")
    published = contents(pushed.project.folder, pushed.outputs(private=False))
    assert {"runs/presentation/lfw-vae/model.safetensors", "runs/demo/digits-gan/figures/samples.png"} <= set(published)
    assert contents(pushed.clone.folder, pushed.outputs(private=False)) == published
    assert contents(pushed.clone.folder, pushed.outputs(private=True)) == {}
    pushed.clone.dvc("pull", "train@lfw-vae")


def test_a_pulled_model_draws_without_the_data(pushed: Pushed, pulled: str) -> None:
    """By the lines of docs/remote.md."""
    [lines] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "remote.md").read_text(), re.DOTALL)
    folder = pushed.clone.folder
    assert contents(folder, pushed.outputs(private=True)) == {}
    pushed.clone.call("python", "-c", lines)
    assert (folder / "samples.png").stat().st_size > 1000
    (folder / "samples.png").unlink()


def test_what_was_never_pushed_is_made_again_without_training(pushed: Pushed, pulled: str) -> None:
    clone = pushed.clone
    said = clone.dvc("repro", "--pull", "sample@digits-gan")
    assert ran(said) == {"download@digits", "preprocess@digits", "sample@digits-gan"}
    assert clone.call("git", "status", "--porcelain") == ""
    assert (clone.folder / "runs" / "demo" / "digits-gan" / "real" / "data.png").exists()
    # What cannot be had again, for want of a mirror, is said; a dry run asks no official source.
    clone.dvc("repro", "--pull", "features@faces")
    said = clone.dvc("repro", "--pull", "--dry", "sample@lfw-vae", status=255)
    assert "Unable to pull data for stage: 'download@lfw'" in said


def test_only_a_gan_is_trained_again_for_another_learning_rate(pushed: Pushed, pulled: str) -> None:
    clone = pushed.clone
    clone.dvc("repro", "--pull", "preprocess@digits")
    said = clone.dvc("exp", "run", "--pull", "-S", "gan.lr=0.0005", "train@digits-gan", "train@digits-ae")
    assert ran(said) == {"train@digits-gan"}
    gan, autoencoder = (Path("runs", "demo", name, "model.safetensors") for name in ("digits-gan", "digits-ae"))
    assert (clone.folder / gan).read_bytes() != (pushed.project.folder / gan).read_bytes()
    assert (clone.folder / autoencoder).read_bytes() == (pushed.project.folder / autoencoder).read_bytes()
