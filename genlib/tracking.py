"""All that touches MLflow. Tracking observes: no failure of it loses a training.

Store: `MLFLOW_TRACKING_URI` if set, else the database `<root>/mlflow.db`; the files of a database's runs are kept in
`<root>/mlartifacts`. The root is `DVC_ROOT` if set (an experiment in a temporary copy finds the original repository
there), else the current folder. `GENLIB_TRACKING=off` switches tracking off; MLflow is then not even imported.

Groups: one experiment per lane: open it, then its chart view, and the curves and pictures of all its runs lie side by
side; the filter on datasets, or `params.model = "gan"` in the search field, narrows them down. The step of every curve
and picture is the number of training images seen, the same for all models and batch sizes.

A trained model is registered under its run's name, as a pyfunc (`genlib.served`) that draws images:
`mlflow.pyfunc.load_model("models:/digits-gan/latest").predict({"count": 16, "seed": 0})`.
"""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from PIL import Image

from genlib.errors import GenlibError

if TYPE_CHECKING:
    import numpy as np
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

MODEL_TAG = "model_sha256"  # train sets it when the weights are written; resume_run finds the run by it

_ENVIRONMENT = {  # read by MLflow; what the user has set wins
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # no tracebacks of its own: _report says in one line what matters
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",  # seconds; with one retry, a server that hangs costs 10 s, once
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}

_SERVED_BY = ("numpy", "pillow", "pydantic", "safetensors", "torch")  # what loading a logged model imports


