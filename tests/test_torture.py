"""A training that is killed in the middle of what it does, and what the files then hold. The long form: torture.py."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torture import ROOT, shrink

from genlib import files
from stages import download, features, preprocess, train

DATA, NETWORK = Path("data/processed/digits"), Path("data/features/digits/model.safetensors")
EVENTS = 14  # files opened, renamed or removed by what a state costs, at the least


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder with small settings, in which everything is there but the runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("project"))
        patch.setenv("GENLIB_TRACKING", "off")
        patch.setenv("GENLIB_DEVICE", "cpu")
        params = Path("params.yaml")
        params.write_bytes((ROOT / "params.yaml").read_bytes())
        shrink(params, epochs=3)
        params.write_text(params.read_text().replace("train_images: 1000", "train_images: 300"))
        download.main("digits", out=Path("data/raw/digits"))
        preprocess.main("digits", raw=Path("data/raw/digits"), out=DATA)
        features.main("digits", data=DATA, model=NETWORK, metrics=NETWORK.with_name("metrics.json"))
        yield


def arguments(run: str, folder: Path) -> list[str]:
    """Those of the train stage, for outputs in `folder`."""
    outputs = {"model": "model.safetensors", "log": "training", "provenance": "provenance.json"}
    named = [(option, folder / name) for option, name in outputs.items()]
    named += [("data", DATA), ("network", NETWORK), ("work", folder / "work")]
    return [run, *(word for option, path in named for word in (f"--{option}", str(path)))]


def trained(run: str, folder: Path) -> None:
    """The stage, in this process."""
    work = {"model": "model.safetensors", "log": "training", "provenance": "provenance.json", "work": "work"}
    train.main(run, data=DATA, network=NETWORK, **{option: folder / name for option, name in work.items()})


def results(folder: Path) -> dict[str, bytes]:
    paths = [folder / "model.safetensors", *(folder / "training").iterdir()]
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    ("run", "events", "delay"),
    [
        ("digits-ae", 2 * EVENTS, 0),
        ("digits-vae", 2 * EVENTS + 3, 0),
        ("digits-gan", EVENTS + 6, 0),
        ("digits-gan", EVENTS, 0.05),  # in the middle of a batch, most likely
    ],
)
def test_a_training_that_loses_its_power_ends_with_the_same_bytes(
    run: str, events: int, delay: float, project: None, tmp_path: Path
) -> None:
    log = tmp_path / "blow"
    plan = {"stage": "stages.train", "events": events, "delay": delay, "who": "stage", "power": True, "log": str(log)}
    paths = os.pathsep.join([str(ROOT / "tests" / "killer"), str(ROOT)])
    # The killer watches the folders of a project: runs/ is one of them.
    victim = Path("runs") / tmp_path.name
    died = subprocess.run(
        [sys.executable, "-m", "stages.train", *arguments(run, victim)],
        env=os.environ | {"KILLER": json.dumps(plan), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert died.returncode == -9, died.stderr
    assert log.read_text().startswith(f"{delay:.2f} s after" if delay else "at ")
    assert list(victim.glob("work/*/*/epoch-*")), "killed before there was a state to go on from"
    assert not (victim / "model.safetensors").exists()
    trained(run, victim)
    trained(run, tmp_path / "calm")
    assert results(victim) == results(tmp_path / "calm")
    assert not list(victim.rglob("*.partial"))


def test_a_file_is_safe_before_it_has_its_name_and_the_name_before_the_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content fsynced, then the rename, then the folder fsynced: a power cut leaves the old file or the new one."""
    told: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def spied_fsync(descriptor: int) -> None:
        told.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        fsync(descriptor)

    def spied_replace(path: Path, target: Path) -> Path:
        told.append(("rename", path.name))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", spied_fsync)
    monkeypatch.setattr(Path, "replace", spied_replace)
    files.write_bytes(tmp_path / "a", b"1")
    partial = f".a.{os.getpid()}.partial"
    assert told == [("fsync", partial), ("rename", partial), ("fsync", tmp_path.name)]


def test_what_a_killed_process_left_is_cleared_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as ended:
        pass
    abandoned, living, other = (
        tmp_path / name for name in (f".a.{ended.pid}.partial", f".a.{os.getppid()}.partial", f".b.{ended.pid}.partial")
    )
    for path in (abandoned, living, other):
        path.write_bytes(b"1")
    files.write_bytes(tmp_path / "a", b"2")
    assert not abandoned.exists()
    assert living.exists()
    assert other.exists()
