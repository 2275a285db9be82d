"""Stage evaluate: a trained model in numbers, on the test split."""

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from genlib import device, evaluation, features, models, params, tracking
from genlib.claims import claimed_output
from genlib.data.arrays import open_array, open_card, open_split
from genlib.evaluation import inception
from genlib.files import digest, write_json
from genlib.settings import EvaluateSettings
from stages.command import run


def main(
    model: Annotated[Path, typer.Argument(help="Model file of a run.")],
    samples: Annotated[Path, typer.Option(help="Array of its samples, uint8 N C H W.")],
    data: Annotated[Path, typer.Option(help="Folder of the processed dataset.")],
    network: Annotated[Path, typer.Option(help="Weights of the measuring network.")],
    out: Annotated[Path, typer.Option(help="JSON with everything to write.")],
    metrics: Annotated[Path, typer.Option(help="Flat JSON with the headline numbers to write.")],
) -> None:
    """Measure samples and reconstructions against the test split."""
    tracking.check()
    with params.steady(lambda everything: (everything.evaluate, everything.threads)) as (settings, threads):
        on = device.choose(threads)
        trained, measuring = models.load(model, on), features.load(network, on)
        train, test, card = open_split(data, "train"), open_split(data, "test"), open_card(data)
        images = open_array(samples, f"sample@{trained.run}", np.uint8, 4)
        with claimed_output(metrics):
            standard = _standard(settings, on)
            found = evaluation.evaluate(trained, images, train, test, card, measuring, settings, standard)
            write_json(out, found.everything)
            write_json(metrics, found.metrics)
    numbers = found.metrics
    if found.warning is not None:
        print(f"warning: {trained.run}: {found.warning}", file=sys.stderr)
    names = {"dataset": trained.settings.dataset, "model": trained.settings.model}
    with tracking.resume_run(trained.settings.lane, trained.run, **names, model_sha256=digest(model)) as tracker:
        tracker.log_metrics({f"test/{name}": value for name, value in numbers.items()}, step=0)
    print(f"{trained.run}: " + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()))


def _standard(settings: EvaluateSettings, on: torch.device) -> inception.Inception | inception.Unavailable | None:
    """Inception's features, if params.yaml asks for them."""
    if settings.features != "inception":
        return None
    found = inception.find_weights()
    return found if isinstance(found, inception.Unavailable) else inception.load(found, on)


if __name__ == "__main__":
    run(main)