class Tracker:
    """One MLflow run, or nothing: when tracking is off or has failed, the same methods do nothing.

    The first failure of MLflow is one line on stderr, and what follows is not tracked; no method raises for it.
    `run_id` is MLflow's, or None if no run was opened.
    """

    def __init__(self, address: str, client: "MlflowClient | None" = None, run_id: str | None = None) -> None:
        self.run_id = run_id
        self._client = client
        self._address = address

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log settings as text. MLflow refuses a key that has another value already."""

        def log(client: "MlflowClient", run: str) -> None:
            from mlflow.entities import Param

            client.log_batch(run, params=[Param(key, str(value)) for key, value in params.items()])

        self._observe(log)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log one point of each curve; `step` is the number of training images seen."""

        def log(client: "MlflowClient", run: str) -> None:
            from mlflow.entities import Metric

            now_ms = int(time.time() * 1000)
            client.log_batch(run, [Metric(name, value, now_ms, step) for name, value in metrics.items()])

        self._observe(log)

    def log_dataset(self, name: str, digest: str, context: str) -> None:
        """Log the data used: its name, the sha256 (hex) of its processed form, and the use ("training", "test")."""

        def log(client: "MlflowClient", run: str) -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            source = json.dumps({"dataset": name, "sha256": digest})  # as a digest, MLflow takes 36 characters at most
            dataset = Dataset(name, digest[:8], source_type="processed", source=source)
            client.log_inputs(run, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

        self._observe(log)

    def log_artifacts(self, path: Path, folder: str) -> None:
        """Keep a copy of a file, or of all files in a folder, in the run's artifact folder `folder`."""

        def log(client: "MlflowClient", run: str) -> None:
            log_path = client.log_artifacts if path.is_dir() else client.log_artifact
            log_path(run, str(path), folder)

        self._observe(log)

    def log_model(self, file: Path, shape: tuple[int, int, int], step: int) -> None:
        """Log a model file of genlib as an MLflow model that draws images, and register it under the run's name.

        Args:
            file: what `genlib.models.save` wrote.
            shape: C, H and W of its images.
            step: number of training images seen.
        """

        def log(client: "MlflowClient", run: str) -> None:
            from mlflow.entities import LoggedModelOutput, LoggedModelStatus

            found = client.get_run(run)
            name, tags = str(found.info.run_name), {key: found.data.tags[key] for key in ("lane", "dataset", "model")}
            logged = client.create_logged_model(
                found.info.experiment_id, name, run, tags, found.data.params, model_type=tags["model"]
            )
            with tempfile.TemporaryDirectory() as work:
                folder = Path(work) / "model"
                _write_mlflow_model(folder, file, shape, run, logged.model_id)
                client.log_model_artifacts(logged.model_id, str(folder))
            client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
            client.log_outputs(run, [LoggedModelOutput(logged.model_id, step)])
            _register(client, logged, run)

        self._observe(log)

    def log_image(self, key: str, image: "Path | Image.Image | np.ndarray[Any, Any]", step: int) -> None:
        """Log one picture of a series; the UI's charts show a series for all runs, with a slider over steps.

        Args:
            key: name of the series: letters, digits, spaces and `_-./`.
            image: a picture, its file, or an array uint8 H W (grey) or H W 3 (colour).
            step: number of training images seen.
        """

        def log(client: "MlflowClient", run: str) -> None:
            with Image.open(image) if isinstance(image, Path) else nullcontext(image) as opened:
                client.log_image(run, opened, key=key, step=step)

        self._observe(log)

    def log_figures(self, folder: Path, step: int) -> None:
        """Log all files of a folder as artifacts in `figures`, and each PNG with `log_image`, keyed by its stem."""
        self.log_artifacts(folder, "figures")
        for figure in sorted(folder.glob("*.png")):
            self.log_image(figure.stem, figure, step)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run, replacing those of the same keys."""
        self._observe(lambda client, run: [client.set_tag(run, key, text) for key, text in tags.items()])

    @contextmanager
    def _running(self) -> Iterator[None]:
        """The run is RUNNING in the block, then FINISHED, or FAILED after an exception, or KILLED after Ctrl-C."""
        status = "FAILED"
        self._observe(lambda client, run: client.update_run(run, "RUNNING"))
        try:
            yield
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            self._observe(lambda client, run: client.set_terminated(run, status))

    def _observe(self, action: "Callable[[MlflowClient, str], object]") -> None:
        if self._client is None or self.run_id is None:
            return
        outer = sys.exception()
        try:
            action(self._client, self.run_id)
        except _failures() as error:
            self._client = None
            _report(self._address, error, outer)


def check() -> None:
    """GenlibError if GENLIB_TRACKING is neither on nor off: for stages that do their work before they log it."""
    _is_on()


@contextmanager
def new_run(lane: str, run: str, *, dataset: str, model: str, continues: str | None = None) -> Iterator[Tracker]:
    """Open an MLflow run named `run`; for train. An exception in the block marks it FAILED, Ctrl-C KILLED; both go on.

    Args:
        lane, run, dataset, model: as in params.yaml.
        continues: `run_id` of the stopped training that this one resumes: its curves go on. Not found: a new run.

    Raises:
        GenlibError: GENLIB_TRACKING is neither on nor off.
    """
    query = f"attributes.run_id = '{continues}'" if continues else None
    tracker, _ = _open(_tags(lane, run, dataset, model), query)
    with tracker._running():
        yield tracker


@contextmanager
def resume_run(lane: str, run: str, *, dataset: str, model: str, model_sha256: str) -> Iterator[Tracker]:
    """Find the newest MLflow run named `run` with these weights; for sample and evaluate.

    It keeps its status, which is the training's, whatever happens in the block. If there is none (the training was not
    tracked, or came out of DVC's cache), a new one is opened as in `new_run`, with the same tags.
    """
    tags = _tags(lane, run, dataset, model) | {MODEL_TAG: model_sha256}
    tracker, found = _open(tags, f"tags.{MODEL_TAG} = '{model_sha256}'")
    with nullcontext() if found else tracker._running():
        yield tracker


def _tags(lane: str, run: str, dataset: str, model: str) -> dict[str, str]:
    stage = os.environ.get("DVC_STAGE", "")
    tags = {"lane": lane, "run": run, "dataset": dataset, "model": model}
    tags |= {"mlflow.source.type": "LOCAL", "mlflow.source.name": stage, "mlflow.source.git.commit": _git_commit()}
    tags |= {"dvc.stage": stage, "dvc.experiment": os.environ.get("DVC_EXP_NAME", "")}
    tags |= {"dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", "")}
    return {key: text for key, text in tags.items() if text}


def _write_mlflow_model(folder: Path, file: Path, shape: tuple[int, int, int], run_id: str, model_id: str) -> None:
    """Write what MLflow calls a model: weights, a copy of genlib's code, the versions it needs, and its signature."""
    import numpy as np
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    drawing = Schema([ColSpec("long", "count"), ColSpec("long", "seed", required=False)])
    images = Schema([TensorSpec(np.dtype(np.uint8), (-1, *shape))])
    with tempfile.TemporaryDirectory() as work:
        package = Path(__file__).parent
        code = Path(work) / package.name
        shutil.copytree(package, code, ignore=_all_but_python)
        pyfunc.save_model(
            folder,
            loader_module="genlib.served",
            data_path=str(file),
            code_paths=[str(code)],
            mlflow_model=Model(run_id=run_id, model_id=model_id),
            signature=ModelSignature(drawing, images),
            input_example={"count": 16, "seed": 0},
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in _SERVED_BY],
        )


def _all_but_python(folder: str, names: list[str]) -> list[str]:
    """What a copy of the code leaves out: templates, compiled files."""
    return [
        name for name in names if name == "__pycache__" or not (name.endswith(".py") or Path(folder, name).is_dir())
    ]


