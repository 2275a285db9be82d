"""Stage evaluate: a trained model in numbers, on the test split."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from genlib import device, evaluation, features, models, params, tracking
from genlib.data.arrays import open_array, open_card, open_split
from genlib.files import digest, write_json
from stages.command import run


def main(
    model: Annotated[Path, typer.Argument(help="Model file of a run.")],
    samples: Annotated[Path, typer.Option(help="Array of its samples.")],
    data: Annotated[Path, typer.Option(help="Folder of the processed dataset.")],
    network: Annotated[Path, typer.Option(help="Weights of the measuring network.")],
    out: Annotated[Path, typer.Option(help="JSON with everything to write.")],
    metrics: Annotated[Path, typer.Option(help="Flat JSON with the headline numbers to write.")],
) -> None:
    """Measure samples and reconstructions against the test split."""
    settings = params.load().evaluate
    on = device.choose()
    trained, measuring = models.load(model, on), features.load(network, on)
    train, test, card = open_split(data, "train"), open_split(data, "test"), open_card(data)
    images = open_array(samples, f"sample@{trained.run}", np.uint8, 4)
    numbers, details = evaluation.of_samples(images, train, test, card, measuring, trained.seed, settings.covered_share)
    numbers |= evaluation.of_reconstructions(trained, train, test)
    everything = {
        "run": trained.run,
        "metrics": numbers,
        **details,
        "dataset": card,
    }
    write_json(out, everything)
    write_json(metrics, numbers)
    names = {"dataset": trained.settings.dataset, "model": trained.settings.model}
    with tracking.resume_run(trained.settings.lane, trained.run, **names, model_sha256=digest(model)) as tracker:
        tracker.log_metrics({f"test/{name}": value for name, value in numbers.items()}, step=0)
    print(f"{trained.run}: " + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()))


if __name__ == "__main__":
    run(main)
