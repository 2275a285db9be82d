"""What MLflow's own client reads back from a real store, and what happens when the store is not well."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from genlib import models, training
from genlib.errors import GenlibError
from genlib.settings import RunSettings
from genlib.tracking import MODEL_TAG, Tracker, new_run, resume_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SHA = "0123456789abcdef" * 4
PROJECT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path) -> Iterator[None]:
    """An empty current folder; nothing of the outer environment steers tracking; nothing leaks from a test."""
    before, folder = dict(os.environ), Path.cwd()
    for name in list(os.environ):
        if name.startswith(("DVC_", "MLFLOW_", "GENLIB_", "GIT_")):
            del os.environ[name]
    os.chdir(tmp_path)
    yield
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, made once: it takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    environment = {**os.environ, "DVC_ROOT": str(folder), "PYTHONPATH": str(PROJECT)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    script = "from genlib.tracking import new_run\nwith new_run('made', 'made', dataset='made', model='vae'): pass"
    subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, check=True)
    return folder / "mlflow.db"


@pytest.fixture
def root(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with a store; stages find it through DVC_ROOT while they run in another folder."""
    folder = tmp_path / "näme with spaces"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    monkeypatch.setenv("DVC_ROOT", str(folder))
    return folder


def client(root: Path, name: str = "mlflow.db") -> "MlflowClient":
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{root / name}")


def only_run(root: Path, lane: str = "demo") -> "Run":
    experiment = client(root).get_experiment_by_name(lane)
    assert experiment is not None
    (run,) = client(root).search_runs([experiment.experiment_id])
    return run


def train(run: str = "digits-vae", tags: dict[str, str] | None = None, continues: str | None = None) -> str:
    with new_run("demo", run, dataset="digits", model="vae", continues=continues) as tracker:
        tracker.log_metrics({"total": 1.0}, step=100)
        tracker.set_tags(tags or {})
    assert tracker.run_id is not None
    return tracker.run_id


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that was written to the terminal."""
    streams = capsys.readouterr()
    (line,) = (streams.out + streams.err).splitlines()
    assert "GENLIB_TRACKING=off" in line
    return line


# What is recorded


def test_a_training_can_be_read_back(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "train@digits-vae")
    monkeypatch.setenv("DVC_EXP_NAME", "puffy-seal")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "b" * 40)
    (tmp_path / "model.safetensors").write_bytes(b"weights")

    with new_run("demo", "digits-vae", dataset="digits", model="vae") as tracker:
        tracker.log_params({"net": "deck28", "lr": 1e-3, "dataset": "digits"})
        tracker.log_dataset("digits", SHA, "training")
        for step, loss in [(0, 3.5), (128, 2.25)]:
            tracker.log_metrics({"total": loss, "latent": 0.5}, step)
        assert only_run(root).info.status == "RUNNING"
        tracker.set_tags({MODEL_TAG: SHA})
        tracker.log_artifacts(tmp_path / "model.safetensors", "model")

    run = only_run(root)
    assert (run.info.run_id, run.info.run_name, run.info.status) == (tracker.run_id, "digits-vae", "FINISHED")
    assert run.data.params == {"dataset": "digits", "model": "vae", "net": "deck28", "lr": "0.001"}
    expected = {"lane": "demo", "run": "digits-vae", "dataset": "digits", "model": "vae", MODEL_TAG: SHA}
    expected |= {"dvc.stage": "train@digits-vae", "dvc.experiment": "puffy-seal", "dvc.baseline": "b" * 40}
    assert expected.items() <= run.data.tags.items()
    curve = client(root).get_metric_history(run.info.run_id, "total")
    assert sorted((point.step, point.value) for point in curve) == [(0, 3.5), (128, 2.25)]
    assert run.inputs is not None
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, SHA.startswith(used.dataset.digest), SHA in used.dataset.source) == (
        "digits",
        True,
        True,
    )
    assert {tag.key: tag.value for tag in used.tags} == {"mlflow.data.context": "training"}
    kept = root / "mlartifacts" / "demo" / run.info.run_id / "artifacts" / "model" / "model.safetensors"
    assert kept.read_bytes() == b"weights"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", root.name]


def test_pictures_can_be_read_back(root: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures"
    figures.mkdir()
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(grey).save(figures / "samples.png")
    (figures / "numbers.json").write_text("{}")

    with new_run("demo", "digits-gan", dataset="digits", model="gan") as tracker:
        tracker.log_image("progress", grey, step=0)
        tracker.log_image("progress", Image.fromarray(grey), step=640)
        tracker.log_figures(figures, step=1280)

    store, run_id = client(root), only_run(root).info.run_id
    names = [Path(item.path).name for item in store.list_artifacts(run_id, "images")]
    pictures = {"+".join(name.split("+")[:3]): name for name in names if name.endswith(".png")}
    assert set(pictures) == {"progress+step+0", "progress+step+640", "samples+step+1280"}
    for name in [*(f"images/{name}" for name in pictures.values()), "figures/samples.png"]:
        with Image.open(store.download_artifacts(run_id, name)) as picture:
            assert np.array_equal(np.asarray(picture), grey)
    assert len(store.list_artifacts(run_id, "figures")) == 2


def test_the_commit_is_that_of_the_code_that_runs(root: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], check=True)
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *author, "commit", "--quiet", "--allow-empty", "-m", "a"], check=True)
    head = Path(".git", Path(".git/HEAD").read_text().split()[1]).read_text().strip()
    train()
    assert only_run(root).data.tags["mlflow.source.git.commit"] == head


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_stopped_training_is_marked_and_its_error_goes_on(
    root: Path, error: type[BaseException], status: str
) -> None:
    with pytest.raises(error), new_run("demo", "digits-vae", dataset="digits", model="vae"):
        raise error
    assert only_run(root).info.status == status


def test_a_resumed_training_continues_its_run(root: Path) -> None:
    def stop() -> None:
        with new_run("demo", "digits-vae", dataset="digits", model="vae") as tracker:
            tracker.log_metrics({"total": 2.0}, step=50)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    stopped = only_run(root).info.run_id
    assert train(continues=stopped) == stopped
    run = only_run(root)
    assert run.info.status == "FINISHED"
    assert [point.step for point in client(root).get_metric_history(run.info.run_id, "total")] == [50, 100]
    assert train(continues="0" * 32) not in (stopped, "0" * 32)


# The trained model

PREDICT = """
import sys, warnings, mlflow
import numpy as np, pandas as pd
warnings.simplefilter("ignore")
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/digits-gan/latest")
code = sys.modules["genlib"].__file__
assert "genlib" in code and not code.startswith(sys.argv[2]), code
drawn = model.predict(pd.DataFrame({"count": [2, 1], "seed": [5, 0]}))
assert np.array_equal(drawn[2:], model.predict({"count": 1, "seed": 0}))
assert np.array_equal(drawn[2:], model.predict({"count": 1}))
np.save("drawn.npy", drawn)
for wrong in ({"count": 0}, {"count": 1, "seed": -1}, {"count": 10_001}, {"seed": 1}):
    try:
        model.predict(wrong)
    except Exception as error:
        print(type(error).__name__)
