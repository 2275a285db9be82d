"""`python -m genlib doctor`: what is fine, what is noted, what keeps the pipeline from running, and what comes next."""

import http.server
import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import requests
from projects import Project, finished

from genlib import checkup, params
from genlib.checkup import Finding, Level, RunState, State
from genlib.cli.doctor import next_steps
from genlib.data.official import RemoteFile

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = params.load(ROOT / "params.yaml")
FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
PYPROJECT = """
[project]
requires-python = "{python}"
dependencies = ["numpy{numpy}", "torch"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("GENLIB_MIRROR", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("GENLIB_DEVICE", "cpu")
    monkeypatch.setattr(requests, "get", no_network)
    return tmp_path


def no_network(*_: object, **__: object) -> None:
    raise AssertionError("the network was asked")


def project(folder: Path, python: str = ">=3.11", numpy: str = ">=2") -> Path:
    (folder / "pyproject.toml").write_text(PYPROJECT.format(python=python, numpy=numpy))
    return folder


# The environment


def test_this_python_is_held_against_the_project(folder: Path) -> None:
    assert checkup.interpreter(project(folder)).level is Level.OK
    found = checkup.interpreter(project(folder, python=">=3.99"))
    assert (found.level, found.remedy) == (Level.PROBLEM, "install one of these: make PYTHON=python3.12")
    assert "the project needs >=3.99" in found.text


@pytest.mark.parametrize(
    ("numpy", "lock", "level", "text"),
    [
        (">=2", "", Level.OK, "2 of 2 that pyproject.toml names; 0 of 0 as in requirements.lock"),
        (">=99", "", Level.PROBLEM, r"1 of 2 that pyproject.toml names: numpy {numpy}, not >=99"),
        (
            ">=2",
            "numpy=={numpy} \\\n    --hash=sha256:aa\nzope==1 ; sys_platform == 'nowhere'\n",
            Level.OK,
            "1 of 1 as",
        ),
        (
            ">=2",
            "numpy==1.0 \\\n    --hash=sha256:aa\n",
            Level.NOTE,
            "1 of 1 not as in requirements.lock: numpy {numpy}",
        ),
        (">=2", "no-such-thing==1.0\n", Level.NOTE, "no-such-thing is missing"),
    ],
)
def test_packages_are_held_against_ranges_and_lock(
    numpy: str, lock: str, level: Level, text: str, folder: Path
) -> None:
    import numpy as installed

    (folder / "requirements.lock").write_text(lock.replace("{numpy}", installed.__version__))
    (found,) = checkup.packages(project(folder, numpy=numpy))
    assert found.level is level
    assert text.replace("{numpy}", installed.__version__) in found.text
    assert bool(found.remedy) == (level is not Level.OK)


def test_the_committed_lock_is_understood() -> None:
    locked = {requirement.name for requirement in checkup._locked(ROOT / "requirements.lock")}
    assert {"torch", "dvc", "mlflow", "numpy"} <= locked


def test_a_device_that_is_none_is_a_problem(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "on cpu; " in checkup.computing(1).text
    monkeypatch.setenv("GENLIB_DEVICE", "tpu")
    found = checkup.computing(1)
    assert found.level is Level.PROBLEM
    assert "GENLIB_DEVICE='tpu' is no device; set auto, cpu or cuda" in found.text


@pytest.mark.parametrize(("free", "level"), [(10**11, Level.OK), (10**9, Level.NOTE), (10**6, Level.PROBLEM)])
def test_a_full_disk(free: int, level: Level, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    assert checkup.disk(folder).level is level


def test_without_a_repository_there_are_problems(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(folder.parent))
    found = list(checkup.repository(folder))
    assert [(finding.subject, finding.level) for finding in found] == [("git", Level.PROBLEM), ("dvc", Level.PROBLEM)]
    monkeypatch.setenv("PATH", str(folder))
    assert {finding.text for finding in checkup.repository(folder)} == {"not found", "not on the PATH"}


# The data


def filled(folder: Path, files: tuple[str, ...] = FILES) -> Path:
    """A mirror of a made-up MNIST of two files."""
    (folder / "mirror" / "mnist").mkdir(parents=True)
    lines = []
    for name in files:
        (folder / "mirror" / "mnist" / name).write_bytes(name.encode())
        lines.append(f"{sha256(name.encode()).hexdigest()}  mnist/{name}\n")
    (folder / "mirror" / "SHA256SUMS").write_text("".join(lines))
    return folder / "mirror"


@pytest.fixture
def two_files(monkeypatch: pytest.MonkeyPatch) -> None:
    official = tuple(RemoteFile(name, 99, md5="0" * 32) for name in FILES)
    monkeypatch.setattr(checkup, "CATALOGUE", {"mnist": official})


def of_mnist(root: Path, network: bool = False) -> tuple[Finding, Finding]:
    """What is said of the mirror, and of MNIST."""
    opened, found = checkup.mirror(network)
    return found, checkup.dataset(root, "mnist", SETTINGS.data["mnist"], opened, network)


@pytest.mark.usefixtures("two_files")
def test_without_a_mirror_nothing_is_asked(folder: Path) -> None:
    mirror, mnist = of_mnist(folder)
    assert (mirror.level, mirror.text) == (Level.OK, "GENLIB_MIRROR is not set")
    assert (mnist.level, mnist.text) == (Level.NOTE, "not here, and there is no mirror; official sources not asked")


@pytest.mark.usefixtures("two_files")
def test_a_mirror_that_has_all_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_MIRROR", str(filled(folder)))
    mirror, mnist = of_mnist(folder)
    assert (mirror.level, mirror.text) == (Level.OK, f"{folder / 'mirror'}, 2 files listed")
    assert (mnist.level, mnist.text) == (Level.OK, "not here; all 2 files are in the mirror")
    (folder / "mirror" / "mnist" / FILES[1]).unlink()
    assert f"the mirror lacks {FILES[1]}; official" in of_mnist(folder)[1].text


@pytest.mark.usefixtures("two_files")
def test_a_mirror_that_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_MIRROR", str(folder / "nowhere"))
    mirror, mnist = of_mnist(folder)
    assert (mirror.level, mnist.level) == (Level.PROBLEM, Level.NOTE)
    assert "nowhere' is no folder" in mirror.text
    monkeypatch.setenv("GENLIB_MIRROR", str(folder))
    assert [finding.level for finding in of_mnist(folder)] == [Level.NOTE, Level.NOTE]
    (folder / "SHA256SUMS").write_text("nonsense\n")
    assert of_mnist(folder)[0].level is Level.PROBLEM
    monkeypatch.setenv("GENLIB_MIRROR", "http://127.0.0.1:9/mirror")
    assert of_mnist(folder)[0].text == "http://127.0.0.1:9/mirror: not asked"
    monkeypatch.setenv("GENLIB_MIRROR", "http://me:secret@127.0.0.1:9/mirror")
    assert of_mnist(folder)[0].text == "http://127.0.0.1:9/mirror: not asked"
    assert "secret" not in repr(of_mnist(folder, network=True))


def test_what_is_here_and_what_is_made_here(folder: Path) -> None:
    assert "made on this machine" in checkup.dataset(folder, "digits", SETTINGS.data["digits"], None, False).text
    for place, said in (
        ("raw/mnist/origin.json", "here, its archives"),
        ("processed/mnist/card.json", "here, prepared"),
    ):
        (folder / "data" / place).parent.mkdir(parents=True)
        (folder / "data" / place).touch()
        assert of_mnist(folder)[1].text == said


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    """The address of a server of the made-up mirror, its second file missing."""
    filled(folder)
    (folder / "mirror" / "mnist" / FILES[1]).unlink()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *words: Any) -> None:
            super().__init__(*words, directory=str(folder / "mirror"))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_with_the_network_sources_are_asked(server: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "get", requests.api.get)

    def catalogue(base: str) -> None:
        official = tuple(RemoteFile(name, 99, (f"{base}/mnist/{name}",), md5="0" * 32) for name in FILES)
        monkeypatch.setattr(checkup, "CATALOGUE", {"mnist": official})

    catalogue(server)
    mirror, mnist = of_mnist(folder, network=True)
    assert mirror.text == "GENLIB_MIRROR is not set"
    assert f"the official sources do not answer: {FILES[1]}: 127.0.0.1 (HTTP 404)" in mnist.text
    monkeypatch.setenv("GENLIB_MIRROR", server)
    mirror, mnist = of_mnist(folder, network=True)
    assert mirror.text == f"{server}, 2 files listed"
    assert mnist.text == "not here; all 2 files are in the mirror"  # by its list: what it lists it is to have
    monkeypatch.delenv("GENLIB_MIRROR")
    (folder / "mirror" / "mnist" / FILES[1]).touch()
    assert "the official sources answer" in of_mnist(folder, network=True)[1].text
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        catalogue(f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert "(no connection, ConnectionError)" in of_mnist(folder, network=True)[1].text


# The runs


@pytest.mark.parametrize(
    ("changes", "state", "why"),
    [
        ({}, State.CURRENT, ()),
        ({"train@mnist-gan": [{"changed outs": {"x": "deleted"}}]}, State.CURRENT, ()),
        (
            {
                "train@digits-gan": [
                    {"changed deps": {"params.yaml": {"gan.lr": "modified"}, "genlib/rng.py": "modified"}}
                ]
            },
            State.STALE,
            ("gan.lr", "genlib/rng.py"),
        ),
        (
            {"preprocess@digits": [{"changed deps": {"params.yaml": {"data.digits": "new"}}}]},
            State.STALE,
            ("data.digits",),
        ),
        ({"train@digits-gan": ["changed command"]}, State.STALE, ("changed command",)),
        # pulled from a remote: models without the data they were made of
        (
            {
                "download@digits": [{"changed outs": {"data/raw/digits": "not in cache"}}],
                "train@digits-gan": [{"changed deps": {"data/processed/digits": "deleted"}}],
            },
            State.CURRENT,
            (),
        ),
        ({"sample@digits-gan": [{"changed outs": {"samples.npy": "deleted"}}]}, State.UNMEASURED, ("samples.npy",)),
        ({"evaluate@digits-gan": [{"changed deps": {"genlib/a.py": "modified"}}]}, State.UNMEASURED, ("genlib/a.py",)),
    ],
)
def test_what_dvc_says_of_a_run(changes: Mapping[str, Any], state: State, why: tuple[str, ...], folder: Path) -> None:
    assert checkup._run_state(folder, "digits-gan", SETTINGS, changes).state is State.MISSING
    model = folder / "runs" / "demo" / "digits-gan" / "model.safetensors"
    model.parent.mkdir(parents=True)
    model.touch()
    assert checkup._run_state(folder, "digits-gan", SETTINGS, changes) == RunState("demo", "digits-gan", state, why)


def test_what_dvc_does_not_say_is_not_known(folder: Path) -> None:
    assert checkup._run_state(folder, "digits-gan", SETTINGS, None).state is State.MISSING
    model = folder / "runs" / "demo" / "digits-gan" / "model.safetensors"
    model.parent.mkdir(parents=True)
    model.touch()
    assert checkup._run_state(folder, "digits-gan", SETTINGS, None) == RunState("demo", "digits-gan", State.UNKNOWN)


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("", "it says nothing; mend that and run again"),
        ("ERROR: no space\n", "no space; mend that and run again"),
        (
            "WARNING: Process 'dvc' with (Pid 7) had been killed.\nERROR: 'a' is busy, it is being blocked by:\n"
            "  (PID 8): dvc repro\n  (PID 9): dvc push\n\nIf there are no processes with such PIDs, remove it.\n",
            "'a' is busy, it is being blocked by: (PID 8): dvc repro (PID 9): dvc push; "
            "another dvc is at work: wait for it or stop it",
        ),
        (
            "ERROR: Unable to acquire lock. Most likely another DVC process is running.\n",
            "Unable to acquire lock; another dvc is at work: wait for it or stop it",
        ),
    ],
)
def test_what_dvc_complains_of_is_one_line(stderr: str, said: str) -> None:
    assert "; ".join(checkup.complaint(stderr)) == said


def of(*states: State) -> list[RunState]:
    return [RunState("demo", f"run-{number}", state) for number, state in enumerate(states)]


def test_what_to_do_next(folder: Path) -> None:
    broken = [Finding(Level.NOTE, "a", "b", "c"), Finding(Level.PROBLEM, "git", "not found", "install it")]
    assert next_steps(broken, of(State.MISSING), folder) == ["git: install it"]
    assert [step[:10] for step in next_steps([], of(State.MISSING, State.MISSING), folder)] == ["make demo:"]
    steps = next_steps([], of(State.CURRENT, State.STALE, State.UNMEASURED), folder)
    assert steps[0] == "dvc repro evaluate@run-1 evaluate@run-2"
    (folder / "presentation" / "demo").mkdir(parents=True)
    (folder / "presentation" / "demo" / "index.html").touch()
    steps = next_steps([], of(State.CURRENT, State.MISSING), folder)
    assert steps[:2] == ["open presentation/demo/index.html in a browser", "python -m genlib sample run-0 run-0.png"]
    assert steps[2].startswith("make repro: trains what is missing")


# As a command


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which everything has run, since then changed: a setting of the GAN, and its samples gone."""
    project = finished()[0].copy(tmp_path_factory.mktemp("doctor"))
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, project.folder)
    return project


