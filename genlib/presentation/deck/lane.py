"""A lane as the deck sees it: its runs with all that was read of them, and what it takes from their files."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from genlib.errors import GenlibError
from genlib.presentation import catalogue, text
from genlib.presentation.comparisons import Comparison, read_comparisons
from genlib.presentation.deck.blocks import Chart, Diagram, Film, Missing, Part, Provenance, Series, Still
from genlib.presentation.deck.media import gif_frames, progress_frames, read_progress
from genlib.presentation.pictures import embed
from genlib.presentation.results import Card, Folders, Network, RunResults, read_run
from genlib.settings import RunSettings

_SMALL_SIDE = 40
_PARTS = ("Conv2d", "ConvTranspose2d", "Linear")
_HIDDEN = ("Flatten", "Identity")
_MATTERS = (
    *("epochs", "batch_size", "lr", "lr_halflife_images", "beta1", "width", "latent_dim", "output", "beta", "noise"),
    *("real_label", "dropout", "leaky_slope", "ema_halflife_images"),
)
_WORDS = {
    **{"latent_dim": "code", "batch_size": "batch", "real_label": "real label", "leaky_slope": "slope"},
    **{"lr_halflife_images": "halved every", "ema_halflife_images": "average of"},
}
_UNITS = {"lr_halflife_images": " images", "ema_halflife_images": " images"}


@dataclass(frozen=True)
class Run:
    """A run of the lane; `folder` is runs/<lane>/<run>."""

    name: str
    settings: RunSettings
    results: RunResults
    folder: Path

    @property
    def model(self) -> str:
        """The kind of model: ae, vae, gan..."""
        return self.settings.model

    @property
    def card(self) -> Card:
        """Its dataset's card."""
        return self.results.evaluation.dataset

    @property
    def kind(self) -> str:
        """The model in words, short."""
        return catalogue.SHORT.get(self.model, self.model)


@dataclass(frozen=True)
class Lane:
    """A lane's runs, in the order of params.yaml, and its comparisons."""

    name: str
    title: str
    runs: Sequence[Run]
    comparisons: Sequence[Comparison]

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets, in the order of the runs."""
        return list(dict.fromkeys(run.settings.dataset for run in self.runs))

    def of(self, model: str, dataset: str | None = None) -> list[Run]:
        """The runs of a model, on one dataset or all."""
        return [run for run in self.runs if run.model == model and dataset in (None, run.settings.dataset)]

    def first(
        self, model: str, dataset: str | None = None, where: Callable[[Run], bool] = lambda run: True
    ) -> Run | None:
        """The first such run; None if there is none."""
        return next((run for run in self.of(model, dataset) if where(run)), None)


def read(lane: str, title: str, runs: Mapping[str, RunSettings], folders: Folders) -> Lane:
    """Everything about a lane. GenlibError if it has no runs, or a file is missing or broken."""
    if not runs:
        raise GenlibError(f"params.yaml: lanes.{lane}: no run has lane: {lane}; add one under runs")
    found = [
        Run(name, settings, read_run(name, folders.runs / name, folders.metrics / f"{name}.json"), folders.runs / name)
        for name, settings in runs.items()
    ]
    comparisons = read_comparisons(folders.comparisons) if folders.comparisons else ()
    return Lane(lane, title, found, comparisons)


# Pictures


def still(run: Run, name: str, caption: str = "") -> Still | Missing:
    """One of the run's figures; what is missing and the command that draws it if it is not there."""
    path = run.results.figures.get(name)
    words = catalogue.figure(name, run.model)
    if path is None:
        return Missing(f"{words.title} of {run.name}: {name} is not there", f"`dvc repro sample@{run.name}`")
    picture = embed(path, words, f"of the run {run.name}")
    return Still(picture, path, caption or words.caption, words.plain and run.card.image_size <= _SMALL_SIDE)


def progress_film(run: Run, caption: str) -> Film | Missing:
    """What the same codes, or images, became over training."""
    path = run.folder / "training" / "progress.safetensors"
    if not path.exists():
        return Missing(f"Pictures of {run.name}'s training: {path.name} is not there", f"`dvc repro train@{run.name}`")
    frames, captions, (width, height) = progress_frames(read_progress(path, run.name))
    words = catalogue.figure("progress.gif", run.model)
    alt = f"{words.title} of the run {run.name}. {words.caption}"
    small = run.card.image_size <= _SMALL_SIDE
    return Film(frames, captions, alt, caption, width, height, small, run.results.figures.get("progress.gif"))


def codes_film(run: Run, caption: str) -> Film | Missing:
    """The 2-D codes of held-out images over training, coloured by class."""
    progress, path = run.folder / "training" / "progress.safetensors", run.results.figures.get("codes.gif")
    if path is None or not progress.exists():
        return Missing(f"The latent space of {run.name}: codes.gif is not there", f"`dvc repro sample@{run.name}`")
    seen = [f"{count:,} images seen" for count in read_progress(progress, run.name)["images_seen"].tolist()]
    frames, captions, (width, height) = gif_frames(path, seen)
    words = catalogue.FIGURES["codes.gif"]
    return Film(frames, captions, f"{words.title}. {words.caption}", caption, width, height, False, path)


# Curves