"""


def saved_model(folder: Path, small: Callable[..., RunSettings]) -> Path:
    """A GAN that was never trained, as the train stage writes one."""
    import torch

    state = training.start(small("gan"), 3, (1, 28, 28), torch.device("cpu"))
    models.save(folder / "model.safetensors", "digits-gan", 3, state.settings, (1, 28, 28), state.networks, None)
    return folder / "model.safetensors"


def test_a_registered_model_draws_images_without_a_checkout(
    root: Path, tmp_path: Path, small: Callable[..., RunSettings], capfd: pytest.CaptureFixture[str]
) -> None:
    file = saved_model(tmp_path, small)
    for _ in range(2):
        with new_run("demo", "digits-gan", dataset="digits", model="gan") as tracker:
            tracker.log_params({"lr": 0.1})
            tracker.log_model(file, (1, 28, 28), step=300)
    assert capfd.readouterr() == ("", "")

    versions = client(root).search_model_versions("name = 'digits-gan'")
    newest = max(versions, key=lambda version: int(version.version))
    assert [len(versions), newest.run_id] == [2, tracker.run_id]
    run = client(root).get_run(str(tracker.run_id))
    assert run.outputs is not None
    (output,) = run.outputs.model_outputs
    logged = client(root).get_logged_model(output.model_id)
    assert (newest.source, output.step) == (logged.artifact_location, 300)
    assert (logged.name, logged.source_run_id, logged.model_type) == ("digits-gan", tracker.run_id, "gan")
    assert logged.params == {"dataset": "digits", "model": "gan", "lr": "0.1"}
    assert logged.status == "READY"
    kept = Path(logged.artifact_location.removeprefix("file://"))
    assert (kept / "data" / "model.safetensors").read_bytes() == file.read_bytes()
    assert {path.suffix for path in (kept / "code").rglob("*") if path.is_file()} == {".py"}

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, f"sqlite:///{root / 'mlflow.db'}", str(PROJECT)],
        cwd=elsewhere, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [*["GenlibError"] * 3, "MlflowException"]
    drawn = np.load(elsewhere / "drawn.npy")
    model = models.load(file)
    assert np.array_equal(drawn, np.concatenate([model.sample(2, seed=5).numpy(), model.sample(1, seed=0).numpy()]))


def test_the_signature_says_what_goes_in_and_what_comes_out(
    root: Path, tmp_path: Path, small: Callable[..., RunSettings]
) -> None:
    from mlflow.models import get_model_info

    with new_run("demo", "digits-gan", dataset="digits", model="gan") as tracker:
        tracker.log_model(saved_model(tmp_path, small), (1, 28, 28), step=300)
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{root / 'mlflow.db'}")
    info = get_model_info("models:/digits-gan/1")
    mlflow.set_tracking_uri(before)
    assert info.signature is not None
    assert [(column.name, column.required) for column in info.signature.inputs] == [("count", True), ("seed", False)]
    assert info.signature.outputs.inputs[0].shape == (-1, 1, 28, 28)


def test_a_model_that_cannot_be_registered_costs_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with new_run("demo", "digits-gan", dataset="digits", model="gan") as tracker:
        tracker.log_model(tmp_path / "missing.safetensors", (1, 28, 28), step=300)
        tracker.log_metrics({"total": 1.0}, step=1)
    assert "missing.safetensors" in one_line(capsys)


# Finding a run again


def test_sample_and_evaluate_find_the_training(root: Path) -> None:
    train(tags={MODEL_TAG: SHA})
    newest = train(tags={MODEL_TAG: SHA})
    train(tags={MODEL_TAG: "f" * 64})
    train(run="digits-vae-2d", tags={MODEL_TAG: SHA})

    with resume_run("demo", "digits-vae", dataset="digits", model="vae", model_sha256=SHA) as tracker:
        tracker.log_metrics({"fid": 7.5}, step=100)
    with (
        pytest.raises(RuntimeError),
        resume_run("demo", "digits-vae", dataset="digits", model="vae", model_sha256=SHA) as failing,
    ):
        raise RuntimeError

    assert tracker.run_id == failing.run_id == newest
    run = client(root).get_run(newest)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"total": 1.0, "fid": 7.5})


def test_a_fresh_run_is_opened_if_the_training_is_not_there(root: Path) -> None:
    train(tags={MODEL_TAG: "f" * 64})
    opened = []
    for _ in range(2):
        with resume_run("demo", "digits-vae", dataset="digits", model="vae", model_sha256=SHA) as tracker:
            tracker.log_metrics({"fid": 7.5}, step=100)
        opened.append(tracker.run_id)
    assert opened[0] == opened[1]
    run = client(root).get_run(str(opened[0]))
    assert (run.info.run_name, run.info.status, run.data.tags[MODEL_TAG]) == ("digits-vae", "FINISHED", SHA)
    assert run.data.params == {"dataset": "digits", "model": "vae"}


# Where it goes


def test_two_processes_open_a_fresh_store_at_once(tmp_path: Path) -> None:
    root, copy, go = tmp_path / "root", tmp_path / "copy", tmp_path / "go"
    script = """
