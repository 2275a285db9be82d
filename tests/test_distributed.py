"""Several processes that train together: they compute what one computes, write once, and end together."""

import csv
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import projects
import pytest
import torch
import torch.distributed as dist
from nursery import Command, Nursery
from ruamel.yaml import YAML
from safetensors.torch import load_file
from teamwork import trained
from torch import Tensor, nn
from torch.distributed import run as torchrun
from torch.nn import functional as F

from genlib import checkpoint, launch, objectives
from genlib.errors import GenlibError
from genlib.nets import layers
from genlib.training.distributed import ALONE, Team
from stages import download, features, preprocess, train

ROOT = Path(__file__).resolve().parent.parent
PATH = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
CPU = torch.device("cpu")
ROUNDING = 1e-9  # what sums in another order may change of weights in float64, after all steps
RUN = "digits-gan"

_SETTINGS: dict[str, Any] = {
    **{"lane": "demo", "dataset": "digits", "features": "digits", "net": "dcgan", "latent_dim": 5, "width": 2},
    **{"epochs": 2, "batch_size": 6, "flip": True, "lr": 1e-3, "ema_halflife_images": None, "precision": "float32"},
}
_GAN: dict[str, Any] = {
    "discriminator_width": 3,
    "dropout": 0.3,
    "leaky_slope": 0.2,
    "real_label": 0.9,
    "beta1": 0.5,
    "lr_halflife_images": None,
}


def task(model: str, spoilt: str = "", unaware: bool = False, **changes: Any) -> dict[str, Any]:
    return {"settings": _SETTINGS | {"model": model} | changes, "spoilt": spoilt, "unaware": unaware}


TASKS = {
    "ae": task("ae", output="sigmoid", noise=0.3),
    "vae": task("vae", output="sigmoid", beta=1.0),
    "bernoulli_vae": task("bernoulli_vae", net="mlp", lr_halflife_images=20.0),
    "gan": task("gan", ema_halflife_images=15.0, **_GAN | {"lr_halflife_images": 20.0}),
    "unaware": task("gan", unaware=True, **_GAN),
}
SPOILT = {what: task("gan", what, **_GAN) for what in ("noise", "dropout", "batch norm", "gradients")}


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PATH)
        started = Nursery(tmp_path_factory.mktemp("said"))
    yield started
    started.close()


@pytest.fixture
def images() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (20, 1, 32, 32), np.uint8)


