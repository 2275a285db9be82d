"""The page: whole, offline, accessible, and clear about what is missing."""

import base64
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lanes import FIGURES, REAL, RUNS, Lane, evaluation, folders_in, settings, write_run
from PIL import Image

from genlib import params
from genlib.comparison import Row, write_csv
from genlib.errors import GenlibError
from genlib.files import write_json
from genlib.presentation import catalogue, text
from genlib.presentation.catalogue import Figure
from genlib.presentation.page import build
from genlib.presentation.pictures import embed
from genlib.presentation.results import Folders
from genlib.settings import LaneSettings, RunSettings
from stages import present

VOID = {"meta", "img", "source", "br", "hr", "input", "link"}


@dataclass(frozen=True)
class Parameters:
    """What the stage asks params.yaml for."""

    members: dict[str, RunSettings]
    lanes: dict[str, LaneSettings] = field(default_factory=lambda: {"demo": LaneSettings(title="The demo")})

    def lane(self, name: str) -> dict[str, RunSettings]:
        assert name == "demo"
        return self.members


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
            beside = attributes.get(key) == "index.html"  # the slides
            assert beside or (attributes.get(key) or "data:").startswith(("data:", "#"))
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
    inside = {link["href"] or "" for link in parsed.of("a")} - {"index.html"}
    assert {link.removeprefix("#") for link in inside} <= set(names)


def test_numbers_side_by_side(lane: Lane) -> None:
    html = build("demo", "The <demo>", *lane)
    parsed = read(html)
    assert parsed.row("Measure")[1:] == ["toy-ae", "toy-vae", "toy-gan"]
    fid = parsed.row("FID")
    assert fid[0].endswith("real images 1.25, pixel Gaussian 120.5, bias 0.75")  # the same for all: said once
    assert fid[1:] == ["90.0 \u00b1\u00a01.8", "12.35 \u00b1\u00a00.25", "8.00 \u00b1\u00a00.16"]
    assert parsed.row("Rarest class (%)")[1:] == ["\u2013", "4.560 \u00b1\u00a00.091", "3.100 \u00b1\u00a00.062"]
    assert parsed.row("Rarest class (%)")[0].endswith("real images 50.0, pixel Gaussian 25.0")
    assert parsed.row("novelty")[1:] == ["\u2013", "\u2013", "1,234,567"]
    assert not any(row and row[0].startswith(("fid_std", "FID's")) for row in parsed.rows)
    assert '<td class="n best">8.00 \u00b1\u00a00.16</td>' in html
    assert '<td class="n best">4.560 \u00b1\u00a00.091</td>' in html
    said = " ".join(parsed.texts)
    assert (
        said.count(": FID 12.35 \u00b1\u00a00.25 (real images 1.25, pixel Gaussian 120.5)") == 2
    )  # beside AE, beside GAN
    assert '<td class="n">20</td>' in html  # alone in its row, so not called the best
    assert "KID leads" not in said


def names_of_rows(parsed: Page) -> list[str]:
    start = next(index for index, row in enumerate(parsed.rows) if row and row[0] == "Measure")
    return [row[0].split()[0] for row in parsed.rows[start + 1 : start + 4]]


def test_limits_that_differ_stand_in_the_cells(lane: Lane) -> None:
    change(lane, "toy-gan", samples={"kid": {"mean": 5.0, "std": 0.1, "floor": 0.5, "ceiling": 50.0}})
    parsed = page(lane)
    assert parsed.row("KID")[3] == "5.00 \u00b1\u00a00.10 real images 0.5, pixel Gaussian 50"
    assert parsed.row("KID")[1].endswith("real images -0.1, pixel Gaussian 50")
    assert "real images" not in parsed.row("KID")[0]


def test_the_leading_distance_is_first_and_says_why(lane: Lane) -> None:
    assert names_of_rows(page(lane))[:2] == ["FID", "KID"]
    change_all(lane, card={"leading": "kid", "reference": 150})
    parsed = page(lane)
    said = " ".join(" ".join(parsed.texts).split())
    assert names_of_rows(parsed)[:2] == ["KID", "FID"]
    assert "KID leads here, not FID: 150 images are fewer than ten times the 16 dimensions of the features" in said
    assert said.count(": KID 4.000 \u00b1 0.080 (real images -0.1, pixel Gaussian 50)") == 2


