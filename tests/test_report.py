"""Tables of a Markdown file filled from the files of runs, and the committed ones against the committed metrics."""

import json
import re
import sys
from pathlib import Path

import pytest
from projects import ROOT, finished

from genlib import params
from genlib.errors import GenlibError
from genlib.presentation import report
from stages import report as stage

RESULTS = ROOT / "docs/results.md"


def columns(table: str) -> dict[str, dict[str, str]]:
    """The cells of a Markdown table by column and row."""
    lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.strip().splitlines()]
    head, _, *body = lines
    return {name: {line[0]: line[place] for line in body} for place, name in enumerate(head) if name}


def test_blocks_are_filled_from_the_files_of_runs_and_the_words_stay(tmp_path: Path) -> None:
    project = finished()[0].copy(tmp_path)
    page = project.folder / "page.md"
    page.write_text(
        "# Words\n\n<!-- numbers: digits-ae digits-gan -->\nold\n<!-- end -->\n\nmore\n\n"
        "<!-- trainings: digits-gan -->\n<!-- end -->\nlast\n"
    )
    for _ in range(2):  # filled again, nothing changes
        assert "page.md: tables filled" in project.call(sys.executable, "-m", "stages.report", "page.md")
    words, numbers, between, trainings, last = re.split(r"<!-- \w+:? ?[^>]*-->", page.read_text())
    assert (words, between, last) == ("# Words\n\n", "\n\nmore\n\n", "\nlast\n")

    shown = columns(numbers)
    assert list(shown) == ["digits-ae", "digits-gan", "real images", "pixel Gaussian"]
    metrics = json.loads((project.folder / "metrics/demo/digits-ae.json").read_text())
    error = "Reconstruction error (lower is better)"
    assert float(shown["digits-ae"][error]) == pytest.approx(metrics["recon_mse"], rel=1e-3)
    row = shown["real images"]
    assert {"FID (lower is better)", "Recall (higher is better)"} <= row.keys()
    assert row[error] == shown["digits-gan"][error] == ""
    assert columns(trainings)["epochs"] == {"digits-gan": "1"}
    assert columns(trainings)["training images seen"] == {"digits-gan": "250"}


def test_settings_tried_are_read_from_their_file(tmp_path: Path) -> None:
    (tmp_path / "docs/trials").mkdir(parents=True)
    (tmp_path / "docs/trials/digits-gan.csv").write_text("trial,lr,val fid\nfast,0.0002,17.123456\n")
    filled = report.fill(
        "<!-- trials: digits-gan -->\n<!-- end -->\n", params.load(ROOT / "params.yaml").runs, tmp_path
    )
    assert columns(filled.split("-->")[1].split("<!--")[0]) == {
        "trial": {"fast": "fast"}, "lr": {"fast": "2.0e-04"}, "val fid": {"fast": "17.12"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- numbers: digits-ae -->\n| old |\n", "a block has no end"),
        ("<!-- numbers: digits-ea -->\n<!-- end -->\n", r"<!-- numbers: digits-ea -->: no such run in params\.yaml"),
        ("<!-- numbers: digits-ae -->\n<!-- end -->\n", r"settings\.json: no such file .*dvc repro train@digits-ae"),
        (
            "<!-- trials: digits-ae -->\n<!-- end -->\n",
            r"digits-ae\.csv: no such file; .* stages\.trials RUN --csv .*digits-ae\.csv",
        ),
        (
            "<!-- seeds: mnist-ae -->\n<!-- end -->\n",
            r"<!-- seeds: mnist-ae -->: bands\.json has no bands of it; .*--measure",
        ),
        ("<!-- nombers: digits-ae -->\n<!-- end -->\n", "<!-- nombers: ... -->: no such kind"),
    ],
)
def test_what_cannot_be_filled_is_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(GenlibError, match=said):
        report.fill(text, params.load(ROOT / "params.yaml").runs, tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"page\.md: no such file; name a Markdown file"),
        (b"caf\xe9\n", r"page\.md: not UTF-8 \(.*0xe9.*\); save it as UTF-8"),
        (
            b"# Words\n\n<!--numbers: digits-ae -->\n<!-- end -->\n",
            r"page\.md: no block to fill; write <!-- numbers: RUN",
        ),
    ],
)
def test_a_file_that_cannot_be_filled_is_refused_by_name_and_left_alone(
    content: bytes | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    if content is not None:
        page.write_bytes(content)
    monkeypatch.chdir(ROOT)
    with pytest.raises(GenlibError, match=said):
        stage.main(page)
    assert (page.read_bytes() if page.exists() else None) == content


def test_the_committed_table_over_seeds_is_of_the_committed_bands() -> None:
    (block,) = re.findall(r"<!-- seeds: .*?<!-- end -->", RESULTS.read_text(), re.DOTALL)
    assert report.fill(block, params.load(ROOT / "params.yaml").runs, ROOT) == block


@pytest.mark.parametrize(
    "run", re.findall(r"[a-z0-9-]+", " ".join(re.findall(r"<!-- numbers: (.*?) -->", RESULTS.read_text())))
)
def test_the_committed_tables_are_of_the_committed_metrics(run: str) -> None:
    (block,) = [
        b
        for b in re.findall(r"<!-- (numbers: .*?)<!-- end", RESULTS.read_text(), re.DOTALL)
        if run in b.split("-->")[0].split()
    ]
    shown = columns(block.split("-->")[1])[run]
    metrics = json.loads(next(ROOT.glob(f"metrics/*/{run}.json")).read_text())
    compared = 0
    for label, key in (
        ("FID", "fid"),
        ("KID", "kid"),
        ("Coverage", "coverage"),
        ("Reconstruction error", "recon_mse"),
        ("ELBO", "elbo"),
    ):
        cells = [cell for name, cell in shown.items() if re.match(rf"{label}( \(|$)", name)]
        if key in metrics:
            number = cells[0].split()[0].replace(",", "")
            half = 0.5001 * 10 ** -len(number.partition(".")[2])
            assert float(number) == pytest.approx(metrics[key], abs=half), (label, cells)
            compared += 1
    assert compared >= 3
