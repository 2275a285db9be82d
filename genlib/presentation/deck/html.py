"""The deck as one HTML file: slides, styles, scripts, pictures and weights inside. Needs no network."""

import json
from typing import Any

from markupsafe import Markup, escape

from genlib.presentation.deck import plots
from genlib.presentation.deck.blocks import Deck, Explorer, Film
from genlib.presentation.page import environment


def render(deck: Deck, pptx: str, results: str) -> str:
    """The deck as HTML; `pptx` and `results` are names of the files beside it. The same deck gives the same text."""
    made = environment()
    made.filters.update(code=_code, change=change)
    made.globals.update(plots=plots, data=_data, film_data=_film, explorer_data=_explorer)
    return made.get_template("deck.html.j2").render(deck=deck, pptx=pptx, results=results)


def change(relative: float) -> str:
    """A relative change of weights: "0" where nothing moved at all, else in per cent: 0.29%, 3e-07%."""
    if relative == 0:
        return "0"
    return f"{100 * relative:.2f}%" if relative >= 1e-4 else f"{100 * relative:.0e}%"


def _code(said: str) -> Markup:
    """Text with `...` as code."""
    parts = [escape(part) for part in said.split("`")]
    return Markup("").join(Markup(f"<code>{part}</code>") if index % 2 else part for index, part in enumerate(parts))


def _data(value: Any) -> Markup:
    """JSON that may stand inside a script element."""
    return Markup(json.dumps(value, separators=(",", ":")).replace("<", "\\u003c"))


def _film(film: Film) -> Markup:
    return _data({"frames": film.frames, "captions": film.captions})


def _explorer(explorer: Explorer) -> Markup:
    return _data({"network": explorer.network, "codes": explorer.codes, "limits": explorer.limits})