def test_runs_that_were_measured_differently_have_no_best(lane: Lane) -> None:
    html = build("demo", "t", *lane)
    assert "not all measured alike" not in html
    assert html.count('class="n best"') == 3  # FID, KID, rarest class
    change(lane, "toy-gan", card={"samples": 999, "seed": 8})
    html = build("demo", "t", *lane)
    assert "These runs were not all measured alike: samples in a set differ." in html
    assert 'class="n best"' not in html


@pytest.mark.parametrize(("likelihood", "best"), [("Gaussian, wide", 1), ("Bernoulli", 0)])
def test_bounds_compare_under_one_likelihood(lane: Lane, likelihood: str, best: int) -> None:
    facts = {"importance_samples": 40, "importance_images": 1000}
    change(lane, "toy-ae", card=facts | {"likelihood": "Gaussian, wide"}, encoding={"nll": 90.25})
    change(lane, "toy-vae", card=facts | {"likelihood": likelihood}, encoding={"nll": 89.5})
    (lane[1].metrics / "toy-vae.json").write_text(json.dumps({"fid": 12.0, "nll": 89.5}))
    html = build("demo", "t", *lane)
    row = read(html).row("Neg. log-likelihood (nats)")
    assert row[1:] == ["90.25", "89.5", "\u2013"]
    assert row[0].count("40 draws for each of 1,000 images") == 2 - best
    assert f"{likelihood}; 40 draws" in row[0]
    assert html.count('<td class="n best">89.5</td>') == best
    assert 'best">8.00' in html  # of FID the likelihood says nothing


def test_how_a_run_was_measured(lane: Lane) -> None:
    change(lane, "toy-vae", card={"likelihood": "Gaussian, variance 0.5", "importance_samples": 40})
    html = build("demo", "t", {"toy-vae": lane[0]["toy-vae"]}, lane[1])
    parsed = read(html)
    assert parsed.row("Measured in the features of") == ["Measured in the features of", "classifier trained on toy"]
    assert parsed.row("Weights of that network, sha256")[1] == "cdcdcdcdcdcd\u2026"
    assert f'<code title="{"cd" * 32}">' in html
    assert parsed.row("That network is right")[1] == "99.2%"
    assert parsed.row("Samples in a set")[1] == "250"
    assert parsed.row("Independent sets")[1] == "5"
    assert parsed.row("Neighbours")[1] == "3"
    assert parsed.row("Edition")[1] == "all of it"
    assert parsed.row("Crop")[1] == "none"
    assert parsed.row("Likelihood of")[1] == "Gaussian, variance 0.5"
    assert parsed.row("Importance samples")[1] == "40"
    assert parsed.row("novel_fact")[1] == "11"
    assert parsed.row("new_section.depth")[1] == "3"
    assert parsed.row("Density")[1:] == ["0.625 \u00b1\u00a00.013", "1", "0.125"]
    assert '<th scope="col" class="n">pixel Gaussian</th>' in html


def test_reconstructions_and_codes_have_a_table_of_their_own(lane: Lane) -> None:
    parsed = page(lane)
    assert parsed.row("Latent loss (nats)")[1:] == ["0.5"]
    assert " ".join(parsed.texts).count("All numbers of its reconstructions and codes") == 1  # of the autoencoder


def best_checkpoint(**changes: Any) -> dict[str, Any]:
    numbers = {"fid": {"mean": 6.0, "std": 0.5}, "kid": {"mean": 3.0, "std": 0.25}}
    said = "FID of samples against validation images"
    return {"epoch": 1, "chosen_by": said, "is_last": False, "samples": numbers} | changes


