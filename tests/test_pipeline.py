"""The pipeline as DVC runs it: a small copy of the project from code to page, and what reruns after a change."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
RUNS = ("digits-ae", "digits-gan")
ALL = (
    {"download@digits", "preprocess@digits", "features@digits", "present@demo"}
    | {f"{step}@{name}" for step in ("train", "sample", "evaluate") for name in RUNS}
)  # fmt: skip
OF_THE_GAN = {"train@digits-gan", "sample@digits-gan", "evaluate@digits-gan", "present@demo"}

Dvc = Callable[..., str]


def shrink(path: Path) -> None:
    """Digits only, an autoencoder and a GAN, next to nothing to do; comments stay."""
    yaml = YAML()
    raw: Any = yaml.load(path)
    for section in ("data", "features"):
        for name in [name for name in raw[section] if name != "digits"]:
            del raw[section][name]
    raw["data"]["digits"]["validation_images"] = 40
    raw["data"]["digits"]["source"] |= {"train_images": 300, "test_images": 110}
    raw["features"]["digits"] |= {"epochs": 1, "batch_size": 50, "width": 2}
    raw["progress"] |= {"frames": 3, "images": 9, "codes": 30}
    for model in ("ae", "vae", "gan"):
        raw[model] |= {"width": 2, "epochs": 1, "batch_size": 50, "latent_dim": 5}
    raw["gan"]["discriminator_width"] = 2
    raw["sample"] |= {"images": 110, "grid": 16}
    raw["evaluate"] |= {"sets": 2, "pairs": 10, "nearest_images": 100, "importance_of": {}}
    for name in [name for name in raw["runs"] if name not in RUNS]:
        del raw["runs"][name]
    for key in ("epochs", "batch_size", "width", "discriminator_width"):
        raw["runs"]["digits-gan"].pop(key, None)
    for lane in [lane for lane in raw["lanes"] if lane != "demo"]:
        del raw["lanes"][lane]
    yaml.dump(raw, path)


@pytest.fixture(scope="module")
def dvc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dvc]:
    """A repository with the project's code and small settings; calls dvc in it and returns what it said."""
    folder = tmp_path_factory.mktemp("repository")
    settings = tmp_path_factory.mktemp("settings")
    for name in ("genlib", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "comparisons").mkdir()  # of no lane
    shrink(folder / "params.yaml")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "GIT_", "MLFLOW_"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "GENLIB_TRACKING": "off",
        "GENLIB_DEVICE": "cpu",
        "DVC_NO_ANALYTICS": "true",
        "DVC_GLOBAL_CONFIG_DIR": str(settings),
        "DVC_SYSTEM_CONFIG_DIR": str(settings),
        "DVC_SITE_CACHE_DIR": str(settings),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
    } | {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def call(*words: str) -> str:
        done = subprocess.run(
            words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def run(*words: str) -> str:
        return call(sys.executable, "-m", "dvc", *words)

    call("git", "init", "--quiet")
    run("init", "--quiet")
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    call("git", "add", ".")
    call("git", "commit", "--quiet", "--message", "all")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield run


@pytest.fixture(scope="module")
def first(dvc: Dvc) -> str:
    """What the first run said."""
    return dvc("repro", "present@demo")


def ran(said: str) -> set[str]:
    return set(re.findall(r"^Running stage '([^']+)'", said, re.MULTILINE))


def change(section: str, key: str, value: str) -> None:
    """Set a number, as a person would: in the text."""
    path = Path("params.yaml")
    text, count = re.subn(rf"(?ms)(^{section}:.*?^  {key}: )\S+", rf"\g<1>{value}", path.read_text(), count=1)
    assert count == 1
    path.write_text(text)


def test_one_command_makes_the_page(first: str) -> None:
    assert ran(first) == ALL
    assert "Traceback" not in first
    for name in RUNS:
        metrics = json.loads(Path(f"metrics/demo/{name}.json").read_text())
        assert metrics["fid"] > 0
    page = Path("presentation/demo/index.html").read_text()
    assert all(name in page for name in RUNS)


def test_metrics_are_for_git_and_images_are_not(first: str) -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", "metrics/demo/digits-gan.json", "data/raw", "runs/demo", "presentation/demo", ".work"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert set(ignored.stdout.split()) == {"data/raw", "runs/demo", "presentation/demo", ".work"}


def test_a_second_time_there_is_nothing_to_do(dvc: Dvc, first: str) -> None:
    assert ran(dvc("repro", "present@demo")) == set()


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("gan", "lr", "3.0e-4", {"train@digits-gan"}),
        ("vae", "lr", "3.0e-4", set()),
        ("progress", "frames", "4", {f"train@{name}" for name in RUNS}),
        ("sample", "grid", "25", {f"sample@{name}" for name in RUNS}),
        ("evaluate", "covered_share", "0.04", {f"evaluate@{name}" for name in RUNS}),
    ],
)
def test_a_change_is_seen_by_the_stages_that_read_it(
    section: str, key: str, value: str, expected: set[str], dvc: Dvc, first: str
) -> None:
    """By a dry run, which stops at the first stages that would run: what follows them has not changed yet."""
    before = Path("params.yaml").read_text()
    try:
        change(section, key, value)
        assert ran(dvc("repro", "--dry", "present@demo")) == expected
    finally:
        Path("params.yaml").write_text(before)


def test_an_experiment_reruns_its_model_and_keeps_the_comments_of_params(dvc: Dvc, first: str) -> None:
    before = Path("params.yaml").read_text()
    others = {path: path.stat().st_mtime_ns for path in Path("runs/demo/digits-ae").rglob("*") if path.is_file()}
    page = Path("presentation/demo/index.html").read_bytes()
    said = dvc("exp", "run", "-S", "gan.lr=0.0005", "present@demo")
    assert ran(said) == OF_THE_GAN
    assert {path: path.stat().st_mtime_ns for path in others} == others
    assert Path("presentation/demo/index.html").read_bytes() != page
    after = Path("params.yaml").read_text()
    assert YAML(typ="safe").load(after)["gan"]["lr"] == 0.0005
    comments = [re.findall(r"#.*", text) for text in (before, after)]
    assert comments[0] == comments[1]
    assert len(comments[0]) > 10
