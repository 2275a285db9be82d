"""The slides: which there are and in which order, what they say where something is missing, and both renderings."""

import json
import re
import shutil
import zipfile
from base64 import b64decode
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from lanes import RUNS, TRAINED, Lane, folders_in, settings, trained_lane, trained_settings, write_run
from PIL import Image
from pptx import Presentation
from safetensors.numpy import load_file

from genlib import models
from genlib.errors import GenlibError
from genlib.files import write_json
from genlib.presentation import site
from genlib.presentation.deck import decoder, html, plots, pptx, slides
from genlib.presentation.deck.blocks import (
    Bars,
    Block,
    Chart,
    Column,
    Deck,
    Explorer,
    Film,
    Missing,
    Moves,
    Series,
    Slide,
    Still,
    Yardstick,
)
from genlib.presentation.deck.lane import diagram
from genlib.presentation.results import Architecture, Layer, Network
from genlib.settings import RunSettings

Lanes = dict[str, RunSettings]


@pytest.fixture
def lane(tmp_path: Path) -> Lane:
    """Trained runs, to be spoiled."""
    shutil.copytree(trained_lane(), tmp_path, dirs_exist_ok=True)
    return {run: trained_settings(run) for run in TRAINED}, folders_in(tmp_path)


@pytest.fixture(scope="module")
def deck() -> Deck:
    return slides.build(
        "demo", "The <demo>", {run: trained_settings(run) for run in TRAINED}, folders_in(trained_lane())
    )


def blocks(deck: Deck, slide: str) -> list[Block]:
    found = next(one for one in deck.slides if one.id == slide)
    return [block for column in found.columns for block in column.blocks]


def missing(deck: Deck) -> dict[str, Missing]:
    """The first thing missing on each slide that lacks something."""
    found = {one.id: [block for block in blocks(deck, one.id) if isinstance(block, Missing)] for one in deck.slides}
    return {name: absent[0] for name, absent in found.items() if absent}


def test_a_slide_for_each_of_the_presentation_in_its_order(deck: Deck) -> None:
    rows = [slide.row for slide in deck.slides]
    assert list(dict.fromkeys(rows)) == ["", *map(str, range(1, 13)), "13\u201314", "15"]
    assert len({slide.id for slide in deck.slides}) == len(deck.slides)
    assert missing(deck) == {}


def test_results_say_where_they_come_from(deck: Deck) -> None:
    silent = [slide.id for slide in deck.slides if not slide.provenance]
    assert silent == ["start", "future-work"]
    made = next(slide for slide in deck.slides if slide.id == "gan").provenance[0]
    assert made.run == "digits-gan"
    assert (
        "epochs 2, batch 10, lr 0.002, beta1 0.5, width 4, code 4, real label 1, dropout 0.3, slope 0.3" in made.shared
    )
    assert "seed 0; 600 training images, drawn digits from a mirror" in made.shared
    assert made.own == "commit 0123456789ab with uncommitted changes, 2 CPU cores, 2025-03-09, 3 min 20 s"


def rename(lane: Lane, names: dict[str, str]) -> Lane:
    """The same runs as if they were on other datasets: {"digits": "mnist"}."""
    runs, folders = lane
    renamed: Lanes = {}
    for run, one in runs.items():
        dataset = names[one.dataset]
        name = run.replace(one.dataset, dataset)
        shutil.move(folders.runs / run, folders.runs / name)
        shutil.move(folders.metrics / f"{run}.json", folders.metrics / f"{name}.json")
        path = folders.runs / name / "evaluation.json"
        everything = json.loads(path.read_text())
        everything["dataset"] |= {"dataset": dataset}
        write_json(path, everything)
        renamed[name] = one.model_copy(update={"dataset": dataset})
    return renamed, folders