def test_the_best_checkpoint_stands_beside_the_last(lane: Lane) -> None:
    change(lane, "toy-gan", best=best_checkpoint())
    (lane[1].metrics / "toy-gan.json").write_text(json.dumps({"fid": 8.0, "fid_std": 0.16, "fid_best": 6.0}))
    parsed = page(lane)
    assert parsed.row("best: epoch 1 of 2")[1:] == ["6.00 \u00b1\u00a00.50", "3.00 \u00b1\u00a00.25", "\u2013"]
    assert parsed.row("last")[1:3] == ["8.00 \u00b1\u00a00.16", "5.00 \u00b1\u00a00.10"]
    assert parsed.row("FID, best checkpoint")[1:] == ["\u2013", "\u2013", "6.00 \u00b1\u00a00.50"]
    assert parsed.row("FID, best checkpoint")[0].endswith("real images 1.25, pixel Gaussian 120.5")
    assert "the epoch with the best FID of samples against validation images" in " ".join(parsed.texts)
    change(lane, "toy-gan", best=best_checkpoint(epoch=2, is_last=True))
    parsed = page(lane)
    assert not any(row and row[0].startswith("best: ") for row in parsed.rows)
    assert "The last epoch, 2, was also the best by FID" in " ".join(parsed.texts)


def test_collapse_is_a_visible_warning(lane: Lane) -> None:
    assert "Warning" not in build("demo", "t", *lane)
    change(lane, "toy-gan", collapse="samples cover 1 of 2 <classes>; this may be mode collapse")
    (lane[1].metrics / "toy-gan.json").write_text(json.dumps({"fid": 8.0, "collapse": 1.0}))
    html = build("demo", "t", *lane)
    said = "<strong>Warning:</strong> samples cover 1 of 2 &lt;classes&gt;; this may be mode collapse."
    assert f'<p class="notice" role="note">{said}</p>' in html
    assert read(html).row("Mode collapse?")[1:] == ["\u2013", "\u2013", "yes"]


def test_inception_is_a_number_or_the_reason_why_not(lane: Lane) -> None:
    change(lane, "toy-vae", inception={"not_computed": "not computed: weights not available (no mirror)"})
    features = {"name": "inception-v3-compat", "sha256": "01" * 32, "dimensions": 2048}
    numbers = {"samples": 1000, "reference": 900, "fid": 31.5, "kid": 0.0125, "kid_standard_error": 0.0011}
    change(lane, "toy-gan", inception={"features": features} | numbers)
    said = " ".join(page(lane).texts)
    assert "(Inception): not computed: weights not available (no mirror)." in said
    assert "inception-v3-compat, 2,048 dimensions, sha256 010101010101\u2026" in said
    assert "1,000 published samples against 900 test images: FID 31.5, KID 0.0125 \u00b1\u00a00.0011" in said


def seeds_row(**changes: Any) -> Row:
    row: dict[str, Any] = {"run": "toy-gan", "group": "workspace", "params": "gan.lr=0.0001", "seeds": "0 1 2"}
    row |= {"metric": "fid", "spread": "seeds", "n": 3, "mean": 8.25, "std": 0.5}
    return Row.model_validate(row | {"difference": None, "p": None, "verdict": ""} | changes)