def columns(path: Path, stage: str) -> dict[str, list[float]]:
    """A CSV file of numbers by column. GenlibError if it is missing or holds something else."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {name: [float(row[name]) for row in rows] for name in rows[0]} if rows else {}
    except FileNotFoundError as error:
        raise GenlibError(f"{path}: no such file; run the stage that writes it: dvc repro {stage}") from error
    except (TypeError, ValueError) as error:
        raise GenlibError(f"{path}: not all numbers ({error}); delete it and run dvc repro {stage}") from error


def losses(run: Run, name: str, title: str, log: bool = False) -> Chart | Missing:
    """A loss on training images, and on held-out ones after each epoch."""
    training = run.folder / "training"
    history = columns(training / "history.csv", f"train@{run.name}")
    held = [Series("held-out images", history["images"], history[f"val_{name}"], dots=True)] if (
        f"val_{name}" in history
    ) else []  # fmt: skip
    drawn = of_steps(run, {name: "training images"})
    if not drawn and not held:
        return Missing(f"{title}: {run.name}'s history does not have it", f"`dvc repro train@{run.name}`")
    positive = all(value > 0 for series in [*drawn, *held] for value in series.y)
    return Chart(title, [*drawn, *held], log and positive)


def of_steps(run: Run, names: Mapping[str, str]) -> list[Series]:
    """Columns of steps.csv as lines, each under its name in words; those that are not there are left out."""
    path = run.folder / "training" / "steps.csv"
    steps = columns(path, f"train@{run.name}") if path.exists() else {}
    return [Series(words, steps["images"], steps[name]) for name, words in names.items() if name in steps]


def game(run: Run, names: Mapping[str, str], title: str, chance: str | None) -> Chart | Missing:
    """Curves of both players; with `chance`, in 0..1 and with a line at 0.5 that says so."""
    drawn = of_steps(run, names)
    if not drawn:
        return Missing(f"{title}: {run.name} has no steps.csv with them", f"`dvc repro train@{run.name}`")
    limits = (0.0, 1.0) if chance else (0.0, max(max(series.y) for series in drawn) * 1.05)
    return Chart(title, drawn, limits=limits, level=(0.5, chance) if chance else None)


# Networks


def diagrams(run: Run) -> list[Diagram]:
    """The networks of a run, each layer with weights together with what follows it at once."""
    return [diagram(network) for network in run.results.architecture.networks]


def diagram(network: Network) -> Diagram:
    """A network as its parts; layers that only reshape are left to the shapes."""
    parts: list[Part] = []
    for layer in network.layers:
        if layer.type in _PARTS or not parts:
            parts.append(Part(layer.type, layer.detail, "", layer.output, layer.parameters))
        elif layer.type in _HIDDEN or (layer.type == "Dropout" and layer.detail == "probability 0.0"):
            continue
        else:
            last = parts[-1]
            shown = "" if layer.type == "Reshape" else _then(layer.type, layer.detail)
            then = ", ".join(said for said in (last.then, shown) if said)
            weights = last.parameters + layer.parameters
            parts[-1] = Part(last.name, last.detail, then, layer.output or last.output, weights)
    return Diagram(network.name, network.input, parts, network.parameters)


def _then(kind: str, detail: str) -> str:
    short = {"BatchNorm1d": "batch norm", "BatchNorm2d": "batch norm", "LeakyReLU": "leaky ReLU", "Dropout": "dropout"}
    number = detail.split()[-1] if detail else ""
    return f"{short.get(kind, kind)} {number}".strip()


# Where it comes from


def provenance(runs: Sequence[Run | None]) -> tuple[Provenance, ...]:
    """A line for each run: settings that matter, data, seed; commit, hardware, date."""
    return tuple(_provenance(run) for run in {run.name: run for run in runs if run is not None}.values())


def _provenance(run: Run) -> Provenance:
    made, card = run.results.provenance, run.card
    settings = run.settings.model_dump()
    said = [
        f"{_WORDS.get(key, key)} {text.value(settings[key])}{_UNITS.get(key, '')}"
        for key in _MATTERS
        if _shown(key, settings)
    ]
    seed = text.value(run.results.settings["seed"])
    shared = f"{', '.join(said)}; seed {seed}; {text.number(card.counts['train'])} training images, {origin(card)}"
    commit = (made.commit or "unknown")[:12] + (" with uncommitted changes" if made.dirty else "")
    own = f"commit {commit}, {made.hardware}, {text.date(made.date)}, {text.duration(made.seconds)}"
    return Provenance(run.name, shared, own)


def _shown(key: str, settings: Mapping[str, object]) -> bool:
    """What is off is left out; a first moment of 0 is a choice."""
    return bool(settings.get(key)) or (key == "beta1" and key in settings)


def origin(card: Card) -> str:
    """Where a dataset came from, in few words, and what of it this is."""
    sources = list(dict.fromkeys(catalogue.SOURCES.get(file.source, file.source) for file in card.origin.files))
    said = f"{card.title} from {' and '.join(sources)}"
    return f"{said} ({card.edition})" if card.edition else said


def missing_run(what: str, copied: Run, new: str, setting: str, lane: str) -> Missing:
    """A run that the lane lacks, and how to add it: as a copy of another, with one setting changed."""
    remedy = (
        f"in params.yaml, copy the run `{copied.name}` as `{new}` with `{setting}`; then `dvc repro present@{lane}`"
    )
    return Missing(what, remedy)
