"""Settings tried: an experiment's training as DVC keeps it, and the table of several."""

import csv
import sys
from pathlib import Path

import pytest
from projects import ROOT, finished

from genlib import experiments, trials
from genlib.errors import GenlibError
from genlib.trials import Trial


def trial(name: str, *fids: float, seed: int = 0, **settings: object) -> Trial:
    history = tuple({"fid": fid, "generator": -fid} for fid in fids)
    return Trial(name, seed, len(fids), {"lr": 1e-4, "dropout": 0.3, **settings}, 90.0, history)


def test_the_best_on_validation_comes_first_with_its_best_epoch_and_what_differs() -> None:
    slow, fast = trial("slow", 9.0, 7.0), trial("fast", 3.0, 4.0, seed=2, lr=2e-4, ema=None)
    assert trials.table([slow, fast]) == [
        {"trial": "fast", "lr": 2e-4, "seed": 2, "epochs": 2, "best epoch": 1}
        | {"val fid": 3.0, "val generator": -3.0, "minutes": 1.5},
        {"trial": "slow", "lr": 1e-4, "seed": 0, "epochs": 2, "best epoch": 2}
        | {"val fid": 7.0, "val generator": -7.0, "minutes": 1.5},
    ]  # fmt: skip


def test_a_training_that_several_experiments_hold_counts_once() -> None:
    first, again = trial("a", 9.0), trial("b", 9.0)
    others = [trial("seed", 9.0, seed=1), trial("result", 8.0), trial("setting", 9.0, lr=2e-4)]
    assert trials.distinct([first, again, *others]) == [first, *others]


def test_another_number_may_judge() -> None:
    rows = trials.table([trial("low", 3.0, 4.0), trial("high", 9.0)], "generator")
    assert [(row["trial"], row["best epoch"]) for row in rows] == [("high", 1), ("low", 2)]
    with pytest.raises(GenlibError, match="--by kid: low has no such number; choose of fid, generator"):
        trials.table([trial("low", 3.0)], "kid")


def test_a_setting_that_is_off_says_so_and_the_file_has_all_digits(tmp_path: Path) -> None:
    rows = trials.table([trial("on", 1 / 3, ema=5000), trial("off", 2.0, ema=None)])
    trials.write_csv(tmp_path / "trials.csv", rows)
    read = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert [(row["trial"], row["ema"]) for row in read] == [("on", "5000"), ("off", "off")]
    assert float(read[0]["val fid"]) == 1 / 3


@pytest.mark.parametrize(
    ("run", "place"), [("digits-gan", "gan.lr"), ("mnist-vae", "vae.lr"), ("digits-vae", "runs.digits-vae.lr")]
)
def test_without_a_training_the_error_says_what_was_left_out_and_names_the_runs_own_setting(
    run: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = ["able-cat: left out: it failed (dvc queue status)", "old-dog: left out: it waits in the queue"]
    monkeypatch.setattr(experiments, "from_experiments", lambda *_: ([], notes))
    monkeypatch.chdir(ROOT)
    with pytest.raises(GenlibError) as raised:
        trials.of_run(run, "HEAD")
    example = f"dvc exp run --queue -S {place}=2e-4 train@{run}"
    assert str(raised.value) == "; ".join([f"{run}: no experiment on HEAD trained it", example, *notes])


def test_an_experiment_of_dvc(tmp_path: Path) -> None:
    project = finished()[0].copy(tmp_path)
    command = (sys.executable, "-m", "stages.trials", "digits-gan", "--csv", "tried.csv")
    said = project.call(*command, status=1)
    assert (
        "error: digits-gan: no experiment on HEAD trained it; dvc exp run --queue -S gan.lr=2e-4 train@digits-gan"
        in said
    )

    project.dvc("exp", "run", "--name", "faster", "-S", "gan.lr=0.0005", "-S", "seed=3", "train@digits-gan")
    history = list(csv.DictReader((project.folder / "runs/demo/digits-gan/training/history.csv").open()))
    said = project.call(*command)
    (row,) = csv.DictReader((project.folder / "tried.csv").open())
    assert (row["trial"], row["seed"], row["epochs"], row["best epoch"]) == ("faster", "3", "1", "1")
    assert float(row["val fid"]) == float(history[0]["val_fid"])
    assert "faster" in said
    assert "1 rows in tried.csv" in said

    said = project.call(sys.executable, "-m", "stages.trials", "digits-gann", status=1)
    assert "digits-gan" in said
