"""The page: whole, offline, accessible, and clear about what is missing."""

import base64
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genlib.errors import GenlibError
from genlib.figures.animation import progress_gif
from genlib.figures.grids import grid, save_png
from genlib.files import write_json
from genlib.presentation import catalogue, text
from genlib.presentation.catalogue import Figure
from genlib.presentation.page import Folders, build
from genlib.presentation.pictures import embed
from genlib.settings import RunSettings

VOID = {"meta", "img", "source", "br", "hr", "input", "link"}
FIGURES = {
    "ae": ("samples.png", "curves.png"),
    "vae": ("samples.png", "curves.png", "progress.gif"),
    "gan": ("samples.png", "oddity.png"),
}
REAL = {"ae": ("reconstructions.png",), "vae": (), "gan": ("neighbours.png",)}


class Page(HTMLParser):
    """Collects what the tests ask about, and insists that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def row(self, start: str) -> list[str]:
        return next(row for row in self.rows if row and row[0].startswith(start))


def read(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def pictures(folder: Path, names: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    for name in names:
        images = rng.integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)
        if name.endswith(".gif"):
            progress_gif(np.stack([images, images[::-1]]), [0, 100], folder / name, columns=3)
        else:
            save_png(grid(images, 3), folder / name)


def write_run(folders: Folders, run: str, model: str, metrics: dict[str, float]) -> None:
    training = folders.runs / run / "training"
    layer = {"name": "0", "type": "Linear", "detail": "64 outputs <&>", "output": [64], "parameters": 4160}
    network = {"name": "encoder", "parameters": 4160, "input": [1, 8, 8], "output": [64], "layers": [layer]}
    write_json(training / "architecture.json", {"networks": [network]})
    write_json(training / "settings.json", {"seed": 7, "model": model, "lr": 1e-4, "ema_halflife_images": None})
    (training / "history.csv").write_text("epoch,images,train_generation\n1,600,3.5\n2,1200,2.5\n")
    provenance: dict[str, Any] = {"commit": "0123456789abcdef", "dirty": True, "date": "2025-03-09T10:00:00+00:00"}
    provenance |= {"hardware": "2 CPU cores", "device": "cpu", "torch": "2.11", "python": "3.11", "threads": 2}
    write_json(training / "provenance.json", provenance | {"seconds": 200.4})
    yardstick = {"features": "classifier trained on toy", "classifier_test_accuracy": 0.992, "samples": 600}
    yardstick |= {"classifier_test_baseline": None, "ceiling": "300 draws"}
    yardstick |= {"reference": "test split, 300 images", "floor": "300 others", "dimensions": 64}
    shares = {"cat": 0.954, "dog": 0.046}
    everything = {"measured_with": yardstick, "class_shares": shares, "kl": 0.5, "dataset": dataset_card("toy")}
    write_json(folders.runs / run / "evaluation.json", everything)
    write_json(folders.metrics / f"{run}.json", metrics)
    pictures(folders.runs / run / "figures", FIGURES[model])
    pictures(folders.runs / run / "real", ("data.png", *REAL[model]))


def dataset_card(name: str) -> dict[str, Any]:
    file = {"name": "train.gz", "bytes": 9912422, "sha256": "ab" * 32, "source": "mirror", "verified": "content"}
    card: dict[str, Any] = {"dataset": name, "origin": {"dataset": name, "files": [file]}, "image_size": 8}
    card |= {"channels": 1, "classes": ["cat", "dog"], "counts": {"train": 600, "val": 100, "test": 300}}
    card |= {"class_counts": {"train": [310, 290], "val": [51, 49], "test": [150, 150]}, "mean": [0.13], "std": [0.3]}
    card |= {"crop": None, "resize": None, "split_rule": "the last 100 of MNIST", "sha256": {}}
    card |= {"people": False, "edition": None, "labels": "classes", "people_counts": None}
    return card


def settings(dataset: str, model: str) -> RunSettings:
    return RunSettings(
        lane="demo", dataset=dataset, features=dataset, model=model, net="deck28", latent_dim=2, width=8, epochs=2,
        batch_size=4, flip=False, lr=0.1, ema_halflife_images=None, precision="float32",
    )  # fmt: skip


Lane = tuple[dict[str, RunSettings], Folders]


RUNS = {
    "toy-ae": {"fid": 90.0, "fid_floor": 1.25, "fid_ceiling": 120.5, "recon_psnr": 20.0},
    "toy-vae": {"fid": 12.3456, "fid_floor": 1.25, "min_class_share": 0.0456},
    "toy-gan": {"fid": 8.0, "fid_floor": 1.25, "min_class_share": 0.031, "novelty": 1234567},
}


def folders_in(root: Path) -> Folders:
    return Folders(root / "runs" / "demo", root / "metrics" / "demo")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("written")
    for run, numbers in RUNS.items():
        write_run(folders_in(root), run, run.removeprefix("toy-"), numbers)
    return root


@pytest.fixture
def lane(written: Path, tmp_path: Path) -> Lane:
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return {run: settings("toy", run.removeprefix("toy-")) for run in RUNS}, folders_in(tmp_path)


def page(lane: Lane) -> Page:
    return read(build("demo", "The <demo>", *lane))


def test_whole_and_offline(lane: Lane) -> None:
    html = build("demo", "The <demo>", *lane)
    assert html.lstrip().startswith("<!DOCTYPE html>")
    parsed = read(html)
    assert not parsed.of("script")
    assert not parsed.of("link")
    for _, attributes in parsed.tags:
        for key in ("src", "href", "srcset"):
            assert (attributes.get(key) or "data:").startswith(("data:", "#"))
    assert "url(" not in html
    assert "@import" not in html


def test_every_picture_is_inside_and_described(lane: Lane) -> None:
    images = page(lane).of("img")
    alts = [image["alt"] or "" for image in images]
    assert len(images) == 1 + 4 + sum(len(names) for names in (*FIGURES.values(), *REAL.values()))
    for image in images:
        assert len(image["alt"] or "") > 10
        head, _, body = (image["src"] or "").partition(";base64,")
        assert head in ("data:image/png", "data:image/gif")
        assert base64.b64decode(body, validate=True)[:4] in (b"\x89PNG", b"GIF8")
        assert (image["width"], image["height"]) != (None, None)
    assert "oddity.png of the run toy-gan." in alts
    assert any(alt.startswith("Samples of the run toy-vae") for alt in alts)


def test_animation_has_a_still_last_frame(lane: Lane, tmp_path: Path) -> None:
    sources = page(lane).of("source")
    assert [source["media"] for source in sources] == ["print, (prefers-reduced-motion: reduce)"]
    still = tmp_path / "still.png"
    still.write_bytes(base64.b64decode((sources[0]["srcset"] or "").partition(",")[2]))
    with Image.open(lane[1].runs / "toy-vae/figures/progress.gif") as gif, Image.open(still) as last:
        gif.seek(1)
        assert np.array_equal(np.asarray(gif.convert("RGB")), np.asarray(last))


def test_anchors_lead_somewhere(lane: Lane) -> None:
    parsed = page(lane)
    names = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(names) == len(set(names))
    assert {(link["href"] or "").removeprefix("#") for link in parsed.of("a")} <= set(names)


def test_comparison(lane: Lane) -> None:
    html = build("demo", "The <demo>", *lane)
    parsed = read(html)
    assert parsed.row("Measure")[1:] == ["toy-ae", "toy-vae", "toy-gan"]
    assert parsed.row("FID")[1:] == ["90 floor 1.25, ceiling 120.5", "12.35 floor 1.25", "8 floor 1.25"]
    assert parsed.row("Rarest class (%)")[1:] == ["\u2013", "4.6", "3.1"]
    assert parsed.row("novelty")[1:] == ["\u2013", "\u2013", "1,234,567"]
    assert not any(row and row[0].startswith(("fid_floor", "fid_ceiling")) for row in parsed.rows)
    assert '<td class="n best">8<small> floor 1.25</small></td>' in html
    assert '<td class="n best">4.6</td>' in html
    assert " ".join(parsed.texts).count("(floor 1.25)") == 3
    assert " ".join(parsed.texts).count("(floor 1.25, ceiling 120.5)") == 1
    assert '<td class="n">20</td>' in html  # alone in its row, so not called the best


def test_dataset_and_run_facts(lane: Lane) -> None:
    parsed = page(lane)
    said = " ".join(" ".join(parsed.texts).split())
    assert parsed.row("training") == ["training", "310", "290", "600"]
    assert parsed.row("train.gz") == [
        "train.gz", "9.9 MB", "a mirror", "content equals the official file's (packed again)", "abababababab…",
    ]  # fmt: skip
    assert parsed.row("Linear64 outputs <&>") == ["Linear64 outputs <&>", "64", "4,160"]
    assert parsed.row("lr") == ["lr", "1.0e-04"]
    assert parsed.row("ema_halflife_images") == ["ema_halflife_images", "off"]
    assert parsed.row("measured_with.features") == ["measured_with.features", "classifier trained on toy"]
    assert parsed.row("kl") == ["kl", "0.5"]
    assert [row for row in parsed.rows if row[0] == "toy-gan"] == [["toy-gan", "95.4", "4.6"]]
    assert said.count("600 samples of each model are held against the test split, 300 images") == 1
    assert "(99.2% right on test images): such FIDs" in said
    assert "Floor: 300 others. Ceiling: 300 draws." in said
    assert "The last 100 of MNIST. Crop: none; resize: none." in said
    assert "in 2 classes" in said
    assert "real people" not in said
    assert "Trained for 2 epochs, 1,200 images seen, in 3 min 20 s." in said
    assert "Trained on 2025-03-09 with commit 0123456789ab and uncommitted changes" in said
    assert "seed 7" in said


def test_every_figure_of_the_gallery_has_words() -> None:
    source = (Path(__file__).resolve().parent.parent / "genlib/gallery.py").read_text()
    drawn = set(re.findall(r'"(\w+\.(?:png|gif))"', source))
    assert len(drawn) > 12
    assert drawn == catalogue.FIGURES.keys()


def test_same_inputs_same_page(lane: Lane) -> None:
    assert build("demo", "t", *lane) == build("demo", "t", *lane)


def test_titles_are_escaped(lane: Lane) -> None:
    assert "<demo>" not in build("demo", "The <demo>", *lane)


def test_lane_without_autoencoder_has_no_such_comparison(lane: Lane) -> None:
    runs, folders = lane
    html = build("demo", "t", {"toy-gan": runs["toy-gan"]}, folders)
    titles = " ".join(read(html).texts)
    assert "Results side by side" in titles
    assert "VAE beside GAN" not in titles
    assert "beside VAE" not in titles


@pytest.mark.parametrize(
    ("missing", "stage"),
    [
        ("runs/demo/toy-vae/training/architecture.json", "train@toy-vae"),
        ("runs/demo/toy-vae/training/settings.json", "train@toy-vae"),
        ("runs/demo/toy-gan/training/history.csv", "train@toy-gan"),
        ("runs/demo/toy-ae/training/provenance.json", "train@toy-ae"),
        ("runs/demo/toy-ae/evaluation.json", "evaluate@toy-ae"),
        ("metrics/demo/toy-gan.json", "evaluate@toy-gan"),
        ("runs/demo/toy-ae/figures/samples.png", "sample@toy-ae"),
        ("runs/demo/toy-ae/real/data.png", "sample@toy-ae"),
    ],
)
def test_missing_file_is_named_with_its_stage(lane: Lane, tmp_path: Path, missing: str, stage: str) -> None:
    (tmp_path / missing).unlink()
    with pytest.raises(GenlibError) as caught:
        build("demo", "t", *lane)
    assert missing in str(caught.value)
    assert stage in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("broken", "content", "said"),
    [
        ("metrics/demo/toy-gan.json", '{"fid": "low"}', "'low' is not a number"),
        ("metrics/demo/toy-gan.json", "[1]", "not a mapping"),
        ("runs/demo/toy-ae/evaluation.json", '{"dataset": {"dataset": "toy"}}', "origin"),
        ("runs/demo/toy-ae/training/provenance.json", "{", "not valid JSON"),
        ("runs/demo/toy-ae/training/history.csv", "epoch,images\n", "no row"),
        ("runs/demo/toy-ae/training/history.csv", "epoch,images\n1,many\n", "not all numbers"),
        ("runs/demo/toy-ae/real/reconstructions.png", "<html>", "not a picture"),
    ],
)
def test_broken_file_is_named(lane: Lane, tmp_path: Path, broken: str, content: str, said: str) -> None:
    (tmp_path / broken).write_text(content)
    with pytest.raises(GenlibError) as caught:
        build("demo", "t", *lane)
    assert Path(broken).name in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_empty_lane(lane: Lane) -> None:
    with pytest.raises(GenlibError, match="no run has lane: demo"):
        build("demo", "t", {}, lane[1])


def test_stage_needs_no_torch() -> None:
    forbidden = ["torch", "torchvision", "mlflow", "matplotlib", "scipy"]
    code = f"import stages.present, sys, json; print(json.dumps([m for m in {forbidden!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (55000, "55,000"), (55000.0, "55,000"), (0, "0"), (1234.56, "1,235"), (-104.271, "-104.3"), (0.0213, "0.0213"),
        (0.00003123, "3.1e-05"), (999.96, "1000"), (None, "off"), (True, "yes"), ([1, 2.5], "1, 2.5"), ("relu", "relu"),
        (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_values(value: Any, shown: str) -> None:
    assert text.value(value) == shown


def test_sizes_durations_shapes() -> None:
    assert [text.size(n) for n in (999, 1000, 9912422, 1443490838)] == ["999 bytes", "1.0 kB", "9.9 MB", "1.4 GB"]
    assert [text.duration(s) for s in (41.6, 200.4, 7500)] == ["42 s", "3 min 20 s", "2 h 5 min"]
    assert text.shape([1, 28, 28]) == "1 \u00d7 28 \u00d7 28"
    assert text.shape([]) == "one number"
    with pytest.raises(GenlibError, match="not an ISO date"):
        text.date("yesterday")


def change_evaluations(lane: Lane, **changes: Any) -> None:
    """Set keys of every run's evaluation; those of `dataset` and `measured_with` one by one."""
    runs, folders = lane
    for run in runs:
        path = folders.runs / run / "evaluation.json"
        everything = json.loads(path.read_text())
        for key, value in changes.items():
            everything[key] = everything[key] | value if key in ("dataset", "measured_with") else value
        write_json(path, everything)


