"""Stage sample: images drawn from a trained model, and its figures."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from genlib import device, gallery, models, params, tracking
from genlib.data.arrays import open_card, open_split
from genlib.files import digest, staged_file, staged_folder
from stages.command import run


def main(
    model: Annotated[Path, typer.Argument(help="Model file of a run.")],
    log: Annotated[Path, typer.Option(help="Folder that the train stage wrote.")],
    data: Annotated[Path, typer.Option(help="Folder of the processed dataset.")],
    samples: Annotated[Path, typer.Option(help="Array of samples to write, uint8 N C H W.")],
    figures: Annotated[Path, typer.Option(help="Folder of figures to write.")],
) -> None:
    """Draw images for evaluation and every picture of a trained model."""
    settings = params.load().sample
    trained = models.load(model, device.choose())
    train, heldout, classes = open_split(data, "train"), open_split(data, "val"), open_card(data)["classes"]
    images = trained.sample(settings.images, trained.seed).numpy()
    with staged_folder(figures) as folder:
        gallery.draw(trained, images, log, train, heldout, classes, settings, folder)
        count = len(list(folder.iterdir()))
    with staged_file(samples) as partial, partial.open("wb") as file:
        np.save(file, images)
    names = {"dataset": trained.settings.dataset, "model": trained.settings.model}
    with tracking.resume_run(trained.settings.lane, trained.run, **names, model_sha256=digest(model)) as tracker:
        tracker.log_figures(figures, step=0)
    print(f"{trained.run}: {len(images):,} samples in {samples}, {count} figures in {figures}")


if __name__ == "__main__":
    run(main)