def test_the_presentations_own_datasets(lane: Lane) -> None:
    runs, folders = rename(lane, {"digits": "mnist", "faces": "celeba"})
    for run in ("lfw-vae", "lfw-gan"):
        same = run.replace("lfw", "celeba")
        shutil.copytree(folders.runs / same, folders.runs / run)
        shutil.copy(folders.metrics / f"{same}.json", folders.metrics / f"{run}.json")
        runs[run] = runs[same].model_copy(update={"dataset": "lfw"})
    for run, dataset in (("lfw-vae", "lfw"), ("lfw-gan", "lfw"), ("celeba-vae", "celeba"), ("celeba-gan", "celeba")):
        path = folders.runs / run / "evaluation.json"
        everything = json.loads(path.read_text())
        everything["dataset"] |= {"dataset": dataset, "people": True, "edition": f"1,000 of {dataset}"}
        write_json(path, everything)
    order = [*(run for run in runs if run.startswith("mnist")), "lfw-vae", "lfw-gan", "celeba-vae", "celeba-gan"]
    deck = slides.build("demo", "t", {run: runs[run] for run in order}, folders)
    assert list(dict.fromkeys(slide.row for slide in deck.slides)) == ["", *map(str, range(1, 16))]
    assert deck.people == ["LFW", "CelebA"]
    text = html.render(deck, "a.pptx", "r.html")
    assert "photographs of real people or private pictures from LFW and CelebA" in text
    for name in ("celeba-data", "celeba-results", "celeba-four-points"):
        assert next(one for one in deck.slides if one.id == name).notices[0] == "CelebA: 1,000 of celeba."
    assert "VAE after 2 epochs" in text


def test_the_stated_activation_stands_beside_the_chosen_one(lane: Lane) -> None:
    runs, folders = lane
    shutil.copytree(folders.runs / "digits-vae", folders.runs / "digits-vae-relu")
    shutil.copy(folders.metrics / "digits-vae.json", folders.metrics / "digits-vae-relu.json")
    runs["digits-vae-relu"] = runs["digits-vae"].model_copy(update={"output": "relu"})
    deck = slides.build("demo", "t", runs, folders)
    (said,) = next(slide for slide in deck.slides if slide.id == "digits-vae-architecture").notices[1:]
    assert said.startswith("Measured by the last activation: sigmoid FID 12.00")
    assert "; relu FID 12.00" in said
    assert "(digits-vae-relu)" in said


def test_a_lane_of_ones_own_has_no_slides_of_others(lane: Lane) -> None:
    runs, folders = rename(lane, {"digits": "stamps", "faces": "coins"})
    deck = slides.build("mine", "Mine", {"stamps-vae": runs["stamps-vae"]}, folders)
    named = [slide.id for slide in deck.slides]
    assert "gan" not in named
    assert "future-work" not in named
    assert {"stamps-data", "stamps-vae-architecture", "stamps-results", "stamps-numbers"} <= set(named)
    assert missing(deck).keys() == {"vae", "latent-space"}
    assert "`latent_dim: 2`; then `dvc repro present@mine`" in missing(deck)["latent-space"].remedy


ABSENT = [
    ("digits-gan/figures/alternation.json", "who-moves-when", "sample@digits-gan"),
    ("digits-vae/figures/gradient_variance.json", "reparameterization", "sample@digits-vae"),
    ("digits-vae-2d/figures/manifold.png", "latent-space", "sample@digits-vae-2d"),
    ("digits-vae-2d/figures/codes.gif", "latent-space", "sample@digits-vae-2d"),
    ("digits-vae-2d/model.safetensors", "explorer", "train@digits-vae-2d"),
    ("digits-gan/training/progress.safetensors", "training-g", "train@digits-gan"),
    ("digits-gan/training/steps.csv", "gan", "train@digits-gan"),
    ("faces-gan/figures/training_points.png", "faces-four-points", "sample@faces-gan"),
    ("digits-dae/real/denoising.png", "autoencoder", "sample@digits-dae"),
]


def test_what_is_missing_is_said_with_the_command_that_makes_it(lane: Lane) -> None:
    for file, _, _ in ABSENT:
        (lane[1].runs / file).unlink()
    deck = slides.build("demo", "t", *lane)
    text = html.render(deck, "a.pptx", "r.html")
    for file, slide, stage in ABSENT:
        said = [block.remedy for block in blocks(deck, slide) if isinstance(block, Missing)]
        assert f"`dvc repro {stage}`" in said, file
        assert f"<code>dvc repro {stage}</code>" in text
    assert pptx.render(deck)