def _register(client: "MlflowClient", logged: "LoggedModel", run_id: str) -> None:
    """Make a logged model the newest version of the registered model of its name."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(logged.name, tags=logged.tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # By its place: as models:/<id>, a database's registry would look it up in MLflow's global store, which is another.
    client.create_model_version(
        logged.name, logged.artifact_location, run_id, await_creation_for=0, model_id=logged.model_id
    )


def _git_commit() -> str:
    """The commit of the code that runs, "" outside git; asked in the current folder, which may be a temporary copy."""
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return answer.stdout.strip()


def _open(tags: Mapping[str, str], query: str | None) -> tuple[Tracker, bool]:
    """The newest run of that name that `query` finds, and True; else a new one with these tags, and False."""
    if not _is_on():
        return Tracker(""), False
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    root = Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()
    address = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if relative := re.fullmatch(r"sqlite:///(?!/|:|file:)(.+)", address):
        address = f"sqlite:///{root}/{relative[1]}"
    outer = sys.exception()
    try:
        client, experiment_id = _connect(address, root, tags)
        for found in client.search_runs([experiment_id], query) if query else []:  # newest first
            if found.data.tags.get("run") == tags["run"]:
                return Tracker(address, client, found.info.run_id), True
        new = client.create_run(experiment_id, tags=dict(tags), run_name=tags["run"])
    except _failures() as error:
        _report(address, error, outer)
        return Tracker(address), False
    tracker = Tracker(address, client, new.info.run_id)
    tracker.log_params({"dataset": tags["dataset"], "model": tags["model"]})
    return tracker, False


def _is_on() -> bool:
    switch = os.environ.get("GENLIB_TRACKING", "").strip().lower()
    if switch not in ("", "on", "1", "true", "yes", "off", "0", "false", "no"):
        raise GenlibError(f"GENLIB_TRACKING: {switch!r} is neither on nor off; set it to off, or unset it to track")
    return switch in ("", "on", "1", "true", "yes")


def _connect(address: str, root: Path, tags: Mapping[str, str]) -> "tuple[MlflowClient, str]":
    """A client of the store, and the id of the experiment, made if need be, that these tags belong to."""
    from mlflow import MlflowClient

    group = tags["lane"]
    if address.startswith(("http://", "https://")):  # a server, which has a place for files
        client = MlflowClient(address)
        return client, _experiment_id(client, group, None)
    if re.search(r"[%?#]", str(root)):
        raise ValueError(f"it cannot keep files in a folder with %, ? or # in its name: {root}")
    lock = root / ".work" / "mlflow.lock"
    lock.parent.mkdir(exist_ok=True)
    with FileLock(lock, timeout=60):  # the first client makes the tables; two at once can crash
        if address.startswith("sqlite:"):
            _probe(address)
        client = MlflowClient(address)
        return client, _experiment_id(client, group, str(root / "mlartifacts" / group))


def _probe(address: str) -> None:
    """Fail within 5 s on a database file that cannot be opened or written; MLflow would try for 100 s."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(address)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        engine.dispose()


def _experiment_id(client: "MlflowClient", name: str, files: str | None) -> str:
    from mlflow.exceptions import MlflowException

    if experiment := client.get_experiment_by_name(name):
        return str(experiment.experiment_id)
    try:
        return client.create_experiment(name, artifact_location=files)
    except MlflowException:
        if experiment := client.get_experiment_by_name(name):  # another process was faster
            return str(experiment.experiment_id)
        raise


def _failures() -> tuple[type[Exception], ...]:
    """What a broken, locked, missing or misnamed store raises (each was seen); the errors of requests are OSErrors.

    ImportError: a database's driver is not installed. ValueError: a setting of MLflow's that is not a number.
    """
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, CommandError, OSError, ImportError, ValueError


def _report(address: str, error: Exception, outer: BaseException | None) -> None:
    """One line on stderr. `outer` was in flight before tracking failed, so it is not the reason."""
    reason: BaseException = error
    inner = error.__cause__ or error.__context__
    while inner is not None and inner is not outer:
        if isinstance(inner, OSError | sqlite3.Error):  # the innermost says it shortest: "Connection refused"
            reason = inner
        inner = inner.__cause__ or inner.__context__
    line = f"tracking: MLflow at {address} failed ({' '.join(str(reason).split())[:300]}); this run goes on untracked; "
    line += "mend that server or database, correct MLFLOW_TRACKING_URI, or set GENLIB_TRACKING=off"
    print(re.sub(r"//[^/\s@]+@", "//***@", line), file=sys.stderr, flush=True)  # no passwords
