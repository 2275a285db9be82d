"""Stage sample: images drawn from a trained model, and its pictures."""

from pathlib import Path
from typing import Annotated

import typer

from genlib import device, models, params, tracking
from genlib.claims import claimed_output
from genlib.data.arrays import open_card, open_split
from genlib.errors import GenlibError
from genlib.figures import gallery
from genlib.files import digest, staged_folder, write_array
from stages.command import run


def main(
    model: Annotated[Path, typer.Argument(help="Model file of a run.")],
    log: Annotated[Path, typer.Option(help="Folder that the train stage wrote.")],
    data: Annotated[Path, typer.Option(help="Folder of the processed dataset.")],
    samples: Annotated[Path, typer.Option(help="Array of samples to write, uint8 N C H W.")],
    figures: Annotated[Path, typer.Option(help="Folder of figures to write: none shows the dataset's images.")],
    real: Annotated[Path, typer.Option(help="Folder to write of pictures that do show them; never pushed.")],
) -> None:
    """Draw images for evaluation and every picture of a trained model.

    As many images are drawn as `sample.images` says, but no more than the test split has: FID compares equal counts.
    """
    tracking.check()
    if figures.resolve() == real.resolve():
        raise GenlibError(f"--real {real}: --figures, too; name two folders, for only one may be shown to others")
    with params.steady(lambda everything: (everything.sample, everything.threads)) as (settings, threads):
        trained = models.load(model, device.choose(threads))
        card = open_card(data)
        dataset = gallery.Data(card, open_split(data, "train"), open_split(data, "val"))
        attributes = gallery.attribute_columns(dataset, settings.attributes)
        with claimed_output(samples):
            images = trained.sample(min(settings.images, card["counts"]["test"]), trained.seed).numpy()
            with staged_folder(real) as private, staged_folder(figures) as public:
                gallery.draw(trained, images, log, dataset, attributes, settings, public, private)
                count = len([*public.iterdir(), *private.iterdir()])
            write_array(samples, images)
    names = {"dataset": trained.settings.dataset, "model": trained.settings.model}
    with tracking.resume_run(trained.settings.lane, trained.run, **names, model_sha256=digest(model)) as tracker:
        tracker.log_figures(figures, step=0)
        if not card["people"]:  # photographs of people stay on this machine; a tracking server may be elsewhere
            tracker.log_figures(real, step=0)
    print(f"{trained.run}: {len(images):,} samples in {samples}, {count} pictures in {figures} and {real}")


if __name__ == "__main__":
    run(main)