def test_repeated_with_other_seeds(lane: Lane, tmp_path: Path) -> None:
    runs, folders = lane
    compared = Folders(folders.runs, folders.metrics, tmp_path / "comparisons")
    assert build("demo", "t", runs, compared) == build("demo", "t", runs, folders)  # no such folder: no section
    other = {"group": "gan.lr=<0.0002>", "params": "gan.lr=0.0002", "verdict": "exceeds the spread"}
    rows = [seeds_row(), seeds_row(mean=11.5, difference=3.25, p=0.0123, **other)]
    gap = {"metric": "attribute_gap", "mean": 0.05, "std": 0.01}
    rows += [seeds_row(**gap), seeds_row(**gap | {"mean": 0.04, "difference": -0.01, "p": 0.0001} | other)]
    write_csv(tmp_path / "comparisons/learning-rate.csv", rows)
    alarms = {"metric": "collapse", "mean": 1.0, "std": 0.0}
    rows += [seeds_row(**alarms), seeds_row(**alarms | {"mean": 0.25, "difference": -0.75, "p": 0.04} | other)]
    write_csv(tmp_path / "comparisons/learning-rate.csv", rows)
    parsed = read(build("demo", "t", runs, compared))
    said = " ".join(" ".join(parsed.texts).split())
    assert "Repeated with other seeds" in said
    assert "Learning rate" in said
    assert {"comparisons", "comparison-learning-rate"} <= {link["href"][1:] for link in parsed.of("a") if link["href"]}
    assert parsed.rows[-6:-2] == [
        ["FID\u00a0\u2193", "toy-gangan.lr=0.0001, seeds 0 1 2", "8.25 \u00b1\u00a00.50", "3 seeds", "", "", ""],
        [
            "FID\u00a0\u2193", "gan.lr=<0.0002>seeds 0 1 2", "11.50 \u00b1\u00a00.50", "3 seeds", "+3.25", "0.012",
            "exceeds the spread",
        ],
        [
            "Attribute gap (%)\u00a0\u2193", "toy-gangan.lr=0.0001, seeds 0 1 2", "5.0 \u00b1\u00a01.0", "3 seeds", "",
            "", "",
        ],
        [
            "Attribute gap (%)\u00a0\u2193", "gan.lr=<0.0002>seeds 0 1 2", "4.0 \u00b1\u00a01.0", "3 seeds", "-1.0",
            "< 0.001", "exceeds the spread",
        ],
    ]  # fmt: skip
    assert [(row[2], row[4]) for row in parsed.rows[-2:]] == [("yes", ""), ("in 25%", "-0.75")]
    assert "p is of Welch's t-test" in said
    write_csv(tmp_path / "comparisons/learning-rate.csv", rows[:1])
    said = build("demo", "t", runs, compared)
    assert "± is the standard deviation over the trainings." in said
    assert "Welch" not in said


def test_runs_compared_once_are_not_called_repeated(lane: Lane, tmp_path: Path) -> None:
    runs, folders = lane
    once = {"params": "", "spread": "sample sets", "n": 1, "seeds": "7"}
    rows = [seeds_row(group="toy-vae", run="toy-vae", **once), seeds_row(group="toy-gan", **once)]
    write_csv(tmp_path / "comparisons/two.csv", rows)
    parsed = read(build("demo", "t", runs, Folders(folders.runs, folders.metrics, tmp_path / "comparisons")))
    said = " ".join(" ".join(parsed.texts).split())
    assert "Repeated with other seeds" not in said
    assert "One training each" in said
    assert parsed.rows[-1] == ["FID\u00a0\u2193", "toy-ganseeds 7", "8.25 \u00b1\u00a00.50", "one training"]
    assert "Verdict" not in said


def test_a_broken_comparison_is_named(lane: Lane, tmp_path: Path) -> None:
    runs, folders = lane
    (tmp_path / "comparisons").mkdir()
    (tmp_path / "comparisons/odd.csv").write_text("a,b\n1,2\n")
    with pytest.raises(GenlibError, match=r"odd\.csv: columns"):
        build("demo", "t", runs, Folders(folders.runs, folders.metrics, tmp_path / "comparisons"))


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
    assert [row for row in parsed.rows if row[0] == "toy-gan"] == [["toy-gan", "95.4", "4.6"]]
    held = "250 samples of each model, in each of 5 independent sets, are held against the test split, 300 images"
    assert said.count(held) == 1
    assert "(99.2% right on test images): such numbers" in said
    assert "Real images: 300 others. Pixel Gaussian: 300 draws." in said
    assert "The last 100 of MNIST. Crop: none; resize: none." in said
    assert "in 2 classes" in said
    assert "real people" not in said
    assert "Trained for 2 epochs, 1,200 images seen, in 3 min 20 s." in said
    assert "Trained on 2025-03-09 with commit 0123456789ab and uncommitted changes" in said
    assert "seed 7" in said