FACES = {"dataset": "celeba", "people": True, "labels": "attributes", "classes": ["Smiling", "Wearing_Hat"]}
FACES |= {"class_counts": {"train": [300, 30], "val": [40, 2], "test": [120, 20]}, "channels": 3}
FACES |= {"people_counts": {"train": 80, "val": 11, "test": 33}, "edition": "1,000 of the 202,599 images, halved"}


def test_faces_with_attributes(lane: Lane) -> None:
    shares = {"Smiling": {"samples": 0.5, "test": 0.41}, "Wearing_Hat": {"samples": 0.021, "test": 0.067}}
    accuracy = {"Smiling": {"accuracy": 0.9, "baseline": 0.6}, "Wearing_Hat": {"accuracy": 0.95, "baseline": 0.933}}
    yardstick = {"classifier_test_accuracy": 0.925, "classifier_test_baseline": 0.766}
    change_evaluations(
        lane, dataset=FACES, class_shares={}, attribute_shares=shares, attribute_accuracy=accuracy,
        measured_with=yardstick,
    )  # fmt: skip
    for run in lane[0]:
        path = lane[1].metrics / f"{run}.json"
        path.write_text(json.dumps({"fid": 9.5, "attribute_gap": 0.0685, "attribute_gap_floor": 0.0104}))
    parsed = page(lane)
    said = " ".join(" ".join(parsed.texts).split())
    assert "This page shows photographs of real people from CelebA" in said
    assert said.count("1,000 of the 202,599 images, halved.") == 1 + 1 + len(RUNS)  # the data, the table, each run
    assert "colour, each with 2 attributes." in said
    assert parsed.row("training") == ["training", "600", "80"]
    assert parsed.row("Split") == ["Split", "images", "people"]
    smiling, judged = [row for row in parsed.rows if row[0] == "Smiling"]
    assert smiling == ["Smiling", "50.0", "90.0", "60.0"]  # share, accuracy, baseline
    assert judged == ["Smiling", "41.0", "50.0", "50.0", "50.0"]  # test images, then the runs
    assert parsed.row("Wearing Hat") == ["Wearing Hat", "5.0", "95.0", "93.3"]
    assert parsed.row("Attribute gap (%)")[1:] == ["6.9 floor 1.0"] * 3
    assert "(92.5% right on test images, where the commoner answers alone are 76.6% right): such FIDs" in said
    assert "Classes of the samples" not in said