def environment(**more: str) -> dict[str, str]:
    kept = {key: text for key, text in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_", "GENLIB_"))}
    return kept | {"GENLIB_TRACKING": "off", "GENLIB_DEVICE": "cpu", "PYTHONPATH": PATH} | more


def team_of_two(
    nursery: Nursery, module: str, *words: object, cwd: Path, status: int = 0, **more: str
) -> list[Command]:
    """The command in two processes with what PyTorch's launcher tells them, without the seconds that it takes."""
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    told = {"TORCHELASTIC_RUN_ID": "t", "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    told |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks = [{"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]
    team = [nursery.start(module, *words, cwd=cwd, env=environment(**told, **rank, **more)) for rank in ranks]
    assert [command.wait(120) for command in team] == [status, status], [command.err for command in team]
    return team


# What is computed.


def in_two(nursery: Nursery, folder: Path, tasks: dict[str, Any], images: Any, on: str) -> dict[str, dict[str, Tensor]]:
    np.save(folder / "images.npy", images)
    (folder / "tasks.json").write_text(json.dumps(tasks))
    team_of_two(nursery, "teamwork", "train", folder, cwd=folder, GENLIB_DEVICE=on)
    return {name: load_file(folder / f"{name}.safetensors") for name in tasks}


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


def test_two_processes_compute_what_one_does(nursery: Nursery, images: Any, tmp_path: Path) -> None:
    """Every model, with batch norm, noise, dropout, mirroring, averaging and a falling learning rate; and that the
    comparison would tell if any of it were each process's own.
    """
    alone = {name: trained(each, images, ALONE, CPU) for name, each in TASKS.items()}
    found = in_two(nursery, tmp_path, TASKS | SPOILT, images, "cpu")
    for name, expected in alone.items():
        torch.testing.assert_close(found[name].pop("losses"), expected.pop("losses"), rtol=1e-6, atol=1e-6)
        assert difference(found[name], expected) < ROUNDING, name
    unspoilt = trained(task("gan", **_GAN), images, ALONE, CPU)
    for what in ("noise", "dropout", "batch norm"):
        assert difference(found[what], unspoilt) > 1e-3, what
    refusal = found["gradients"]["refused"].numpy().tobytes().decode()
    assert refusal.startswith("after epoch 1, the 2 processes have different weights: the model gets gradients otherw")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_compute_what_one_does(nursery: Nursery, images: Any, tmp_path: Path) -> None:
    found = in_two(nursery, tmp_path, TASKS, images, "cuda")
    for name, each in TASKS.items():
        assert difference(found[name], trained(each, images, ALONE, torch.device("cuda"))) < 1e-6, name


def test_parts_of_a_batch_are_the_batch() -> None:
    assert [Team(rank, 3).rows(12) for rank in range(3)] == [slice(0, 4), slice(4, 8), slice(8, 12)]
    assert ALONE.rows(7) == slice(0, 7)


def drawn(block: AbstractContextManager[Any], rows: int) -> list[Tensor]:
    """What may be drawn for a batch, in every way in which that may be asked for; and two draws for no batch."""
    noise, values = torch.Generator().manual_seed(1), torch.ones(rows, 6, 2, 2)
    torch.manual_seed(2)
    with block:
        return [
            torch.randn(rows, 3, generator=noise),
            torch.rand((rows, 2), generator=noise),
            torch.randn(size=[rows]),
            torch.randn_like(values),
            torch.rand_like(input=values),
            torch.bernoulli(values / 2),
            torch.normal(values, 1.0),
            torch.empty(rows, 2).normal_(generator=noise),
            torch.empty(rows, 2).uniform_(),
            torch.empty(rows, 2).bernoulli_(0.5),
            F.dropout(values, 0.5),
            nn.Dropout2d(0.5)(values),
            layers.Dropout(0.5)(values.to(memory_format=torch.channels_last)),
            torch.rand(3),
            torch.rand(()),
        ]


def test_each_process_has_its_rows_of_what_is_drawn_for_the_whole_batch() -> None:
    whole = drawn(nullcontext(), 8)
    parts = [drawn(Team(rank, 2).together({}, 8), 4) for rank in (0, 1)]
    for index, (expected, one, other) in enumerate(zip(whole, *parts, strict=True)):
        if index < len(whole) - 2:
            assert torch.equal(torch.cat([one, other]), expected), index
        else:
            assert torch.equal(one, expected)
            assert torch.equal(other, expected)


# The stage.


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params.yaml and processed digits, and the outputs of two processes that nothing disturbed."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "params.yaml", folder)
    projects.shrink(folder / "params.yaml")
    yaml = YAML()
    raw: Any = yaml.load(folder / "params.yaml")
    raw["runs"][RUN] |= {"epochs": 3, "dropout": 0.3, "batch_size": 20}
    raw["progress"]["judged"] = 30
    yaml.dump(raw, folder / "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("GENLIB_DEVICE", "cpu")
        download.main("digits", Path("raw"))
        preprocess.main("digits", Path("raw"), Path("data"))
        features.main("digits", Path("data"), Path("network.safetensors"), Path("metrics.json"))
    return folder


def words(out: str, run: str = RUN) -> list[str]:
    files = {"model": "model.safetensors", "log": "training", "provenance": "provenance.json", "work": "work"}
    options = {"data": "data", "network": "network.safetensors"} | {key: f"{out}/{name}" for key, name in files.items()}
    return [run, *(word for key, value in options.items() for word in (f"--{key}", value))]


def bytes_of(folder: Path) -> dict[str, bytes]:
    paths = [folder / "model.safetensors", *(folder / "training").iterdir()]
    return {path.name: path.read_bytes() for path in paths}


def wait_for(command: Command, text: str) -> None:
    deadline = time.monotonic() + 120
    while text not in command.out:
        assert time.monotonic() < deadline, command.err
        time.sleep(0.02)


def lines(command: Command) -> list[str]:
    """What it says of itself; of the samples of such small networks, it rightly says that they are all alike."""
    return [line for line in command.err.splitlines() if "this may be mode collapse" not in line]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ended(pids: list[int]) -> bool:
    """Whether none of the processes is there any longer, a few seconds from now at the latest."""
    deadline = time.monotonic() + 20
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() > deadline:
            return False
        assert left
        time.sleep(0.02)
    return True


def test_outputs_are_written_once_and_a_stopped_training_goes_on_to_the_same_bytes(
    nursery: Nursery, project: Path
) -> None:
    """GENLIB_PROCESSES=2: one process is killed, the rest ends; Ctrl-C ends all; what is left goes on."""
    first, other = team_of_two(nursery, "stages.train", *words("undisturbed"), cwd=project)
    assert (other.out, other.err) == ("", "")
    said = [re.sub(r"\d+ s\b", "", line) for line in first.out.splitlines()]
    assert len(said) == len(set(said)) == 6  # what it does, three epochs, the best, where it is
    assert said[0].endswith("3 epochs, 2 processes, each on cpu")

    def start() -> tuple[Command, list[int]]:
        command = nursery.start("stages.train", *words("stopped"), cwd=project, env=environment(GENLIB_PROCESSES="2"))
        wait_for(command, "2 processes, each on cpu")
        return command, children(command.pid)

    killed, pids = start()
    assert len(pids) == 2
    wait_for(killed, "epoch 1/3")
    os.kill(pids[1], signal.SIGKILL)
    assert killed.wait(120) == 1
    assert ended(pids)
    [line] = lines(killed)
    assert line.startswith("error: process 1 of the training was killed (SIGKILL), perhaps for want of memory; lower")

    interrupted, pids = start()
    wait_for(interrupted, "epoch 2/3")
    interrupted.send(signal.SIGINT)
    assert interrupted.wait(120) == 130
    assert ended(pids)
    assert lines(interrupted) == ["interrupted; nothing half-written is left, run it again to go on"]
    assert "epoch 1/3" not in interrupted.out

    done, _ = team_of_two(nursery, "stages.train", *words("stopped"), cwd=project)
    assert "epoch 2/3" not in done.out
    assert bytes_of(project / "stopped") == bytes_of(project / "undisturbed")
    assert json.loads((project / "stopped" / "provenance.json").read_text())["processes"] == 2
    assert not list((project / "stopped" / "work").rglob("epoch-*"))

    alone = nursery.start("stages.train", *words("alone"), cwd=project, env=environment())
    assert alone.wait(120) == 0, alone.err
    tables = [list(csv.DictReader((project / out / "training/history.csv").open())) for out in ("alone", "stopped")]
    for one, two in zip(*tables, strict=True):
        for column in objectives.get("gan").LOSSES:
            assert float(one[f"train_{column}"]) == pytest.approx(float(two[f"train_{column}"]), rel=0.01, abs=0.01)
    assert json.loads((project / "alone" / "provenance.json").read_text())["processes"] == 1


def test_an_error_in_one_process_is_said_once_and_ends_the_other(nursery: Nursery, tmp_path: Path) -> None:
    waiting, failed = team_of_two(nursery, "teamwork", "fail", cwd=tmp_path, status=1)
    assert (waiting.out, waiting.err) == ("", "")
    assert (failed.out, failed.err) == ("", "error: chairs: 3 are too few; fetch one\n")


def test_torchrun_takes_the_words_of_the_stage_as_documented() -> None:
    parsed = torchrun.parse_args(["--nproc-per-node", "2", "-m", "--", "stages.train", *words("out")])
    assert parsed.module
    assert [parsed.training_script, *parsed.training_script_args] == ["stages.train", *words("out")]


# What is refused.


def refusal(project: Path, monkeypatch: pytest.MonkeyPatch, processes: str, run: str = RUN) -> str:
    monkeypatch.chdir(project)
    monkeypatch.setenv(launch.PROCESSES, processes)
    monkeypatch.setattr(launch, "start", lambda *_: pytest.fail("was started"))
    with pytest.raises(GenlibError) as caught:
        train.main(run, *(Path() for _ in range(5)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "99999", "²"])
def test_a_number_of_processes_that_is_none_is_refused(
    value: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refusal(project, monkeypatch, value)
    assert said == f"GENLIB_PROCESSES: {value!r} is not a whole number from 1 to 9999; set one, or unset it"


def test_a_batch_that_cannot_be_shared_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_DEVICE", "cpu")
    said = refusal(project, monkeypatch, "3")
    assert said.startswith("batch_size: 20 images cannot be split evenly among 3 processes; set it to a multiple, such")
    assert "such as 21, or" in said
    with pytest.raises(GenlibError, match="such as 4, or"):
        Team(0, 4).check(1)


def test_more_processes_than_gpus_are_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("GENLIB_DEVICE", "cuda")
    assert refusal(project, monkeypatch, "4").startswith("4 processes need a CUDA device each, torch sees 2; lower GEN")
    monkeypatch.setenv("GENLIB_DEVICE", "cuda:1")
    assert refusal(project, monkeypatch, "2").startswith("GENLIB_DEVICE='cuda:1' names one device, and there are 2 pr")


def test_one_process_is_no_team(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [launch.process_count(environ) for environ in ({}, {launch.PROCESSES: " "}, {launch.PROCESSES: "1"})] == [
        1
    ] * 3
    assert launch.process_count({launch.PROCESSES: "2"}) == 2
    assert launch.process_count({launch.PROCESSES: "2", "TORCHELASTIC_RUN_ID": "t"}) == 1  # torchrun's number holds
    with launch.joined({}) as team:
        assert team == ALONE


def test_a_state_of_another_number_of_processes_is_another_training(small: Any, progress: Any) -> None:
    made = [checkpoint.identity(small("gan"), 0, 1, progress, {}, CPU, None, processes) for processes in (1, 2)]
    assert made[0] != made[1]
