"""Stage train: one run, from processed arrays to a model file."""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from genlib import checkpoint, device, features, launch, models, objectives, params, training
from genlib.data.arrays import open_card, open_split
from genlib.errors import GenlibError
from genlib.figures.grids import grid
from genlib.files import digest, write_json
from genlib.settings import RunSettings
from genlib.tracking import MODEL_TAG, Tracker, new_run
from genlib.training import history, judging
from genlib.training.distributed import Team
from stages.command import run


def main(
    name: Annotated[str, typer.Argument(metavar="RUN", help="A run of params.yaml, such as mnist-vae.")],
    data: Annotated[Path, typer.Option(help="Folder of the processed dataset.")],
    network: Annotated[Path, typer.Option(help="Weights of the measuring network; read for models that are judged.")],
    model: Annotated[Path, typer.Option(help="Model file to write.")],
    log: Annotated[
        Path,
        typer.Option(help="Folder to write history and architecture to; its steps are counted in training images."),
    ],
    provenance: Annotated[Path, typer.Option(help="JSON to write: what may differ between equal runs.")],
    work: Annotated[Path, typer.Option(help="Folder for states to resume from.")] = Path(".work"),
) -> None:
    """Train a run. A stopped training goes on from its last epoch."""
    graph = device.allows_graphs(os.environ)
    processes = launch.process_count(os.environ)
    if processes == 1:
        with launch.joined(os.environ) as team:
            _train(team, graph, name, data, network, model, log, provenance, work)
        return
    everything = params.load()
    Team(size=processes).check(everything.run(name).batch_size)
    launch.check_device(processes, device.choose(everything.threads))
    launch.start("stages.train", sys.argv[1:], processes)


def _train(
    team: Team, graph: bool, name: str, data: Path, network: Path, model: Path, log: Path, provenance: Path, work: Path
) -> None:
    began = time.perf_counter()
    everything = params.load()
    settings, on = everything.run(name), launch.own_device(device.choose(everything.threads), team, os.environ)
    card, train, val = open_card(data), open_split(data, "train").images, open_split(data, "val").images
    shape = (card["channels"], card["image_size"], card["image_size"])
    _check_code(name, settings, card["counts"]["train"], card["counts"]["test"])
    state = training.start(settings, everything.seed, shape, on, team, graph)
    measuring = features.load(network, on) if objectives.judged(state.objective) else None
    judged_by = None if measuring is None else measuring.sha256
    machine = card["sha256"], on, judged_by, team.size, state.graph

    def identified(now: params.Params) -> dict[str, Any]:
        return checkpoint.identity(now.run(name), now.seed, now.threads, now.progress, *machine)

    identity = identified(everything)
    if not team.first:
        with checkpoint.Keeper(work / name, identity, team) as keeper:
            list(training.run(state, train, val, everything.progress, keeper))
        return
    judge = None
    if measuring is not None:
        judge = judging.judge(measuring, card, val, everything.progress.judged, everything.seed)
    where = on if team.size == 1 else f"{team.size} processes, each on {on.type}"
    print(f"{name}: {settings.model} on {len(train):,} {settings.dataset} images, {settings.epochs} epochs, {where}")
    with (
        checkpoint.Keeper(work / name, identity, team) as keeper,
        new_run(
            settings.lane, name, dataset=settings.dataset, model=settings.model, continues=keeper.note()
        ) as tracker,
    ):
        keeper.note(tracker.run_id)
        tracker.log_params({"seed": everything.seed, **settings.model_dump(exclude={"dataset", "model"})})
        tracker.log_dataset(settings.dataset, card["sha256"]["train.npy"], "training")
        for epoch in training.run(state, train, val, everything.progress, keeper, judge):
            print(f"{name}: {training.summary(epoch, settings.epochs)}", flush=True)
            if epoch.alarm is not None:
                print(f"warning: {name}, epoch {epoch.number}: {epoch.alarm}", file=sys.stderr, flush=True)
            # A tracking server may be elsewhere; photographs of people, and what comes of them, stay on this machine.
            _track(tracker, epoch, picture=objectives.draws_from_prior(state.objective) or not card["people"])
        _check_unchanged(name, identity, identified(params.load()))
        checkpoints = (state.averaged, state.best, state.best_epoch)
        models.save(model, name, everything.seed, settings, shape, state.networks, *checkpoints)
        history.write(log, state, shape)
        told = device.provenance(on, state.seconds) | {"processes": team.size}
        write_json(provenance, told | ({"cuda_graph": state.graph} if on.type == "cuda" else {}))
        tracker.set_tags({MODEL_TAG: digest(model)})
        tracker.log_model(model, shape, int(state.history[-1]["images"]))
        keeper.discard()
    if state.best_epoch is not None:
        best, last = (state.history[epoch - 1]["val_fid"] for epoch in (state.best_epoch, state.epoch))
        print(f"{name}: best after epoch {state.best_epoch}, FID {best:.4g} on validation; last: {last:.4g}")
    print(f"{name}: {model} written after {time.perf_counter() - began:.0f} s")


def _check_code(name: str, settings: RunSettings, train: int, test: int) -> None:
    """GenlibError where `evaluate` could not measure the code in the end: it fits Gaussians to codes and to pixels."""
    most = min(train, test) - 1
    if hasattr(objectives.get(settings.model), "encode") and settings.latent_dim > most:
        raise GenlibError(
            f"runs.{name}.latent_dim: {settings.latent_dim} is more than {most}, and a code is measured on {test:,} "
            f"test images, against as many principal components of {train:,} training images; lower it, or take more"
        )


def _check_unchanged(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """GenlibError where what decides the result is not what it was when the training began.

    DVC reads params.yaml and code when a stage has ended, and would take the model for one of what they are by then.
    """
    changed = [f"runs.{name}" if key == "settings" else key for key in now if now[key] != before[key]]
    if changed:
        raise GenlibError(
            f"{name}: {', '.join(changed)}: changed in params.yaml or the code while it trained with the old; put it "
            "back, and dvc repro writes the model at once, or leave it, and dvc repro trains with the new"
        )


def _track(tracker: Tracker, epoch: training.Epoch, picture: bool) -> None:
    for row in epoch.steps:
        losses = {f"train/{loss}": value for loss, value in row.items() if loss not in ("step", "images")}
        tracker.log_metrics(losses, int(row["images"]))
    heldout = {k.replace("val_", "val/"): value for k, value in epoch.row.items() if k.startswith("val_")}
    tracker.log_metrics(heldout, epoch.images)
    if picture:
        tracker.log_image("progress", grid(epoch.picture, columns=6), epoch.images)


if __name__ == "__main__":
    run(main)