def test_every_figure_of_the_gallery_has_words() -> None:
    source = (Path(__file__).resolve().parent.parent / "genlib/figures/gallery.py").read_text()
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
        ("runs/demo/toy-ae/provenance.json", "train@toy-ae"),
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
        ("runs/demo/toy-ae/evaluation.json", json.dumps(evaluation("r", {}) | {"samples": {"fid": 3}}), "samples.fid"),
        ("runs/demo/toy-ae/evaluation.json", json.dumps(evaluation("r", {}) | {"card": {}}), "card.protocol"),
        ("runs/demo/toy-ae/provenance.json", "{", "not valid JSON"),
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


def change(lane: Lane, run: str, **changes: Any) -> None:
    """Set keys of a run's evaluation; those of `dataset`, `card`, `samples` and `encoding` one by one."""
    path = lane[1].runs / run / "evaluation.json"
    everything = json.loads(path.read_text())
    for key, value in changes.items():
        part = key in ("dataset", "card", "samples", "encoding")
        everything[key] = everything[key] | value if part else value
    write_json(path, everything)


def change_all(lane: Lane, **changes: Any) -> None:
    """The same for every run."""
    for run in lane[0]:
        change(lane, run, **changes)


FACES = {"dataset": "celeba", "people": True, "labels": "attributes", "classes": ["Smiling", "Wearing_Hat"]}
FACES |= {"class_counts": {"train": [300, 30], "val": [40, 2], "test": [120, 20]}, "channels": 3}
FACES |= {"people_counts": {"train": 80, "val": 11, "test": 33}, "edition": "1,000 of the 202,599 images, halved"}


def test_faces_with_attributes(lane: Lane) -> None:
    shares = {"Smiling": {"samples": 0.5, "test": 0.41}, "Wearing_Hat": {"samples": 0.021, "test": 0.067}}
    accuracy = {"Smiling": {"accuracy": 0.9, "baseline": 0.6}, "Wearing_Hat": {"accuracy": 0.95, "baseline": 0.933}}
    network = {"accuracy": 0.925, "baseline": 0.766, "attributes": accuracy}
    gap = {"attribute_gap": {"mean": 0.0685, "std": None, "floor": 0.0104, "ceiling": 0.4}}
    change_all(
        lane, dataset=FACES, class_shares={}, attribute_shares=shares, measuring_network=network, samples=gap,
    )  # fmt: skip
    for run in lane[0]:
        (lane[1].metrics / f"{run}.json").write_text(json.dumps({"fid": 9.5, "attribute_gap": 0.0685}))
    parsed = page(lane)
    said = " ".join(" ".join(parsed.texts).split())
    assert "This page shows photographs of real people or private pictures from CelebA" in said
    assert said.count("1,000 of the 202,599 images, halved.") == 1 + 1 + len(RUNS)  # the data, the table, each run
    assert "colour, each with 2 attributes." in said
    assert parsed.row("training") == ["training", "600", "80"]
    assert parsed.row("Split") == ["Split", "images", "people"]
    smiling, judged = [row for row in parsed.rows if row[0] == "Smiling"]
    assert smiling == ["Smiling", "50.0", "90.0", "60.0"]  # share, accuracy, baseline
    assert judged == ["Smiling", "41.0", "50.0", "50.0", "50.0"]  # test images, then the runs
    assert parsed.row("Wearing Hat") == ["Wearing Hat", "5.0", "95.0", "93.3"]
    assert parsed.row("Attribute gap (%)")[1:] == ["6.9"] * 3
    assert parsed.row("Attribute gap (%)")[0].endswith("real images 1.0, pixel Gaussian 40.0")
    assert parsed.row("That network is right")[1] == "92.5% (always the commoner answer: 76.6%)"
    assert "(92.5% right on test images, where the commoner answers alone are 76.6% right): such numbers" in said
    assert "Classes of the samples" not in said


