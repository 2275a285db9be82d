"""What the stages wrote, read and checked for the page. A missing or odd file is one line that names its stage."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from genlib.errors import GenlibError
from genlib.files import read_json

PICTURES = (".png", ".gif")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ArchiveFile(_Record):
    """One file a dataset was made from."""

    name: str
    bytes: int
    sha256: str
    source: str
    verified: str


class Origin(_Record):
    """Where a dataset's files came from."""

    files: tuple[ArchiveFile, ...]


class Card(_Record):
    """What a processed dataset is: its card, as `evaluation.json` quotes it; mean and std of pixels in 0..1."""

    dataset: str
    origin: Origin
    image_size: int
    channels: int
    classes: tuple[str, ...]
    counts: dict[str, int]
    class_counts: dict[str, tuple[int, ...]]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: Any
    resize: Any
    split_rule: str


class Layer(_Record):
    """One layer; `output` is a shape without the batch."""

    name: str
    type: str
    detail: str
    output: tuple[int, ...]
    parameters: int


class Network(_Record):
    """One network as it describes itself."""

    name: str
    parameters: int
    input: tuple[int, ...]
    output: tuple[int, ...]
    layers: tuple[Layer, ...]


class Architecture(_Record):
    """The networks of a run (`training/architecture.json`)."""

    networks: tuple[Network, ...]


class Provenance(_Record):
    """What may differ between equal runs (`training/provenance.json`); `seconds` of training."""

    commit: str | None
    dirty: bool | None
    date: str
    hardware: str
    device: str
    torch: str
    python: str
    threads: int
    seconds: float


class MeasuredWith(_Record):
    """What the samples were held against; `reference` and `floor` say which images, and how many."""

    features: str
    classifier_test_accuracy: float
    samples: int
    reference: str
    floor: str


class Evaluation(_Record):
    """All that was measured (`evaluation.json`); further keys are kept. `class_shares` adds up to 1, or is empty."""

    model_config = ConfigDict(frozen=True, extra="allow")

    dataset: Card
    measured_with: MeasuredWith
    class_shares: dict[str, float] = {}


@dataclass(frozen=True)
class RunResults:
    """All that the page shows of one run: settings and seed it was trained with, last row of its history, and so on."""

    settings: Mapping[str, Any]
    architecture: Architecture
    provenance: Provenance
    history: Mapping[str, float]
    evaluation: Evaluation
    metrics: Mapping[str, float]
    figures: Mapping[str, Path]


_Kind = TypeVar("_Kind", bound=_Record)


def read_run(run: str, folder: Path, metrics: Path) -> RunResults:
    """Everything about `run`: `folder` is runs/<lane>/<run>, `metrics` its flat file of numbers.

    Raises:
        GenlibError: a file is missing or not what its stage writes.
    """
    training = folder / "training"
    return RunResults(
        settings=_settings(training / "settings.json", f"train@{run}"),
        architecture=_record(Architecture, training / "architecture.json", f"train@{run}"),
        provenance=_record(Provenance, training / "provenance.json", f"train@{run}"),
        history=_last_row(require(training / "history.csv", f"train@{run}")),
        evaluation=_record(Evaluation, folder / "evaluation.json", f"evaluate@{run}"),
        metrics=_numbers(metrics, f"evaluate@{run}"),
        figures=_figures(folder / "figures", f"sample@{run}"),
    )


def require(path: Path, stage: str) -> Path:
    """The path itself; GenlibError naming it and the stage that writes it if there is nothing."""
    if not path.exists():
        raise GenlibError(f"{path}: no such file or folder; run the stage that writes it: dvc repro {stage}")
    return path


def _figures(folder: Path, stage: str) -> dict[str, Path]:
    pictures = sorted(path for path in require(folder, stage).iterdir() if path.suffix in PICTURES)
    if not pictures:
        raise GenlibError(f"{folder}: no pictures in it; run the stage that draws them: dvc repro {stage}")
    return {path.name: path for path in pictures}


def _record(kind: type[_Kind], path: Path, stage: str) -> _Kind:
    try:
        return kind.model_validate(read_json(require(path, stage)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "top level"
        raise GenlibError(f"{path}: {key}: {first['msg']}; delete the file and run dvc repro {stage}") from error


def _mapping(path: Path, stage: str) -> dict[str, Any]:
    value = read_json(require(path, stage))
    if not isinstance(value, dict):
        raise GenlibError(f"{path}: holds {type(value).__name__}, not a mapping; delete it and run dvc repro {stage}")
    return value


def _settings(path: Path, stage: str) -> dict[str, Any]:
    settings = _mapping(path, stage)
    if "seed" not in settings:
        raise GenlibError(f"{path}: seed: missing; delete the file and run dvc repro {stage}")
    return settings


def _numbers(path: Path, stage: str) -> dict[str, float]:
    values = _mapping(path, stage)
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise GenlibError(f"{path}: {key}: {value!r} is not a number; delete it and run dvc repro {stage}")
    return values


def _last_row(path: Path) -> dict[str, float]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"epoch", "images"} <= rows[-1].keys():
        raise GenlibError(f"{path}: no row with epoch and images; delete the run's folder and train it again")
    try:
        return {name: float(value) for name, value in rows[-1].items() if value != ""}
    except (TypeError, ValueError) as error:
        raise GenlibError(f"{path}: not all numbers ({error}); delete the run's folder and train it again") from error