def doctor(project: Project, status: int = 0, **environment: str) -> str:
    return project.call("python", "-m", "genlib", "doctor", status=status, GENLIB_MIRROR="", **environment)


def test_a_whole_project_is_well_and_its_changes_are_named(repository: Project) -> None:
    settings = repository.folder / "params.yaml"
    changed = settings.read_text().replace("beta1: 0.0", "beta1: 0.1")
    settings.write_text(changed)
    (repository.folder / "runs" / "demo" / "digits-ae" / "samples.npy").unlink()
    lines = doctor(repository).splitlines()
    assert all(len(line) <= 100 for line in lines)
    said = re.sub(r"\n {20,}", " ", "\n".join(lines))
    assert "problem" not in said
    for expected in (
        "ok       data digits        here, prepared",
        "runs demo          trained, to be sampled or measured again: digits-ae (runs/demo/digits-ae/samples.npy)",
        "runs demo          trained with other settings, code or data: digits-gan (gan)",
        "next: dvc repro evaluate@digits-ae evaluate@digits-gan",
        "open presentation/demo/index.html in a browser",
    ):
        assert expected in said


def test_what_keeps_the_pipeline_from_running_is_exit_code_1(
    repository: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    shutil.copytree(repository.folder / "genlib", tmp_path / "genlib")
    shutil.copytree(repository.folder / "stages", tmp_path / "stages")
    (tmp_path / "params.yaml").write_text("seed: -1\n")
    said = doctor(Project(tmp_path, repository.settings), status=1)
    assert "problem  settings" in said
    assert "problem  git" in said
    assert "problem  dvc" in said
    assert said.splitlines()[-1].startswith("      settings: params.yaml")


@pytest.mark.parametrize(
    ("file", "old", "new", "remedy"),
    [
        ("dvc.yaml", "\nstages:", "\nstages: [", "git checkout dvc.yaml"),
        ("dvc.yaml", "    cmd:", "    cmdd:", "git checkout dvc.yaml"),
        ("dvc.yaml", "${key}", "${kei}", "mend params.yaml, or git checkout dvc.yaml"),
        ("dvc.lock", "\nstages:", "\nstages: [", "git checkout dvc.lock"),
        ("dvc.lock", "outs:", "outz:", "git checkout dvc.lock"),
    ],
)
def test_a_pipeline_that_dvc_cannot_read_is_a_problem(
    file: str, old: str, new: str, remedy: str, repository: Project
) -> None:
    path = repository.folder / file
    text = path.read_text()
    path.write_text(text.replace(old, new, 1))
    said = re.sub(r"\n {20,}", " ", doctor(repository, status=1))
    path.write_text(text)
    assert re.search(rf"^problem  dvc +.*'(\./)?{file}'.*; {remedy}$", said, re.MULTILINE)
    assert f"next: dvc: {remedy}" in said
    assert "trained, not known whether it is up to date: digits-ae, digits-gan" in said
    assert "up to date: " not in said.replace("whether it is up to date: ", "")
    assert "make repro" not in said


def test_while_another_dvc_is_at_work_nothing_is_called_up_to_date(repository: Project) -> None:
    held = {"pid": os.getpid(), "cmd": "dvc repro"}
    lock = repository.folder / ".dvc" / "tmp" / "rwlock"
    lock.write_text(json.dumps({"write": {str(repository.folder / "data/raw/digits"): held}, "read": {}}))
    said = re.sub(r"\n {20,}", " ", doctor(repository))
    lock.unlink()
    assert "note     runs demo          trained, not known whether it is up to date: digits-ae, digits-gan" in said
    assert f"blocked by: (PID {os.getpid()}): dvc repro; another dvc is at work: wait for it or stop it" in said
    assert "  up to date: " not in said


def test_environment_is_left_alone(folder: Path) -> None:
    before = dict(os.environ)
    checkup.mirror(False)
    assert sorted(folder.iterdir()) == []
    assert dict(os.environ) == before