def test_faces_with_names(lane: Lane) -> None:
    """LFW: no classes to show, and a network that was trained on another dataset."""
    nothing: dict[str, Any] = {"train": [], "val": [], "test": []}
    faces = FACES | {"dataset": "lfw", "labels": "people", "classes": [], "class_counts": nothing, "edition": None}
    features = {"name": "classifier of celeba's 40 attributes", "sha256": "cd" * 32, "dimensions": 48}
    change_all(lane, dataset=faces, class_shares={}, measuring_network=None, card={"features": features})
    parsed = page(lane)
    said = " ".join(" ".join(parsed.texts).split())
    assert "photographs of real people or private pictures from LFW" in said
    assert "a classifier of celeba's 40 attributes, which was trained on another dataset: such numbers" in said
    assert parsed.row("test") == ["test", "300", "33"]
    assert parsed.row("That network is right")[1] == "not known: it was trained on another dataset"
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
    change_all(lane, dataset={"image_size": 28})
    path = tmp_path / "runs/demo/toy-vae/training/settings.json"
    trained = {"seed": 7, "model": "vae", "net": "deck28", "width": 32}
    path.write_text(json.dumps(trained | {"output": "sigmoid"}))
    assert "Differs from what the original presentation states: output sigmoid (stated: relu)." in build(
        "demo", "t", *lane
    )
    path.write_text(json.dumps(trained | {"output": "relu"}))
    assert "Differs from what the original presentation states" not in build("demo", "t", *lane)
    path.write_text(json.dumps(trained | {"output": "sigmoid"}))
    change_all(lane, dataset={"image_size": 64})  # of which it states nothing
    assert "Differs from what the original presentation states" not in build("demo", "t", *lane)


def test_a_denoising_autoencoder_is_called_so(lane: Lane, tmp_path: Path) -> None:
    path = tmp_path / "runs/demo/toy-ae/training/settings.json"
    path.write_text(json.dumps({"seed": 7, "model": "ae", "noise": 0.5}))
    assert "denoising autoencoder" in build("demo", "t", *lane)


def test_a_published_number_reproduced(written: Path, tmp_path: Path) -> None:
    """A Bernoulli VAE alone on its page: words for it, its likelihood beside its number."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    facts = {"likelihood": "Bernoulli, pixels binarised", "importance_samples": 200, "importance_images": 10000}
    lane = ({"toy-vae": settings("toy", "bernoulli_vae")}, folders_in(tmp_path))
    change(lane, "toy-vae", card=facts, encoding={"nll": 89.8})
    (lane[1].metrics / "toy-vae.json").write_text(json.dumps({"fid": 12.3, "nll": 89.8}))
    parsed = page(lane)
    said = " ".join(" ".join(parsed.texts).split())
    assert "variational autoencoder, Bernoulli likelihood" in said
    assert parsed.row("Neg. log-likelihood (nats)")[1:] == ["89.8"]
    assert "Bernoulli, pixels binarised; 200 draws for each of 10,000 images" in said
    assert parsed.row("Likelihood of")[1] == "Bernoulli, pixels binarised"


def test_the_stage_takes_comparisons(lane: Lane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As dvc.yaml calls it; the folder of comparisons may be missing."""
    monkeypatch.setattr(params, "load", lambda _: Parameters(lane[0]))
    folders = {"runs": lane[1].runs, "metrics": lane[1].metrics, "out": tmp_path / "out"}
    present.main("demo", **folders, comparisons=tmp_path / "comparisons")
    assert "Repeated" not in (tmp_path / "out/results.html").read_text()
    write_csv(tmp_path / "comparisons/seeds.csv", [seeds_row()])
    present.main("demo", **folders, comparisons=tmp_path / "comparisons")
    assert "Repeated" in (tmp_path / "out/results.html").read_text()


@pytest.mark.parametrize(
    ("mean", "std", "shown"),
    [
        (217.775297, 2.539045, "217.8 ± 2.5"), (304.385, 3.959487, "304.4 ± 4.0"),
        (0.90402, 0.00264518, "0.9040 ± 0.0026"),
        (-0.0123, 0.5, "-0.01 ± 0.50"), (12345.6, 345.0, "12,346 ± 345"), (10.0, 0.0, "10 ± 0"), (8.5, None, "8.5"),
        (0.5, 2e-9, "0.5 ± 2.0e-09"), (float("nan"), 0.1, "nan ± 0.1"),
    ],
)  # fmt: skip
def test_means_and_deviations(mean: float, std: float | None, shown: str) -> None:
    assert text.measured(mean, std).replace("\u00a0", " ") == shown
