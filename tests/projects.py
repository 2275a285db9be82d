"""A small copy of the project under git and DVC, for tests of the pipeline as a whole."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
RUNS = ("digits-ae", "digits-gan")
FOLDER = "GENLIB_TESTS_PROJECT"
"""Environment variable that tests/conftest.py sets: a folder for `finished`, removed when the session ends."""


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


@dataclass(frozen=True)
class Project:
    """A repository with the project's code and small settings; `settings` is where its DVC looks for a user's own."""

    folder: Path
    settings: Path

    def environment(self) -> dict[str, str]:
        """That of a user without settings of his own: nothing tracked, on the CPU."""
        kept = {key: text for key, text in os.environ.items() if not key.startswith(("DVC_", "GIT_", "MLFLOW_"))}
        kept |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "GENLIB_TRACKING": "off",
            "GENLIB_DEVICE": "cpu",
            "DVC_NO_ANALYTICS": "true",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
        } | {f"DVC_{kind}_DIR": str(self.settings) for kind in ("GLOBAL_CONFIG", "SYSTEM_CONFIG", "SITE_CACHE")}
        return kept | {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def call(self, *words: str, status: int = 0, **environment: str) -> str:
        """What a command says in the folder; it has to end with this exit status."""
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environment() | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    def dvc(self, *words: str, status: int = 0, **environment: str) -> str:
        """What `dvc` says."""
        return self.call(sys.executable, "-m", "dvc", *words, status=status, **environment)

    def copy(self, folder: Path) -> "Project":
        """The same again in `folder`, with its cache and its history."""
        shutil.copytree(self.folder, folder / "project", symlinks=True)
        (folder / "settings").mkdir(exist_ok=True)
        return Project(folder / "project", folder / "settings")


@cache
def finished() -> tuple[Project, str]:
    """A project in which `dvc repro present@demo` has run, committed, and what it said. To be copied, not changed.

    One for all processes that run tests of one session (pytest-xdist): the first that asks makes it.
    """
    folder = Path(os.environ[FOLDER])
    with FileLock(folder / "lock"):
        said = folder / "said"
        if not said.exists():
            said.write_text(_made(folder)[1])
    return Project(folder / "project", folder / "settings"), said.read_text()


def _made(folder: Path) -> tuple[Project, str]:
    project = Project(folder / "project", folder / "settings")
    project.settings.mkdir()
    for name in ("genlib", "stages"):
        shutil.copytree(ROOT / name, project.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, project.folder / name)
    (project.folder / "comparisons").mkdir()  # of no lane
    shutil.copy(ROOT / "comparisons" / "README.md", project.folder / "comparisons")
    shrink(project.folder / "params.yaml")
    project.call("git", "init", "--quiet")
    project.dvc("init", "--quiet")
    shutil.copy(ROOT / ".dvc" / "config", project.folder / ".dvc" / "config")
    said = project.dvc("repro", "present@demo")
    project.call("git", "add", ".")
    project.call("git", "commit", "--quiet", "--message", "all")
    return project, said
