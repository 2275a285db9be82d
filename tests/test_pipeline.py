"""The pipeline as DVC runs it: a small copy of the project from code to page, and what reruns after a change."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from projects import RUNS, finished
from ruamel.yaml import YAML

ALL = (
    {"download@digits", "preprocess@digits", "features@digits", "present@demo"}
    | {f"{step}@{name}" for step in ("train", "sample", "evaluate") for name in RUNS}
)  # fmt: skip
OF_THE_GAN = {"train@digits-gan", "sample@digits-gan", "evaluate@digits-gan", "present@demo"}

Dvc = Callable[..., str]


@pytest.fixture(scope="module")
def dvc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dvc]:
    """Calls dvc in a copy of the finished project and returns what it said."""
    project = finished()[0].copy(tmp_path_factory.mktemp("repository"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        yield project.dvc


@pytest.fixture(scope="module")
def first() -> str:
    """What the first run said."""
    return finished()[1]


def ran(said: str) -> set[str]:
    return set(re.findall(r"^Running stage '([^']+)'", said, re.MULTILINE))


def change(section: str, key: str, value: str) -> None:
    """Set a number, as a person would: in the text."""
    path = Path("params.yaml")
    text, count = re.subn(rf"(?ms)(^{section}:.*?^  {key}: )\S+", rf"\g<1>{value}", path.read_text(), count=1)
    assert count == 1
    path.write_text(text)


def test_one_command_makes_the_page(dvc: Dvc, first: str) -> None:
    assert ran(first) == ALL
    assert "Traceback" not in first
    for name in RUNS:
        metrics = json.loads(Path(f"metrics/demo/{name}.json").read_text())
        assert metrics["fid"] > 0
    page = Path("presentation/demo/index.html").read_text()
    assert all(name in page for name in RUNS)


def test_metrics_are_for_git_and_images_are_not(dvc: Dvc) -> None:
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


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("stages/sample.py", {f"sample@{name}" for name in RUNS}),
        ("stages/evaluate.py", {f"evaluate@{name}" for name in RUNS}),
        ("stages/features.py", {"features@digits"}),
        ("stages/preprocess.py", {"preprocess@digits"}),
        ("genlib/settings.py", {"preprocess@digits"}),  # the defaults of a folder of images
        ("genlib/training/precision.py", {f"train@{name}" for name in RUNS}),
        ("genlib/cli/draw.py", set()),
    ],
)
def test_a_change_of_code_is_seen_by_the_stages_that_it_decides(
    code: str, expected: set[str], dvc: Dvc, first: str
) -> None:
    before = Path(code).read_text()
    try:
        Path(code).write_text(before + "\n")
        assert ran(dvc("repro", "--dry", "present@demo")) == expected
    finally:
        Path(code).write_text(before)


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
