"""docs/extending.md, done as it is written there: its blocks applied to a copy of the project, its commands run."""

import json
import re
import shutil
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import torch
from archives import drawn, encoded
from projects import ROOT, Project, shrink
from ruamel.yaml import YAML

from genlib import features, params

DOCUMENT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
FOLDER, LABELS, MODEL = (text for kind, text in BLOCKS if kind == "yaml")
(OBJECTIVE,) = (text for kind, text in BLOCKS if kind == "python")
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
SHORTER = {"epochs": 1, "width": 2, "discriminator_width": 2, "batch_size": 32}

# `dvc repro` starts Python anew for each stage, which takes longer than all of this: the same commands in one process,
# in DVC's order, in a process of its own whose `genlib` is that of the copy.
IN_ONE_PROCESS = """
import importlib, shlex, sys
from dvc.repo import Repo
from networkx import dfs_postorder_nodes

repo = Repo()
(last,) = repo.stage.collect(sys.argv[1])
for stage in dfs_postorder_nodes(repo.index.graph, last):
    _, _, module, *words = shlex.split(stage.cmd)
    print("Running", stage.addressing, flush=True)
    sys.argv = [module, *words]
    called = importlib.import_module(module)
    try:
        called.run(called.main)
    except SystemExit as ended:
        assert not ended.code, ended.code
"""


def written_in(place: MutableMapping[str, Any], entries: Mapping[str, Any]) -> None:
    """As a person writes entries of a document into params.yaml: each under the section of its name."""
    for key, value in entries.items():
        if isinstance(place.get(key), MutableMapping) and isinstance(value, Mapping):
            written_in(place[key], value)
        else:
            place[key] = value


def apply(project: Project, *blocks: str) -> None:
    """Write YAML blocks into params.yaml; then train for a moment only."""
    path, yaml = project.folder / "params.yaml", YAML()
    raw: Any = yaml.load(path)
    for block in blocks:
        written_in(raw, yaml.load(block))
    for settings in [run for name, run in raw["runs"].items() if name.startswith("mine")] + [raw.get("lsgan", {})]:
        settings.update({key: value for key, value in SHORTER.items() if key in settings})
    for settings in raw["features"].values():
        settings.update({"epochs": 1, "width": 2, "batch_size": 32})
    raw["evaluate"] |= {"sets": 1, "importance": {"samples": 2, "images": 10}}
    raw["sample"] |= {"gradient_draws": 3, "gradient_images": 4, "interpolations": 1, "neighbours": 1}
    yaml.dump(raw, path)


def photographs(folder: Path, count: int) -> None:
    for seed in range(count):
        place = folder / ("dogs" if seed % 2 else "cats")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{seed}.jpg").write_bytes(encoded(drawn(seed, 70 + seed % 9, 90 - seed % 13)))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A copy of the project with the drawn faces, small, and no runs; beside it, a folder of images."""
    made = Project(tmp_path / "project", tmp_path / "settings")
    made.settings.mkdir()
    for name in ("genlib", "stages"):
        shutil.copytree(ROOT / name, made.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, made.folder)
    (made.folder / "comparisons").mkdir()
    yaml, path = YAML(), made.folder / "params.yaml"
    kept: Any = yaml.load(path)
    faces = kept["data"]["faces"], kept["features"]["faces"]
    shrink(path)
    raw: Any = yaml.load(path)
    faces[0]["source"] |= {"train_images": 64, "validation_images": 20, "test_images": 20}
    raw["data"]["faces"], raw["features"]["faces"] = faces
    raw["runs"].clear()
    yaml.dump(raw, path)
    photographs(tmp_path / "my-photos", 620)
    made.call("git", "init", "--quiet")
    made.dvc("init", "--quiet")
    return made


def in_test(project: Project) -> list[int]:
    """The numbers of the photographs in the test split, by the list and what the document says of shares."""
    lines = (project.folder / "data/raw/mine/images.txt").read_text().splitlines()
    return [int(re.findall(r"(\d+)\.jpg", line)[0]) for line in lines if int(line[:8], 16) < 0.2 * 16**8]


def run(project: Project, target: str) -> list[str]:
    """The stages that lead to a target, run; their names in order."""
    said = project.call("python", "-c", IN_ONE_PROCESS, target, GENLIB_WORKERS="1", PYTHONPATH=".")
    return re.findall(r"^Running (\S+)$", said, flags=re.MULTILINE)


def test_commands_are_those_that_are_run_here() -> None:
    assert set(COMMANDS) == {"dvc repro present@mine", "dvc repro --force download@mine"}


def test_a_folder_without_labels_and_a_model_of_ones_own(project: Project) -> None:
    path, text = OBJECTIVE.split("\n", 1)
    (project.folder / path.removeprefix("# ")).write_text(text)
    apply(project, FOLDER, MODEL)
    ran = run(project, "present@mine")
    of_runs = {f"{step}@mine-{name}" for step in ("train", "sample", "evaluate") for name in ("vae", "gan", "lsgan")}
    of_data = {f"{step}@{name}" for step in ("download", "preprocess") for name in ("mine", "faces")}
    assert set(ran) == of_runs | of_data | {"features@faces", "present@mine"}
    pages = "".join(path.read_text() for path in (project.folder / "presentation" / "mine").glob("*.html"))
    assert all(said in pages for said in ("My photographs", "mine-vae", "mine-gan", "mine-lsgan"))
    for name in ("vae", "gan", "lsgan"):
        evaluation = json.loads((project.folder / f"runs/mine/mine-{name}/evaluation.json").read_text())
        assert evaluation["card"]["features"]["name"] == "classifier of faces's 20 attributes"
        assert evaluation["metrics"]["fid"] > 0
        assert "classes_covered" not in evaluation["samples"]
        assert (project.folder / f"runs/mine/mine-{name}/real/data.png").is_file()
        assert not (project.folder / f"runs/mine/mine-{name}/figures/data.png").exists()


def test_folders_as_labels(project: Project) -> None:
    apply(project, FOLDER, LABELS)
    assert params.load(project.folder / "params.yaml").run("mine-gan").features == "mine"
    assert run(project, "features@mine") == [f"{step}@mine" for step in ("download", "preprocess", "features")]
    card = json.loads((project.folder / "data/processed/mine/card.json").read_text())
    assert card["class_counts"]["test"] == [sum(n % 2 == odd for n in in_test(project)) for odd in (0, 1)]
    network = features.load(project.folder / "data/features/mine/model.safetensors", torch.device("cpu"))
    assert (network.labels, network.classes) == ("classes", ("cats", "dogs"))


def test_a_changed_folder_is_taken_in_by_the_command_that_the_document_gives(project: Project) -> None:
    """With DVC itself, as far as the data."""
    apply(project, FOLDER)
    project.dvc("repro", "preprocess@mine")
    photographs(project.folder.parent / "my-photos", 624)
    assert "mine: 624 images of" in project.dvc("repro", "--force", "download@mine")
    assert re.findall(r"^Running stage '(\S+)'", project.dvc("repro", "preprocess@mine"), re.MULTILINE) == [
        "preprocess@mine"
    ]
    card = json.loads((project.folder / "data/processed/mine/card.json").read_text())
    assert sum(card["counts"].values()) == 624
