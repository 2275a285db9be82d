"""What goes wrong around the pipeline, for real: full and read-only disks, signals, too little memory, a broken store.

Each fault is one clear line, leaves nothing half-written, loses nothing, and the same command then succeeds with the
bytes of an undisturbed run.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from nursery import Command, Nursery
from projects import Project, finished
from ruamel.yaml import YAML
from servers import closed_port
from test_stages import evaluate_arguments, options, sample_arguments, tiny, train_arguments

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, /proc and mount namespaces are Linux's")

RUN = "t-gan"
COMMANDS: dict[str, list[str]] = {
    "download": ["digits", "--out", "data/raw/digits"],
    "preprocess": ["digits", "--raw", "data/raw/digits", "--out", "data/processed/digits"],
    "features": [
        *("digits", "--data", "data/processed/digits", "--model", "data/features/digits/model.safetensors"),
        *("--metrics", "data/features/digits/metrics.json"),
    ],
    "train": [RUN, *options(train_arguments(RUN))],
    "sample": options(sample_arguments(RUN), "model"),
    "evaluate": options(evaluate_arguments(RUN), "model"),
    "present": ["demo", "--runs", "runs/demo", "--metrics", "metrics/demo", "--out", "presentation/demo"],
}
WRITTEN = {
    "download": ["data/raw"],
    "preprocess": ["data/processed"],
    "features": ["data/features"],
    "train": [f"runs/demo/{RUN}/{name}" for name in ("model.safetensors", "training", "provenance.json")],
    "sample": [f"runs/demo/{RUN}/{name}" for name in ("samples.npy", "figures", "real")],
    "evaluate": [f"runs/demo/{RUN}/evaluation.json", "metrics"],
    "present": ["presentation"],
}
ROOM_KB = 1 << 16
Files = dict[str, str]


def mounts() -> bool:
    """Whether this user may have mounts of his own."""
    words = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    known = shutil.which("unshare") is not None
    return known and subprocess.run(words, capture_output=True, check=False).returncode == 0


class Bench:
    """A folder in which stages of a tiny project run, each in a process of its own.

    Where the user may mount, it is a small disk. `folder` is where the commands see it, `here` is where we do.
    """

    def __init__(self, nursery: Nursery, folder: Path, disk: bool) -> None:
        self.nursery, self.folder, self.disk = nursery, folder, disk
        if disk:
            nursery.mount("-t", "tmpfs", "-o", f"size={ROOM_KB}k", "none", str(folder))
        self.here = nursery.seen(folder) if disk else folder
        self.raw = tiny()
        self.raw["runs"] = {RUN: self.raw["runs"][RUN] | {"epochs": 2}}
        many = self.raw["data"]["digits"] | {"source": {"kind": "digits", "train_images": 1340, "test_images": 10}}
        self.raw["data"]["many"] = many
        self.set()
        self.environment = os.environ | {"GENLIB_TRACKING": "off", "GENLIB_DEVICE": "cpu", "GENLIB_WORKERS": "2"}
        for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "GENLIB_MIRROR"):
            self.environment.pop(name, None)

    def set(self, **changes: Any) -> None:
        """Settings of the run."""
        self.raw["runs"][RUN] |= changes
        with (self.here / "params.yaml").open("w") as file:
            YAML(typ="safe").dump(self.raw, file)

    def start(self, stage: str, words: list[str] | None = None, **more: Any) -> Command:
        """Start a stage, as dvc.yaml does or with other words."""
        environment = self.environment | more.pop("environment", {})
        words = COMMANDS[stage] if words is None else words
        return self.nursery.start(f"stages.{stage}", *words, cwd=self.folder, env=environment, **more)

    def run(self, stage: str, words: list[str] | None = None, **more: Any) -> Command:
        """A stage that has ended well."""
        command = self.start(stage, words, **more)
        assert command.wait() == 0, command.err
        return command

    def fails(self, stage: str, words: list[str] | None = None, **more: Any) -> str:
        """The one line that a stage ends with, which must fail."""
        command = self.start(stage, words, **more)
        return refused(command)

    def files(self) -> Files:
        """Checksums of all files but those that may differ between equal runs, or are kept for a next one."""
        return {
            str(path.relative_to(self.here)): sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.here.rglob("*"))
            if path.is_file() and path.name not in ("params.yaml", "provenance.json") and ".work" not in path.parts
        }

    def forget(self, stage: str) -> None:
        """Remove what a stage has written."""
        for name in WRITTEN[stage]:
            path = self.here / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def leave(self, room_kb: int) -> None:
        """Leave so much room on the disk."""
        usage = os.statvfs(self.here)
        used = (usage.f_blocks - usage.f_bfree) * usage.f_frsize >> 10
        self.nursery.mount("-o", f"remount,size={used + room_kb}k", str(self.folder))

    def half_written(self) -> list[Path]:
        return list(self.here.rglob("*.partial"))


def refused(command: Command) -> str:
    """The one line, warnings aside, that a command which must fail ends with."""
    status = command.wait()
    lines = [line for line in command.err.splitlines() if not line.startswith("warning: ")]
    assert (status, len(lines)) == (1, 1), command.err
    assert lines[0].startswith("error: ")
    return lines[0]


def until(happened: Callable[[], object], seconds: float = 100) -> None:
    """Wait for it."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path_factory.mktemp("said"), private=mounts())
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def made(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Path]:
    """Where all stages have run undisturbed, and a copy of what is there then."""
    bench = Bench(nursery, tmp_path_factory.mktemp("bench"), disk=mounts())
    for stage in COMMANDS:
        bench.run(stage)
    copy = tmp_path_factory.mktemp("undisturbed") / "copy"
    shutil.copytree(bench.here, copy)
    return bench, copy