def test_a_lane_with_next_to_nothing(tmp_path: Path) -> None:
    """Results of an older kind, without curves and pictures of the progress."""
    folders = folders_in(tmp_path)
    for run, numbers in RUNS.items():
        write_run(folders, run, run.removeprefix("toy-"), numbers)
    runs = {run: settings("toy", run.removeprefix("toy-")) for run in RUNS}
    deck = slides.build("demo", "t", runs, folders)
    assert {"explorer", "latent-space", "gan", "who-moves-when", "training-g"} <= missing(deck).keys()
    assert pptx.render(deck)
    assert "<img" in html.render(deck, "a.pptx", "r.html")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("digits-gan/figures/alternation.json", '{"batch_size": 3}', "half_steps"),
        ("digits-vae/figures/gradient_variance.json", "[", "not valid JSON"),
        ("digits-gan/training/progress.safetensors", "no tensors", "cannot be read"),
        ("digits-vae-2d/model.safetensors", "no tensors", "not the weights of digits-vae-2d"),
        ("digits-gan/training/steps.csv", "images,d_real\n1,much\n", "not all numbers"),
        ("digits-vae-2d/figures/codes.gif", "GIF8", "not a picture"),
    ],
)
def test_a_broken_file_is_one_line(lane: Lane, file: str, content: str, said: str) -> None:
    (lane[1].runs / file).write_text(content)
    with pytest.raises(GenlibError) as caught:
        slides.build("demo", "t", *lane)
    assert Path(file).name in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_measured_moves_are_shown(deck: Deck) -> None:
    moves = [block for block in blocks(deck, "who-moves-when") if isinstance(block, Moves)]
    assert [one.title for one in moves] == ["digits-gan", "faces-gan"]
    assert list(moves[0].networks) == ["discriminator", "generator"]
    assert [who for who, _ in moves[0].half_steps] == ["discriminator", "generator"] * 3
    text = html.render(deck, "a.pptx", "r.html")
    assert text.count('<td class="held ') == text.count('<td class="moved ') == 12
    assert [html.change(value) for value in (0.0, 0.00289, 3e-9)] == ["0", "0.29%", "3e-07%"]


def test_every_gan_has_its_curves(deck: Deck) -> None:
    for name in ("gan", "gan-faces-gan"):
        charts = [block for block in blocks(deck, name) if isinstance(block, Chart)]
        assert [one.name for chart in charts for one in chart.series] == [
            "discriminator D", "generator G", "real: D(x)", "generated: D(G(z))",
        ]  # fmt: skip
        assert charts[1].limits == (0, 1)


def test_films_show_the_first_moment_to_the_last(deck: Deck) -> None:
    (film,) = (block for block in blocks(deck, "training-g") if isinstance(block, Film))
    assert (film.captions[0], film.captions[-1]) == ("0 images seen", "120 images seen")
    assert len(film.frames) == len(film.captions) > 3
    assert len(set(film.frames)) > 1


# The decoder


def test_the_decoder_is_described_with_its_weights(deck: Deck) -> None:
    (explorer,) = (block for block in blocks(deck, "explorer") if isinstance(block, Explorer))
    layers = explorer.network["layers"]
    assert [layer["type"] for layer in layers[:4]] == ["Linear", "ReLU", "Reshape", "ConvTranspose2d"]
    assert (layers[3]["kernel"], layers[3]["stride"], layers[3]["padding"]) == (3, 2, 1)
    assert explorer.network["shape"] == [1, 28, 28]
    assert len(explorer.codes) == 20
    model = models.load(folders_in(trained_lane()).runs / "digits-vae-2d/model.safetensors")
    weights = model.networks["decoder"].state_dict()
    assert sum(layer["weight"][1] + layer["bias"][1] for layer in layers if "weight" in layer) == sum(
        tensor.numel() for tensor in weights.values()
    )


def network(*layers: Layer) -> Network:
    return Network(name="decoder", parameters=10, input=(2,), output=(1, 28, 28), layers=layers)


def test_what_the_page_cannot_run_is_refused() -> None:
    odd = Layer(name="0", type="Attention", detail="", output=(4,), parameters=10)
    assert "Attention" in (decoder.refusal(network(odd)) or "")
    large = network().model_copy(update={"parameters": 3_000_000})
    assert "3,000,000 weights, too many" in (decoder.refusal(large) or "")
    assert decoder.refusal(network()) is None