import sys, time, mlflow
from pathlib import Path
from genlib.tracking import new_run
Path(sys.argv[1] + ".ready").touch()
while not Path("../go").exists():
    time.sleep(0.01)
with new_run("demo", sys.argv[1], dataset="digits", model="vae") as tracker:
    tracker.log_metrics({"total": 1.0}, step=1)
"""
    for folder in (root, copy):
        folder.mkdir()
    environment = {**os.environ, "DVC_ROOT": str(root), "PYTHONPATH": str(PROJECT)}
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "CRITICAL"}  # here it is imported first
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, name], cwd=copy, env=environment, stderr=subprocess.PIPE, text=True
        )
        for name in ("a", "b")
    ]
    while not all((copy / f"{name}.ready").exists() for name in ("a", "b")):
        assert all(process.poll() is None for process in started)
        time.sleep(0.01)
    go.touch()
    assert [(process.communicate()[1], process.returncode) for process in started] == [("", 0), ("", 0)]
    experiment = client(root).get_experiment_by_name("demo")
    assert experiment is not None
    runs = client(root).search_runs([experiment.experiment_id])
    assert sorted((str(run.info.run_name), run.data.metrics["total"]) for run in runs) == [("a", 1.0), ("b", 1.0)]
    assert sorted(path.name for path in copy.iterdir()) == ["a.ready", "b.ready"]


def test_the_store_is_here_without_dvc(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_ROOT")
    monkeypatch.chdir(root)
    run_id = train()
    assert only_run(root).info.run_id == run_id


def test_the_address_can_be_given(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "mlflow.db").rename(root / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    run_id = train()
    assert client(root, "other.db").get_run(run_id).data.metrics == {"total": 1.0}
    assert not (root / "mlflow.db").exists()


# Off, or broken: the training goes on


@pytest.mark.parametrize("value", ["off", "OFF", "0", "false", "no"])
def test_off_does_nothing(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_TRACKING", value)
    with resume_run("demo", "digits-vae", dataset="digits", model="vae", model_sha256=SHA) as tracker:
        use_everything(tracker, tmp_path)
    assert tracker.run_id is None
    assert list(tmp_path.iterdir()) == []


def test_off_imports_no_mlflow() -> None:
    script = (
        "import sys\nfrom genlib.tracking import new_run\n"
        "with new_run('demo', 'a', dataset='digits', model='vae') as tracker: tracker.log_metrics({'a': 1.0}, 0)\n"
        "assert not {'mlflow', 'torch', 'sqlalchemy'} & set(sys.modules)"
    )
    environment = {**os.environ, "GENLIB_TRACKING": "off", "PYTHONPATH": str(PROJECT)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def test_an_unknown_switch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENLIB_TRACKING", "perhaps")
    with pytest.raises(GenlibError, match=r"^GENLIB_TRACKING: 'perhaps' .* set it to off"):
        train()


def test_a_dead_server_costs_one_line_and_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = closed_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")
    start, reached = time.monotonic(), False
    with new_run("demo", "digits-vae", dataset="digits", model="vae") as tracker:
        use_everything(tracker, tmp_path)
        reached = True
    assert reached
    assert time.monotonic() - start < 10
    line = one_line(capsys)
    assert f"127.0.0.1:{port}" in line
    assert "Connection refused" in line
    assert "secret" not in line


def test_a_server_that_hangs_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        start = time.monotonic()
        with new_run("demo", "digits-vae", dataset="digits", model="vae") as tracker:
            use_everything(tracker, tmp_path)
        assert time.monotonic() - start < 5
    assert "timed out" in one_line(capsys)


def garbage(database: Path) -> None:
    database.write_bytes(b"not a database at all" * 1000)


def folder_instead(database: Path) -> None:
    database.unlink()
    database.mkdir()


def unknown_revision(database: Path) -> None:
    database.unlink()
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('feedbeef')")
    connection.close()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (garbage, "file is not a database"),
        (folder_instead, "unable to open database file"),
        (unknown_revision, "Can't locate revision"),
    ],
)
def test_a_broken_database_costs_one_line(
    damage: Callable[[Path], None], reason: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(root / "mlflow.db")
    start = time.monotonic()
    with new_run("demo", "digits-vae", dataset="digits", model="vae") as tracker:
        use_everything(tracker, root)
    assert time.monotonic() - start < 10
    line = one_line(capsys)
    assert reason in line
    assert str(root / "mlflow.db") in line


def test_a_locked_database_costs_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db?timeout=0.2")
    with sqlite3.connect(root / "mlflow.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with new_run("demo", "digits-vae", dataset="digits", model="vae") as tracker:
            use_everything(tracker, root)
        other.execute("ROLLBACK")
    other.close()
    assert "database is locked" in one_line(capsys)


def test_a_store_that_breaks_during_training_costs_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with new_run("demo", "digits-vae", dataset="digits", model="vae") as tracker:
        tracker.log_metrics({"total": 1.0}, step=1)
        garbage(root / "mlflow.db")
        use_everything(tracker, root)
    assert "file is not a database" in one_line(capsys)


def test_the_reason_is_not_the_error_that_ended_the_training(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with new_run("demo", "digits-vae", dataset="digits", model="vae"):
            garbage(root / "mlflow.db")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    line = one_line(capsys)
    assert "file is not a database" in line
    assert "disk full" not in line


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("nonsense://somewhere", "unsupported URI"),
        ("file:///somewhere", "filesystem tracking backend"),
        ("http://127.0.0.1:99999", "Failed to parse"),
    ],
)
def test_a_wrong_address_costs_one_line(
    address: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with new_run("demo", "digits-vae", dataset="digits", model="vae"):
        pass
    line = one_line(capsys)
    assert address in line
    assert reason in line


def test_a_folder_that_mlflow_cannot_address_costs_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "100%?").mkdir()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "100%?"))
    with new_run("demo", "digits-vae", dataset="digits", model="vae"):
        pass
    assert "100%?" in one_line(capsys)
    assert [path.name for path in tmp_path.rglob("*")] == ["100%?"]


def use_everything(tracker: Tracker, folder: Path) -> None:
    tracker.log_params({"net": "deck28"})
    tracker.log_metrics({"total": 1.0}, step=1)
    tracker.log_dataset("digits", SHA, "training")
    tracker.log_artifacts(folder, "model")
    tracker.log_figures(folder, step=1)
    tracker.log_image("samples", np.zeros((8, 8), np.uint8), step=1)
    tracker.log_model(folder / "model.safetensors", (1, 8, 8), step=1)
    tracker.set_tags({MODEL_TAG: SHA})