@pytest.fixture
def bench(made: tuple[Bench, Path]) -> Iterator[Bench]:
    """Where all stages have run undisturbed; put back after each test."""
    bench, copy = made
    settings = deepcopy(bench.raw)
    yield bench
    if bench.disk:
        bench.nursery.mount("-o", f"remount,rw,size={ROOM_KB}k", str(bench.folder))
    bench.raw = settings
    for path in bench.here.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(copy, bench.here, dirs_exist_ok=True)


@pytest.fixture
def whole(bench: Bench) -> Files:
    """What undisturbed stages have written."""
    return bench.files()


@pytest.fixture
def disk(bench: Bench) -> Bench:
    """The same on a disk that can be made full or read-only."""
    if not bench.disk:
        pytest.skip("this user may not mount a disk of his own (unshare --map-root-user --mount)")
    return bench


# A disk that does not take what is written.


@pytest.mark.parametrize(
    ("stage", "step_kb", "places"),
    [
        ("download", 80, 3),
        ("preprocess", 48, 2),
        ("features", 4, 3),
        ("train", 40, 4),
        ("sample", 80, 4),
        ("evaluate", 4, 3),
        ("present", 100, 2),
    ],
)
def test_a_full_disk_is_one_line_and_nothing_half_written(
    stage: str, step_kb: int, places: int, disk: Bench, whole: Files
) -> None:
    """With a little more room each time, so that it is full at one write after another."""
    disk.forget(stage)
    shutil.rmtree(disk.here / ".work", ignore_errors=True)
    named = set()
    for tries in range(24):
        disk.leave(step_kb * tries)
        command = disk.start(stage)
        if command.wait() == 0:
            break
        line = refused(command)
        assert "No space left" in line or "make room" in line
        place = line.split(":")[1].strip()
        assert "/" in place
        named.add(place)
        assert disk.half_written() == []
        assert disk.files().items() <= whole.items()
    assert len(named) >= places, named
    assert disk.files() == whole


def test_a_read_only_disk_is_one_line(disk: Bench, whole: Files) -> None:
    disk.nursery.mount("-o", "remount,ro", str(disk.folder))
    for stage in COMMANDS:
        assert "Read-only file system" in disk.fails(stage)
    assert disk.files() == whole


def test_a_file_where_a_folder_must_be_is_named(bench: Bench, whole: Files) -> None:
    (bench.here / "occupied").write_text("a file")
    for stage, words in (
        ("download", ["digits", "--out", "occupied/digits"]),
        ("sample", [word.replace("runs/demo/t-gan/real", "occupied") for word in COMMANDS["sample"]]),
        ("present", [*COMMANDS["present"][:-1], "occupied/demo/page"]),
    ):
        assert re.search("occupied.* directory|occupied.*File exists", bench.fails(stage, words))
    assert bench.half_written() == []
    assert whole.items() <= bench.files().items()


@pytest.mark.parametrize("stage", ["preprocess", "train"])
def test_a_limit_on_the_size_of_files_is_one_line(stage: str, bench: Bench, whole: Files) -> None:
    bench.forget(stage)
    assert "File too large" in bench.fails(stage, limits={"RLIMIT_FSIZE": 20_000})
    assert bench.half_written() == []
    bench.run(stage)
    assert bench.files() == whole


