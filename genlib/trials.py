"""Settings tried: what each training of a run came to on validation images; test images are not to choose by."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genlib import experiments, params
from genlib.comparison import write_table
from genlib.errors import GenlibError
from genlib.experiments import Load
from genlib.verification import load_settings

CRITERIA = ("fid", "total", "generation")
"""What a training is judged by on validation images, the first of them that it has; lower is better."""


@dataclass(frozen=True)
class Trial:
    """One training. `settings`: its own, whether its model's or its run's lines have them; `seconds` of work.

    `history`: for each epoch, what was measured on validation images, without the `val_`.
    """

    name: str
    seed: int
    epochs: int
    settings: dict[str, Any]
    seconds: float
    history: tuple[dict[str, float], ...]

    def at_best(self, criterion: str) -> tuple[int, dict[str, float]]:
        """The epoch with the lowest `criterion`, and its numbers; GenlibError if it was not measured."""
        if criterion not in self.history[0]:
            raise GenlibError(
                f"--by {criterion}: {self.name} has no such number; choose of {', '.join(self.history[0])}"
            )
        return min(enumerate(self.history, start=1), key=lambda one: one[1][criterion])


def of_run(run: str, rev: str) -> tuple[list[Trial], list[str]]:
    """The trainings of a run in DVC's experiments on the commit `rev`, and notes on those left out.

    GenlibError, with the notes, if there is none.
    """
    params.load().run(run)
    trials, notes = experiments.from_experiments(lambda *revision: _trial(run, *revision), rev)
    if not trials:
        settings = load_settings()
        _, places = experiments.used_params(settings.checked, settings.raw, run)
        example = f"dvc exp run --queue -S {places['lr']}=2e-4 train@{run}"
        said = "".join(f"; {note}" for note in notes)
        raise GenlibError(f"{run}: no experiment on {rev} trained it; {example}{said}")
    return distinct(trials), notes


def distinct(trials: Sequence[Trial]) -> list[Trial]:
    """Each training once: experiments that changed something else hold the same one as their commit."""
    found: list[Trial] = []
    for trial in trials:
        if all(_made_of(trial) != _made_of(other) for other in found):
            found.append(trial)
    return found


def _made_of(trial: Trial) -> tuple[object, ...]:
    return trial.seed, trial.epochs, trial.settings, trial.history


def table(trials: Sequence[Trial], criterion: str | None = None) -> list[dict[str, Any]]:
    """A row for each training, the best first: what differs among their settings, and their numbers at the best epoch.

    Without `criterion`, the first of `CRITERIA` that they have.
    """
    by = criterion or next(name for name in CRITERIA if name in trials[0].history[0])
    differing = [
        key
        for key in dict.fromkeys(key for trial in trials for key in trial.settings)
        if len({json.dumps(trial.settings.get(key)) for trial in trials}) > 1
    ]
    rows = []
    for trial in sorted(trials, key=lambda trial: trial.at_best(by)[1][by]):
        epoch, numbers = trial.at_best(by)
        chosen = {key: "off" if trial.settings.get(key) is None else trial.settings[key] for key in differing}
        rows.append(
            {"trial": trial.name, **chosen, "seed": trial.seed, "epochs": trial.epochs, "best epoch": epoch}
            | {f"val {name}": value for name, value in numbers.items()}
            | {"minutes": round(trial.seconds / 60, 1)}
        )
    return rows


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a table, whole or not at all."""
    write_table(path, list(dict.fromkeys(key for row in rows for key in row)), rows)


def _trial(run: str, name: str, yaml: str, lock: str, load: Load) -> Trial:
    of = experiments.made(name, "train", run, yaml, lock)
    folder = f"runs/{of.used['lane']}/{run}"
    log = f"{folder}/training"
    files = {entry["relpath"]: entry["md5"] for entry in json.loads(load(log, of.outs[log]))}
    history = csv.DictReader(io.StringIO(load(f"{log}/history.csv", files["history.csv"]).decode()))
    rows = tuple(
        {key.removeprefix("val_"): float(value) for key, value in row.items() if key.startswith("val_")}
        for row in history
    )
    provenance = json.loads(load(f"{folder}/provenance.json", of.outs[f"{folder}/provenance.json"]))
    own = {key: of.used[key] for key in of.places if key not in ("lane", "epochs")}
    return Trial(name, of.raw["seed"], of.used["epochs"], own, provenance["seconds"], rows)