def test_faces_with_names(lane: Lane) -> None:
    """LFW: no classes to show, and a network that was trained on another dataset."""
    nothing: dict[str, Any] = {"train": [], "val": [], "test": []}
    faces = FACES | {"dataset": "lfw", "labels": "people", "classes": [], "class_counts": nothing, "edition": None}
    yardstick = {"classifier_test_accuracy": None, "features": "classifier of celeba's 40 attributes"}
    change_evaluations(lane, dataset=faces, class_shares={}, measured_with=yardstick)
    parsed = page(lane)
    said = " ".join(" ".join(parsed.texts).split())
    assert "photographs of real people from LFW" in said
    assert "a classifier of celeba's 40 attributes, which was trained on another dataset: such FIDs" in said
    assert parsed.row("test") == ["test", "300", "33"]
    assert "attributes. Training" not in said
    assert "Its attributes" not in said


def noise_picture(path: Path, side: int, frames: int) -> None:
    """Coarse coloured shapes, as an embedded picture may be: many bytes as PNG and GIF."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (frames, side // 8, side // 8, 3), dtype=np.uint8)
    smooth = [Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC) for frame in coarse]
    if frames == 1:
        smooth[0].save(path)
    else:
        smooth[0].save(path, save_all=True, append_images=smooth[1:], duration=[70] * (frames - 1) + [2000], loop=0)


@pytest.mark.parametrize(("name", "frames"), [("real/neighbours.png", 1), ("figures/progress.gif", 3)])
def test_large_pictures_are_embedded_smaller(name: str, frames: int, lane: Lane, tmp_path: Path) -> None:
    path = lane[1].runs / "toy-gan" / name
    noise_picture(path, 400, frames)
    original = path.read_bytes()
    assert len(original) > 150_000
    picture = embed(path, Figure("Title", ""), "of a test")
    head, _, body = picture.uri.partition(";base64,")
    data = base64.b64decode(body)
    assert head == "data:image/webp"
    assert len(data) < 0.7 * len(original)
    with Image.open(BytesIO(data)) as shown, Image.open(path) as full:
        assert (shown.size, getattr(shown, "n_frames", 1)) == (full.size, frames)
        durations = []
        for index in range(frames):
            shown.seek(index)
            full.seek(index)
            shown.load()
            durations.append(shown.info.get("duration"))
            pixels = np.asarray(shown.convert("RGB")).astype(int)
            assert np.abs(pixels - np.asarray(full.convert("RGB"))).mean() < 12
    if frames > 1:
        assert durations == [70, 70, 2000]
        assert (picture.still or "").startswith("data:image/")
    assert path.read_bytes() == original
    assert embed(path, Figure("Title", ""), "of a test") == picture


def test_plain_grids_stand_side_by_side(lane: Lane) -> None:
    path = lane[1].runs / "toy-gan/real/neighbours.png"
    noise_picture(path, 800, 1)
    assert embed(path, Figure("t", ""), "").wide
    assert not embed(path, Figure("t", "", plain=True), "").wide


def test_departures_from_the_presentation_are_said(lane: Lane, tmp_path: Path) -> None:
    change_evaluations(lane, dataset={"image_size": 28})
    path = tmp_path / "runs/demo/toy-vae/training/settings.json"
    trained = {"seed": 7, "model": "vae", "net": "deck28", "width": 32}
    path.write_text(json.dumps(trained | {"output": "sigmoid"}))
    assert "Differs from what the presentation states: output sigmoid (stated: relu)." in build("demo", "t", *lane)
    path.write_text(json.dumps(trained | {"output": "relu"}))
    assert "Differs from what the presentation states" not in build("demo", "t", *lane)
    path.write_text(json.dumps(trained | {"output": "sigmoid"}))
    change_evaluations(lane, dataset={"image_size": 64})  # of which it states nothing
    assert "Differs from what the presentation states" not in build("demo", "t", *lane)


def test_a_denoising_autoencoder_is_called_so(lane: Lane, tmp_path: Path) -> None:
    path = tmp_path / "runs/demo/toy-ae/training/settings.json"
    path.write_text(json.dumps({"seed": 7, "model": "ae", "noise": 0.5}))
    assert "denoising autoencoder" in build("demo", "t", *lane)
