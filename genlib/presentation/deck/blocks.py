"""What a slide is made of, before it is HTML or PowerPoint: plain data, all numbers already computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from genlib.presentation.pictures import Picture


@dataclass(frozen=True)
class Still:
    """A picture. `pixels`: of small images whose pixels are to stay visible when it is magnified."""

    kind: ClassVar[str] = "still"
    picture: Picture
    path: Path
    caption: str
    pixels: bool


@dataclass(frozen=True)
class Film:
    """Moments of training behind a slider: data URIs, and a caption for each. The last one is what prints.

    `path`: the same as an animated GIF, or None where there is none.
    """

    kind: ClassVar[str] = "film"
    frames: Sequence[str]
    captions: Sequence[str]
    alt: str
    caption: str
    width: int
    height: int
    pixels: bool
    path: Path | None


@dataclass(frozen=True)
class Series:
    """A line, or dots, of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    dots: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves over the training images seen. `limits` of the vertical axis; None: those of the values.

    `level`: a horizontal line and what it says.
    """

    kind: ClassVar[str] = "chart"
    title: str
    series: Sequence[Series]
    log: bool = False
    limits: tuple[float, float] | None = None
    level: tuple[float, str] | None = None


@dataclass(frozen=True)
class Bars:
    """Bars with their numbers. `log`: on a logarithmic scale, which begins a decade below the smallest value."""

    kind: ClassVar[str] = "bars"
    title: str
    values: Mapping[str, float]
    log: bool = False


@dataclass(frozen=True)
class Yardstick:
    """A number of each run between its floor and its ceiling; `log`: on a logarithmic scale, if all are positive."""

    kind: ClassVar[str] = "yardstick"
    title: str
    floor: float
    ceiling: float
    marks: Mapping[str, tuple[float, str]]
    better: Literal["lower", "higher"] | None

    @property
    def log(self) -> bool:
        """KID may be below 0, which a logarithmic scale cannot show."""
        return min(self.floor, self.ceiling, *(value for value, _ in self.marks.values())) > 0


@dataclass(frozen=True)
class Part:
    """A layer with what follows it at once (batch norm, activation, dropout). `output`: without the batch."""

    name: str
    detail: str
    then: str
    output: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class Diagram:
    """A network as its parts, from what goes in to what comes out."""

    kind: ClassVar[str] = "diagram"
    title: str
    input: tuple[int, ...]
    parts: Sequence[Part]
    parameters: int


@dataclass(frozen=True)
class Moves:
    """Half-steps of training, in order: who moves, and each network's relative change; exactly 0 if held constant."""

    kind: ClassVar[str] = "moves"
    title: str
    networks: Sequence[str]
    half_steps: Sequence[tuple[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Explorer:
    """A decoder that runs in the page on any 2-D code. `network`: see `decoder.describe`; `codes`: held-out images'."""

    kind: ClassVar[str] = "explorer"
    run: str
    network: Mapping[str, Any]
    codes: Sequence[tuple[float, float]]
    limits: tuple[float, float]
    manifold: Path | None


@dataclass(frozen=True)
class Facts:
    """A few numbers, large, each with what it is."""

    kind: ClassVar[str] = "facts"
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """`head` and `rows` of the same length; the first column names the row."""

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = True


@dataclass(frozen=True)
class Points:
    """Sentences to read out, one below the other."""

    kind: ClassVar[str] = "points"
    items: Sequence[str]


@dataclass(frozen=True)
class Formula:
    """A formula as text, and what it says in words."""

    kind: ClassVar[str] = "formula"
    text: str
    words: str


@dataclass(frozen=True)
class Missing:
    """What is not there, and what makes it, with commands and settings in `backticks`."""

    kind: ClassVar[str] = "missing"
    what: str
    remedy: str


Block = (
    Still | Film | Chart | Bars | Yardstick | Diagram | Moves | Explorer | Facts | Table | Points | Formula | Missing
)


@dataclass(frozen=True)
class Column:
    """Blocks one below the other; `weight`: the column's width in that of the others."""

    blocks: Sequence[Block]
    weight: int = 1


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from: what equal runs share, and what may differ between them."""

    run: str
    shared: str
    own: str


@dataclass(frozen=True)
class Slide:
    """One idea. `row`: the slide of the original presentation, such as "3"; empty for those it does not have.

    `hint`: what can be done with the page in a browser.
    """

    id: str
    row: str
    topic: str
    title: str
    columns: Sequence[Column]
    lead: str = ""
    hint: str = ""
    notices: Sequence[str] = ()
    provenance: Sequence[Provenance] = field(default_factory=tuple)


@dataclass(frozen=True)
class Deck:
    """All slides; `people`: datasets whose photographs of real people are shown."""

    lane: str
    title: str
    people: Sequence[str]
    slides: Sequence[Slide]