def test_the_running_average_is_what_draws(tmp_path: Path) -> None:
    """Where there is one: the decoder that `genlib.models` draws with."""
    made = trained_settings("faces-gan")
    path = folders_in(trained_lane()).runs / "faces-gan"
    described = Architecture.model_validate(json.loads((path / "training/architecture.json").read_text()))
    first = described.networks[0].layers[0]
    small = Network(name="generator", parameters=1, input=(made.latent_dim,), output=first.output, layers=(first,))
    found = decoder.describe(small, path / "model.safetensors", "faces-gan")
    tensors = load_file(path / "model.safetensors")
    packed = np.frombuffer(b64decode(found["weights"]), "<f4")
    assert np.array_equal(packed, tensors["averaged.0.weight"].ravel())
    assert not np.array_equal(packed, tensors["generator.0.weight"].ravel())


# Geometry


def test_ticks_are_round_and_inside() -> None:
    assert plots.nice_ticks(0, 70_000, 4) == [0, 20_000, 40_000, 60_000]
    assert plots.nice_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert plots.log_ticks(12, 120) == [20, 30, 50, 70, 100]
    assert plots.log_ticks(0.5, 2000) == [1, 10, 100, 1000]


def test_points_lie_where_their_values_are() -> None:
    drawn = plots.plot(Chart("t", [Series("a", [0, 50, 100], [1, 10, 100])], log=True, limits=(1, 100)))
    (line,) = drawn.lines
    assert line.points[0] == (drawn.left, drawn.bottom)
    assert line.points[2] == (drawn.right, drawn.top)
    assert line.points[1] == pytest.approx(((drawn.left + drawn.right) / 2, (drawn.top + drawn.bottom) / 2))
    assert "a: from 1 to 100, between 1 and 100" in drawn.alt


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    thin = plots.thinned(Series("a", list(range(5000)), list(range(5000))))
    assert len(thin.x) <= 301
    assert (thin.x[0], thin.x[-1]) == (0, 4999)
    assert all(later > earlier for earlier, later in pairwise(thin.x))


def test_bars_on_a_logarithmic_scale() -> None:
    assert [round(bar.share, 3) for bar in plots.bars(Bars("t", {"a": 10, "b": 1000}, log=True))] == [0.333, 1.0]


@pytest.mark.parametrize(
    ("floor", "run", "ceiling", "shares"),
    [(1.0, 10.0, 100.0, [0.0749, 0.5, 0.9251]), (-0.5, 0.0, 0.5, [0.0455, 0.5, 0.9545])],
    ids=["logarithmic", "linear where something is not positive"],
)
def test_numbers_between_their_limits(floor: float, run: float, ceiling: float, shares: list[float]) -> None:
    block = Yardstick("KID", floor, ceiling, {"toy-gan": (run, str(run))}, "lower")
    marks = plots.marks(block)
    assert [mark.name for mark in marks] == ["real images", "toy-gan", "pixel Gaussian"]
    assert [mark.share for mark in marks] == pytest.approx(shares, abs=1e-4)
    shown = Deck("demo", "t", (), [Slide("a", "", "", "t", [Column([block])])])
    assert ("logarithmic scale" in html.render(shown, "a", "b")) == (floor > 0)


def test_a_diagram_puts_activations_to_their_layers() -> None:
    described = json.loads((folders_in(trained_lane()).runs / "digits-gan/training/architecture.json").read_text())
    generator = diagram(Architecture.model_validate(described).networks[0])
    assert [part.name for part in generator.parts] == ["Linear", *["ConvTranspose2d"] * 3]
    assert [part.then for part in generator.parts] == [*["batch norm, leaky ReLU 0.3"] * 3, "Tanh"]
    assert generator.parts[0].output == (16, 7, 7)
    assert sum(part.parameters for part in generator.parts) == generator.parameters


# Both renderings


