"""All that a lane shows, into one folder: the deck, the page of all results, the deck as PowerPoint."""

import re
from base64 import b64decode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from genlib.presentation import page
from genlib.presentation.deck import html, pptx, slides
from genlib.presentation.results import Folders
from genlib.settings import RunSettings

DECK, RESULTS, PPTX, PICTURES = "index.html", "results.html", "presentation.pptx", "pictures"
_SMALL = 2000  # characters; such a picture stays inside its page
_EMBEDDED = re.compile(rf"data:image/(png|gif|webp);base64,([A-Za-z0-9+/=]{{{_SMALL},}})")


def write(folder: Path, lane: str, title: str, runs: Mapping[str, RunSettings], folders: Folders) -> int:
    """Write a lane's files into an existing folder, pictures once for both pages; how many slides there are.

    Raises:
        GenlibError: the lane has no runs, or a file is missing or broken; names it and the stage that writes it.
    """
    deck = slides.build(lane, title, runs, folders)
    pages = {RESULTS: page.build(lane, title, runs, folders), DECK: html.render(deck, PPTX, RESULTS)}
    (folder / PICTURES).mkdir()
    for name, text in pages.items():
        (folder / name).write_text(with_pictures_beside(text, folder / PICTURES), encoding="utf-8")
    (folder / PPTX).write_bytes(pptx.render(deck))
    return len(deck.slides)


def with_pictures_beside(text: str, folder: Path) -> str:
    """A page whose embedded pictures are files in `folder` instead, named by their content; small ones stay."""

    def moved(found: re.Match[str]) -> str:
        data = b64decode(found[2])
        path = folder / f"{sha256(data).hexdigest()[:16]}.{found[1]}"
        path.write_bytes(data)
        return f"{folder.name}/{path.name}"

    return _EMBEDDED.sub(moved, text)
