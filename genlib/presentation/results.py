"""What the stages wrote, read and checked for the page. A missing or odd file is one line that names its stage."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from genlib.errors import GenlibError
from genlib.files import read_json
from genlib.presentation.catalogue import DATASETS

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
    """What a processed dataset is: its card, as `evaluation.json` quotes it; mean and std of pixels in 0..1.

    `people`: the images show real people. `edition`: what of the official dataset this is, None when it is all of it.
    `classes`: names of the classes or attributes. `class_counts`: images of each class, or that have each attribute.
    """

    dataset: str
    origin: Origin
    people: bool
    edition: str | None
    image_size: int
    channels: int
    labels: Literal["classes", "attributes", "people"]
    classes: tuple[str, ...]
    counts: dict[str, int]
    class_counts: dict[str, tuple[int, ...]]
    people_counts: dict[str, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: str | None
    resize: str | None
    split_rule: str

    @property
    def title(self) -> str:
        """The dataset as a person calls it."""
        return DATASETS.get(self.dataset, self.dataset)

    def training_share(self, attribute: str) -> float:
        """The share of training images that have an attribute."""
        return self.class_counts["train"][self.classes.index(attribute)] / self.counts["train"]


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
    """What may differ between equal runs (`provenance.json`); `seconds` of training."""

    commit: str | None
    dirty: bool | None
    date: str
    hardware: str
    device: str
    torch: str
    python: str
    threads: int
    seconds: float


class Measured(_Record):
    """A number of the samples: mean and standard deviation over sample sets (None: of a single set), and its limits.

    `floor`: what real images get; `ceiling`: a Gaussian of the pixels; `bias`: FID between two sets of real images.
    """

    mean: float
    std: float | None = None
    floor: float | None = None
    ceiling: float | None = None
    bias: float | None = None


class Features(_Record):
    """The network in whose features samples are compared with images."""

    name: str
    sha256: str
    dimensions: int


class MeasuringCard(_Record):
    """What was measured with what: results whose cards differ do not compare; further keys are kept.

    `images`: the dataset as it was prepared. `reference`: images of the split; `samples`: in each of the `sets`.
    `leading`: the distance to go by. `likelihood` and the importance samples are those of a model with a likelihood.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    protocol: int
    features: Features
    images: dict[str, Any]
    split: str
    reference: int
    samples: int
    sets: int
    floor: str
    ceiling: str
    leading: Literal["fid", "kid"]
    neighbours: int
    checkpoint: str
    seed: int
    likelihood: str | None = None
    importance_samples: int | None = None
    importance_images: int | None = None


class BestCheckpoint(_Record):
    """The epoch whose samples were best during training, and what they get now; `is_last`: it is the last epoch."""

    epoch: int
    chosen_by: str
    is_last: bool
    samples: dict[str, Measured]


class NotComputed(_Record):
    """Why there are no numbers in Inception's features."""

    not_computed: str


class StandardFeatures(_Record):
    """FID and KID of the published samples in the features that the field uses."""

    features: Features
    samples: int
    reference: int
    fid: float
    kid: float
    kid_standard_error: float


class AttributeShares(_Record):
    """Shares of the images that the measuring network takes to have an attribute."""

    samples: float
    test: float


class AttributeAccuracy(_Record):
    """How often the measuring network is right on test images; `baseline`: always giving the commoner answer."""

    accuracy: float
    baseline: float


class MeasuringNetwork(_Record):
    """How often the network that measures is right on test images of its own dataset."""

    accuracy: float
    baseline: float | None
    attributes: dict[str, AttributeAccuracy] = {}


class Evaluation(_Record):
    """All that was measured (`evaluation.json`); further keys are kept. `class_shares` adds up to 1, or is empty.

    `encoding`: numbers of a model that encodes. `best`: None where no best checkpoint was kept. `collapse`: what looks
    like mode collapse. `measuring_network`: None where it was trained on another dataset.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    dataset: Card
    samples: dict[str, Measured]
    encoding: dict[str, float] = {}
    card: MeasuringCard
    best: BestCheckpoint | None = None
    collapse: str | None = None
    class_shares: dict[str, float] = {}
    attribute_shares: dict[str, AttributeShares] = {}
    measuring_network: MeasuringNetwork | None = None
    inception: NotComputed | StandardFeatures | None = None


@dataclass(frozen=True)
class Folders:
    """Where things lie: runs/<lane>, metrics/<lane> and, if there are any, comparisons/<lane>."""

    runs: Path
    metrics: Path
    comparisons: Path | None = None


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
        provenance=_record(Provenance, training.parent / "provenance.json", f"train@{run}"),
        history=_last_row(require(training / "history.csv", f"train@{run}")),
        evaluation=_record(Evaluation, folder / "evaluation.json", f"evaluate@{run}"),
        metrics=_numbers(metrics, f"evaluate@{run}"),
        figures={path.name: path for part in ("figures", "real") for path in _pictures(folder / part, f"sample@{run}")},
    )


def require(path: Path, stage: str) -> Path:
    """The path itself; GenlibError naming it and the stage that writes it if there is nothing."""
    if not path.exists():
        raise GenlibError(f"{path}: no such file or folder; run the stage that writes it: dvc repro {stage}")
    return path


def _pictures(folder: Path, stage: str) -> list[Path]:
    pictures = sorted(path for path in require(folder, stage).iterdir() if path.suffix in PICTURES)
    if not pictures:
        raise GenlibError(f"{folder}: no pictures in it; run the stage that draws them: dvc repro {stage}")
    return pictures


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