def test_same_inputs_same_bytes_and_no_time_of_writing(deck: Deck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    first, second = pptx.render(deck), pptx.render(deck)
    assert first == second
    with zipfile.ZipFile(BytesIO(first)) as file:
        assert {info.date_time for info in file.infolist()} == {(2000, 1, 1, 0, 0, 0)}
        assert b"2000-01-01T00:00:00Z" in file.read("docProps/core.xml")
        books = [name for name in file.namelist() if name.endswith(".xlsx")]
        assert books
        with zipfile.ZipFile(BytesIO(file.read(books[0]))) as book:
            assert re.findall(rb"\d{4}-\d\d-\d\dT", book.read("docProps/core.xml")) == [b"2000-01-01T"] * 2
    assert html.render(deck, "a", "b") == html.render(deck, "a", "b")


def test_powerpoint_has_the_same_slides(deck: Deck) -> None:
    shown = Presentation(BytesIO(pptx.render(deck)))
    assert [page.shapes.title.text for page in shown.slides] == [slide.title for slide in deck.slides]
    width, height = shown.slide_width or 0, shown.slide_height or 0
    assert width / height == pytest.approx(16 / 9, rel=1e-3)
    for page in shown.slides:
        for shape in page.shapes:
            assert 0 <= shape.left <= shape.left + shape.width <= width, (page.shapes.title.text, shape.name)
            assert 0 <= shape.top <= shape.top + shape.height <= height, (page.shapes.title.text, shape.name)
            if shape.shape_type is not None and "PICTURE" in str(shape.shape_type):
                assert len(shape._element.nvPicPr.cNvPr.get("descr")) > 10
    assert any(shape.has_chart for page in shown.slides for shape in page.shapes)
    said = [shape.text_frame.text for page in shown.slides for shape in page.shapes if shape.has_text_frame]
    for slide in deck.slides:
        assert not slide.hint or not any(slide.hint in one for one in said)
    assert sum(bool(slide.hint) for slide in deck.slides) == 3


def test_a_large_animation_is_four_points_of_the_training_in_powerpoint(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pictures(deck: Deck) -> list[bytes]:
        shown = Presentation(BytesIO(pptx.render(deck)))
        (page,) = [
            page for page in shown.slides if page.shapes.title.text == "G learns from what D makes of its images"
        ]
        return [shape.image.blob for shape in page.shapes if "PICTURE" in str(shape.shape_type)]

    deck, figures = slides.build("demo", "t", *lane), lane[1].runs / "digits-gan/figures"
    assert pictures(deck) == [(figures / "progress.gif").read_bytes()]
    monkeypatch.setattr(pptx, "_GIF_BYTES", 0)
    assert pictures(deck) == [(figures / "training_points.png").read_bytes()]
    (figures / "training_points.png").unlink()
    (last,) = pictures(deck)
    with Image.open(BytesIO(last)) as image:
        assert image.format == "PNG"


def test_titles_are_escaped(deck: Deck) -> None:
    assert "<demo>" not in html.render(deck, "a", "b")


def test_pictures_lie_beside_the_pages_once(tmp_path: Path) -> None:
    runs = {run: trained_settings(run) for run in TRAINED}
    count = site.write(tmp_path, "demo", "t", runs, folders_in(trained_lane()))
    assert count > 20
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "results.html", "presentation.pptx", "pictures"}
    pages = [(tmp_path / name).read_text() for name in (site.DECK, site.RESULTS)]
    named = {name for text in pages for name in re.findall(r"pictures/[0-9a-f]{16}\.\w+", text)}
    assert named == {f"pictures/{path.name}" for path in (tmp_path / "pictures").iterdir()}
    for name in named:
        with Image.open(tmp_path / name) as picture:
            picture.verify()
    for text in pages:
        assert not re.search(r"(?:src|href|srcset)=\"(?:https?:|//)", text)
    twice = re.findall(r"pictures/[0-9a-f]{16}\.\w+", pages[0])
    assert len(twice) > len(set(twice))


def test_pictures_of_the_deck_have_words(deck: Deck) -> None:
    stills = [block for slide in deck.slides for block in blocks(deck, slide.id) if isinstance(block, Still | Film)]
    assert len(stills) > 12
    assert all(len(one.picture.alt if isinstance(one, Still) else one.alt) > 20 for one in stills)