@pytest.mark.parametrize("words", [None, ["--help"]], ids=["result", "help"])
def test_a_terminal_that_is_a_full_disk(words: list[str] | None, bench: Bench) -> None:
    command = bench.start("present", words, out="/dev/full")
    assert "standard output: No space left" in refused(command)


# Archives that somebody else is writing.


def test_an_archive_that_is_still_being_written_is_not_taken(bench: Bench, tmp_path: Path) -> None:
    """A second process writes a file of the mirror, slowly."""
    mirror, raw = tmp_path / "mirror", bench.here / "data" / "raw" / "digits"
    (mirror / "mnist").mkdir(parents=True)
    lines = []
    for path in sorted(raw.glob("*.gz")):
        shutil.copy(path, mirror / "mnist")
        lines.append(f"{sha256(path.read_bytes()).hexdigest()}  mnist/{path.name}\n")
    (mirror / "SHA256SUMS").write_text("".join(lines))
    late = mirror / "mnist" / "train-images-idx3-ubyte.gz"
    content = late.read_bytes()
    code = "import sys; file, come = open(sys.argv[1], 'wb'), sys.stdin.buffer; file.write(come.read(int(sys.argv[2])))"
    code += "; file.flush(); print(flush=True); file.write(come.read())"
    half = len(content) // 2
    bench.raw["data"]["mnist"] = bench.raw["data"]["digits"] | {"source": {"kind": "mnist"}}
    bench.set()
    words, environment = ["mnist", "--out", "data/raw/mnist"], {"GENLIB_MIRROR": str(mirror)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(late), str(half)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write(content[:half])
        writer.stdin.flush()
        writer.stdout.readline()
        command = bench.start("download", words, environment=environment)
        assert command.wait() == 1
        assert "mnist/train-images-idx3-ubyte.gz: corrupt in the mirror" in command.err.splitlines()[-1]
        assert not (bench.here / "data" / "raw" / "mnist").exists()
        writer.stdin.write(content[half:])
        writer.stdin.close()
        writer.wait()
    bench.run("download", words, environment=environment)
    assert (bench.here / "data" / "raw" / "mnist" / late.name).read_bytes() == content


# Signals.


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_training_that_is_stopped_goes_on_from_its_last_epoch(
    number: signal.Signals, status: int, bench: Bench
) -> None:
    bench.set(epochs=300)
    bench.forget("train")
    command = bench.start("train")
    until(lambda: ": epoch 2/" in command.out)
    command.send(number)
    assert command.wait() == status
    assert [line for line in command.err.splitlines() if not line.startswith("warning")] == [
        "interrupted; nothing half-written is left, run it again to go on"
    ]
    kept = max(int(epoch) for epoch in re.findall(r"epoch (\d+)/", command.out))
    again = bench.start("train")
    until(lambda: ": epoch" in again.out)
    again.send(signal.SIGKILL)
    assert again.wait() == -signal.SIGKILL
    assert f": epoch {kept + 1}/" in again.out or f": epoch {kept + 2}/" in again.out
    assert bench.half_written() == []


@pytest.mark.parametrize(
    ("stage", "file"),
    [
        ("download", "t10k-labels-idx1-ubyte.gz"),
        ("preprocess", "val_labels.npy"),
        ("features", "metrics.json"),
        ("sample", "progress.gif"),
        ("evaluate", "evaluation.json"),
        ("present", "index.html"),
    ],
)
def test_ctrl_c_is_one_line_and_nothing_half_written(stage: str, file: str, bench: Bench, whole: Files) -> None:
    """In the middle of what the stage writes."""
    bench.forget(stage)
    command = bench.start(stage, strike=(file, signal.SIGINT))
    assert command.wait() == 130
    lines = [line for line in command.err.splitlines() if not line.startswith("warning")]
    assert lines == ["interrupted; nothing half-written is left, run it again to go on"]
    assert bench.half_written() == []
    assert bench.files().items() <= whole.items()
    bench.run(stage)
    assert bench.files() == whole


# Memory.


@pytest.mark.parametrize("room_mb", [150, 200])
def test_the_batch_that_is_said_to_fit_does(room_mb: int, bench: Bench) -> None:
    """Twice as large a one does not. With less room it is another library that asks for too much first."""
    bench.run("download", ["many", "--out", "data/raw/many"])
    bench.run("preprocess", ["many", "--raw", "data/raw/many", "--out", "data/processed/many"])
    before = dict(bench.raw["runs"][RUN])
    words = ["t-ae", *(word.replace("processed/digits", "processed/many") for word in options(train_arguments("t-ae")))]
    bench.raw["runs"]["t-ae"] = before | {"model": "ae", "dataset": "many", "width": 16, "epochs": 1}
    bench.raw["runs"]["t-ae"] |= {"batch_size": 1280}
    bench.set()
    limits = {"RLIMIT_AS": room_mb << 20}
    line = bench.fails("train", words, limits=limits)
    found = re.search(r"out of memory on cpu with batch_size 1280; (\d+) fits: set batch_size: \1 ", line)
    assert found is not None, line
    bench.raw["runs"]["t-ae"] |= {"batch_size": int(found[1])}
    bench.set()
    bench.run("train", words, limits=limits)


# A store of MLflow that is not well. The delay is bounded: 10 s for a server that hangs, 20 s for a locked database.


def test_whatever_befalls_the_store_the_training_goes_on(
    disk: Bench, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Trainings at once, each with a store that fails in its own way while it trains."""
    disk.set(epochs=4)
    trainings = Trainings(disk, tmp_path)
    calm, expected = trainings.start("calm"), "tracking: MLflow at "
    assert calm.wait() == 0
    assert expected not in calm.err
    store = tmp_path / "calm" / "mlflow.db"

    full = disk.here / "store"
    full.mkdir()
    shutil.copy(store, full)
    locked = tmp_path / "locked.db"
    shutil.copy(store, locked)
    server, address = served(disk.nursery, tmp_path, store)
    pause = ("epoch-00001.safetensors", signal.SIGSTOP)
    failing = {
        "full": (trainings.start("full", pause, DVC_ROOT=str(disk.folder / "store")), "full"),
        "locked": (trainings.start("locked", pause, MLFLOW_TRACKING_URI=f"sqlite:///{locked}"), "database is locked"),
        "gone": (trainings.start("gone", pause, MLFLOW_TRACKING_URI=address), "Connection refused"),
    }
    for command, _ in failing.values():
        until(partial(paused, command))
    server.send(signal.SIGKILL)
    server.wait()
    disk.leave(0)
    with locking(locked), socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        failing["silent"] = (trainings.start("silent", MLFLOW_TRACKING_URI=address), "timed out")
        for name, (command, reason) in failing.items():
            if name != "silent":
                command.send(signal.SIGCONT)
            assert command.wait() == 0, command.err
            lines = [line for line in command.err.splitlines() if not line.startswith("warning")]
            assert len(lines) == 1, (name, command.err)
            [line] = lines
            assert line.startswith(expected)
            assert reason in line
            assert trainings.written(name) == trainings.written("calm")
        assert time.monotonic() - began < 60


class Trainings:
    """The same training, each time in a folder of its own and with tracking on."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench, self.folder = bench, folder

    def start(self, name: str, strike: tuple[str, signal.Signals] | None = None, **environment: str) -> Command:
        folder = self.folder / name
        shutil.copytree(self.bench.here / "data", folder / "data")
        shutil.copy(self.bench.here / "params.yaml", folder)
        on = {"GENLIB_TRACKING": "on", "DVC_ROOT": str(folder)}
        environment = self.bench.environment | on | environment
        return self.bench.nursery.start("stages.train", *COMMANDS["train"], cwd=folder, env=environment, strike=strike)

    def written(self, name: str) -> dict[str, bytes]:
        """What it wrote, but for what may differ between equal runs."""
        folder = self.folder / name / "runs"
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != "provenance.json"]
        assert len(files) > 3
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def served(nursery: Nursery, folder: Path, store: Path) -> tuple[Command, str]:
    """MLflow's server of a database, up and running, and its address."""
    address, artifacts = closed_port(), str(folder / "artifacts")
    environment = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{store}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": artifacts,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    }
    words = ["mlflow.server.fastapi_app:app", "--port", address.rpartition(":")[2]]
    server = nursery.start("uvicorn", *words, cwd=folder, env=environment)
    until(lambda: "startup complete" in server.err)
    return server, address


def paused(command: Command) -> bool:
    return Path(f"/proc/{command.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@contextmanager
def locking(database: Path) -> Iterator[None]:
    """Another process holds a database's lock."""
    code = "import sqlite3, sys; held = sqlite3.connect(sys.argv[1], isolation_level=None)"
    code += "; held.execute('BEGIN EXCLUSIVE'); print(flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", code, str(database)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield
        holder.kill()


# DVC, stopped and started.


class Repository:
    """A finished project under DVC, whose autoencoder is to be trained anew, for longer."""

    def __init__(self, nursery: Nursery, project: Project) -> None:
        self.nursery, self.project, self.folder = nursery, project, project.folder
        path = self.folder / "params.yaml"
        raw = YAML().load(path)
        raw["runs"]["digits-ae"] |= {"epochs": 11}
        YAML().dump(raw, path)

    def repro(self, target: str = "train@digits-ae") -> Command:
        return self.nursery.start("dvc", "repro", target, cwd=self.folder, env=self.project.environment())

    def training(self) -> int:
        """The process that trains here."""
        [found] = [
            int(process.name)
            for process in Path("/proc").glob("[0-9]*")
            if _words(process)[1:3] == ["-m", "stages.train"] and (process / "cwd").resolve() == self.folder
        ]
        return found

    def model(self) -> bytes:
        return (self.folder / "runs" / "demo" / "digits-ae" / "model.safetensors").read_bytes()


def _words(process: Path) -> list[str]:
    try:
        return (process / "cmdline").read_text().split("\0")
    except OSError:  # it has ended meanwhile
        return []


@pytest.fixture(scope="module")
def undisturbed(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, bytes]:
    """A project to copy, and the model that its autoencoder becomes when nothing happens."""
    project, _ = finished()
    calm = Repository(nursery, project.copy(tmp_path_factory.mktemp("calm")))
    words = [
        *("digits-ae", "--data", "data/processed/digits", "--network", "data/features/digits/model.safetensors"),
        *("--model", "model.safetensors", "--log", "training", "--provenance", "provenance.json"),
    ]
    command = nursery.start("stages.train", *words, cwd=calm.folder, env=calm.project.environment())
    assert command.wait() == 0, command.err
    return project, (calm.folder / "model.safetensors").read_bytes()


@pytest.fixture
def repository(nursery: Nursery, undisturbed: tuple[Project, bytes], tmp_path: Path) -> Repository:
    return Repository(nursery, undisturbed[0].copy(tmp_path))


def epochs(command: Command) -> list[int]:
    return [int(number) for number in re.findall(r": epoch (\d+)/", command.out)]


def test_a_second_repro_is_refused_and_the_first_goes_on_after_ctrl_c(
    repository: Repository, undisturbed: tuple[Project, bytes]
) -> None:
    first = repository.repro()
    until(lambda: len(epochs(first)) >= 2)
    first.send(signal.SIGSTOP)
    second = repository.repro()
    assert second.wait() == 255
    assert f"is busy, it is being blocked by:\n  (PID {first.pid}): " in second.err
    first.send(signal.SIGCONT)
    first.send(signal.SIGINT)
    assert first.wait() == 255
    assert "Traceback" not in first.err
    interrupted, failed = first.err.strip().splitlines()
    assert interrupted == "interrupted; nothing half-written is left, run it again to go on"
    assert failed.endswith(("exited with 130", "exited with -2"))  # -2: of a shell in between that stays, such as dash

    again = repository.repro()
    assert again.wait() == 0, again.err
    assert min(epochs(again)) in (max(epochs(first)) + 1, max(epochs(first)) + 2)  # the last line may be lost
    assert repository.model() == undisturbed[1]


def test_an_orphan_keeps_its_run_until_it_ends(repository: Repository, undisturbed: tuple[Project, bytes]) -> None:
    """Only dvc is killed: the training it had started goes on. And an archive was cut meanwhile."""
    first = repository.repro()
    until(lambda: len(epochs(first)) >= 2)
    orphan = repository.training()
    os.kill(orphan, signal.SIGSTOP)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    second = repository.repro()
    assert second.wait() == 255
    [line] = [line for line in second.err.splitlines() if line.startswith("error: ")]
    assert f"another process (pid {orphan}) is training this run" in line
    assert "Traceback" not in second.err

    os.kill(orphan, signal.SIGKILL)
    archive = repository.folder / "data" / "raw" / "digits" / "train-images-idx3-ubyte.gz"
    content = archive.read_bytes()
    archive.write_bytes(content[:1000])
    again = repository.repro()
    assert again.wait() == 0, again.err
    assert min(epochs(again)) > 2
    assert archive.read_bytes() == content
    assert repository.model() == undisturbed[1]
