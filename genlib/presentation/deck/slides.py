"""Which slides there are: those of the presentation that the lane has runs for, in its order."""

from collections.abc import Iterator, Mapping

from genlib.presentation.deck import concepts, datasets
from genlib.presentation.deck.blocks import Column, Deck, Slide, Table
from genlib.presentation.deck.lane import Lane, read, still
from genlib.presentation.results import Folders
from genlib.settings import RunSettings


def build(lane: str, title: str, runs: Mapping[str, RunSettings], folders: Folders) -> Deck:
    """The deck of a lane; the same inputs give the same slides.

    Args:
        lane: its name.
        title: of the first slide.
        runs: the lane's runs, in the order of params.yaml.
        folders: where their results are.

    Raises:
        GenlibError: the lane has no runs, or a file is missing or broken; names it and the stage that writes it.
    """
    found = read(lane, title, runs, folders)
    people = list(dict.fromkeys(run.card.title for run in found.runs if run.card.people))
    return Deck(lane, title, people, list(_all(found)))


def _all(lane: Lane) -> Iterator[Slide]:
    yield _opening(lane)
    if lane.of("ae"):
        yield concepts.autoencoder(lane, lane.of("ae")[0])
    if lane.of("vae"):
        yield from concepts.vae(lane, lane.of("vae")[0])
    if lane.of("gan"):
        yield from concepts.gan(lane)
    for name in lane.datasets:
        yield from datasets.dataset(lane, name)
    if any(name in datasets.ROWS for name in lane.datasets):
        yield _future(lane)


def _opening(lane: Lane) -> Slide:
    drawn = [*lane.of("vae"), *lane.of("gan")] or lane.runs
    shown = [run for run in drawn if run.settings.latent_dim != 2] or drawn
    picked = {run.name: run for run in (shown[0], lane.first("gan") or shown[0], shown[-1])}.values()
    columns = [Column([still(run, "samples.png", f"{run.kind} on {run.card.title}")]) for run in picked]
    names = ", ".join(dict.fromkeys(run.card.title for run in lane.runs))
    lead = (
        f"{len(lane.runs)} trainings on {names}. Every picture and number on these slides was computed from the data; "
        f"`dvc repro present@{lane.name}` makes them again."
    )
    return Slide("start", "", "", lane.title, columns, lead, provenance=())


def _future(lane: Lane) -> Slide:
    repeated = [one for one in lane.comparisons if one.over_seeds]
    tested = " and tested (Welch)" if any(one.tested for one in repeated) else ""
    compared = (
        f"{len(lane.comparisons)} in this lane ({'; '.join(one.title for one in lane.comparisons)})"
        if lane.comparisons
        else "none in this lane yet: `python -m stages.compare`"
    )
    sizes = sorted({run.card.image_size for run in lane.runs})
    nets = sorted({run.settings.net for run in lane.of("gan")})
    rows = [
        [
            "Compare systematically, explore hyperparameters",
            "Any setting from the command line, `dvc exp run -S gan.lr=2e-4`, queued if there are many; all runs are "
            f"measured alike, with limits and spreads. Comparisons: {compared}"
            + (f", trained again with other seeds{tested}." if repeated else "."),
        ],
        [
            "More complex GAN architectures",
            "Not yet: the GANs are those of the original presentation and the DCGAN "
            f"({', '.join(nets) or 'none in this lane'}); a new one is one file in genlib/nets.",
        ],
        [
            "Higher input resolution",
            f"Here {' and '.join(str(size) for size in sizes)} pixels a side; the DCGAN can be built for 128. "
            "Nothing larger yet.",
        ],
        ["Images of any size from a latent vector (CPPN)", "Not yet."],
    ]
    return Slide(
        "future-work",
        "15",
        "Future work",
        "What was left to do, and what exists now",
        [Column([Table(["The original presentation asks for", "What there is"], rows, numbers=False)])],
    )
