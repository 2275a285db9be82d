"""The deck for PowerPoint: the same slides, with charts, tables and diagrams that can be edited there.

The same deck gives the same bytes: nothing in the file says when it was written.
"""

import re
import zipfile
from base64 import b64decode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from typing import Any

from PIL import Image
from pptx import Presentation
from pptx.chart.data import CategoryChartData, XyChartData
from pptx.dml.color import RGBColor
from pptx.enum.chart import XL_CHART_TYPE, XL_LEGEND_POSITION, XL_MARKER_STYLE
from pptx.enum.shapes import MSO_SHAPE
from pptx.enum.text import MSO_ANCHOR, PP_ALIGN
from pptx.oxml.ns import qn
from pptx.util import Inches, Pt

from genlib.presentation import text
from genlib.presentation.deck import plots
from genlib.presentation.deck.blocks import (
    Bars,
    Block,
    Chart,
    Deck,
    Diagram,
    Explorer,
    Facts,
    Film,
    Formula,
    Missing,
    Moves,
    Points,
    Slide,
    Still,
    Table,
    Yardstick,
)
from genlib.presentation.deck.html import change

_WIDTH, _HEIGHT, _MARGIN = 13.333, 7.5, 0.6
_BODY_TOP, _BODY_BOTTOM = 1.75, 6.75
_CAPTION = 0.4
_EMS = 0.68  # width of a character, in sizes of the font: that of wide ones, such as DejaVu bold
_GIF_BYTES = 700_000
_LARGE_BYTES = 150_000
_STAMP = datetime(2000, 1, 1)
_ZIP_STAMP = (2000, 1, 1, 0, 0, 0)


def _colour(red: int, green: int, blue: int) -> RGBColor:
    return RGBColor(red, green, blue)  # type: ignore[no-untyped-call]


_INK, _SOFT, _LINE = _colour(0x1D, 0x21, 0x26), _colour(0x59, 0x60, 0x6B), _colour(0xD9, 0xD6, 0xCE)
_ACCENT, _SECOND = _colour(0x1F, 0x6F, 0xC4), _colour(0xC9, 0x4F, 0x00)
_FILLED, _OTHER, _PALE = _colour(0xDB, 0xE9, 0xF8), _colour(0xFB, 0xE3, 0xD3), _colour(0xF4, 0xF2, 0xEC)


@dataclass(frozen=True)
class Box:
    """A place on a slide, in inches."""

    left: float
    top: float
    width: float
    height: float

    @property
    def emu(self) -> tuple[Any, Any, Any, Any]:
        """As python-pptx takes it."""
        return Inches(self.left), Inches(self.top), Inches(self.width), Inches(self.height)


def render(deck: Deck) -> bytes:
    """The deck as a .pptx file; the same deck gives the same bytes."""
    shown = Presentation()
    shown.slide_width, shown.slide_height = Inches(_WIDTH), Inches(_HEIGHT)
    for index, slide in enumerate(deck.slides, start=1):
        _slide(shown, slide, f"{index} / {len(deck.slides)}", deck)
    properties = shown.core_properties
    properties.title, properties.author, properties.last_modified_by = deck.title, "genlib", "genlib"
    properties.created = properties.modified = _STAMP
    written = BytesIO()
    shown.save(written)
    return settled(written.getvalue())


def settled(data: bytes) -> bytes:
    """A zip file with the same members and no times: neither of its own nor in its documents' properties."""
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(".xlsx"):
                content = settled(content)
            elif name == "docProps/core.xml":
                content = re.sub(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", b"2000-01-01T00:00:00Z", content)
            member = zipfile.ZipInfo(name, _ZIP_STAMP)
            member.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(member, content)
    return out.getvalue()


def _slide(shown: Any, slide: Slide, number: str, deck: Deck) -> None:
    page = shown.slides.add_slide(shown.slide_layouts[5])  # title only
    title = page.shapes.title
    title.left, title.top, title.width, title.height = Box(_MARGIN, 0.55, _WIDTH - 2 * _MARGIN, 0.65).emu
    _write(title.text_frame, [slide.title], _fitting(slide.title, _WIDTH - 2 * _MARGIN, 30), bold=True)
    topic = " \u00b7 ".join(part for part in (slide.row, slide.topic) if part)
    if topic:
        _text(page, Box(_MARGIN, 0.25, 10, 0.35), [topic], 13, _SOFT)
    said = [slide.lead.replace("`", ""), *slide.notices]
    if deck.people and not slide.topic:
        people = " and ".join(deck.people)
        said.append(
            f"With photographs of real people or private pictures from {people}: for looking at on this computer, not "
            "to be published."
        )
    said = [one for one in said if one]
    if said:
        _text(page, Box(_MARGIN, 1.15, _WIDTH - 2 * _MARGIN, 0.6), said, 14 if len(said) == 1 else 11, _SOFT)
    total, left = sum(column.weight for column in slide.columns), _MARGIN
    for column in slide.columns:
        width = (_WIDTH - 2 * _MARGIN - 0.4 * (len(slide.columns) - 1)) * column.weight / total
        _stack(page, column.blocks, Box(left, _BODY_TOP, width, _BODY_BOTTOM - _BODY_TOP))
        left += width + 0.4
    made = [
        f"{one.run + ': ' if one.run else ''}{one.shared}{'; ' + one.own if one.own else ''}"
        for one in slide.provenance
    ]
    _text(page, Box(_MARGIN, 6.8, _WIDTH - 2 * _MARGIN - 0.9, 0.6), made, 8, _SOFT)
    _text(page, Box(_WIDTH - _MARGIN - 0.9, 7.05, 0.9, 0.3), [number], 10, _SOFT, PP_ALIGN.RIGHT)
    page.notes_slide.notes_text_frame.text = "\n".join([slide.title, *said, *made])


def _stack(page: Any, blocks: Sequence[Block], box: Box) -> None:
    """Blocks one below the other: text as high as it is, all others share what is left."""
    fixed = [_fixed_height(block) for block in blocks]
    stretching = sum(height is None for height in fixed)
    rest = box.height - sum(height or 0 for height in fixed) - 0.15 * (len(blocks) - 1)
    top = box.top if stretching else box.top + max(0, rest) / 2
    for block, height in zip(blocks, fixed, strict=True):
        taken = rest / stretching if height is None else height
        _DRAW[type(block)](page, block, Box(box.left, top, box.width, taken))
        top += taken + 0.15


def _fixed_height(block: Block) -> float | None:
    if isinstance(block, Facts):
        return 0.55 * len(block.items)
    if isinstance(block, Points):
        return 0.75 * len(block.items)
    return {Formula: 1.0, Missing: 1.5}.get(type(block))


# Text


def _text(
    page: Any, box: Box, lines: Sequence[str], size: float, colour: RGBColor = _INK, align: Any = PP_ALIGN.LEFT
) -> Any:
    shape = page.shapes.add_textbox(*box.emu)
    _write(shape.text_frame, lines, size, colour, align)
    return shape


def _fitting(line: str, width: float, size: float) -> float:
    """The size in points, at most `size`, at which a line stays one line in `width` inches, in a wide font, too."""
    return min(size, 72 * width / (_EMS * len(line)))


def _write(
    frame: Any,
    lines: Sequence[str],
    size: float,
    colour: RGBColor = _INK,
    align: Any = PP_ALIGN.LEFT,
    bold: bool = False,
) -> None:
    frame.word_wrap, frame.vertical_anchor = True, MSO_ANCHOR.MIDDLE if bold else MSO_ANCHOR.TOP
    frame.margin_left = frame.margin_right = frame.margin_top = frame.margin_bottom = Inches(0.03)
    for index, line in enumerate(lines):
        paragraph = frame.paragraphs[0] if index == 0 else frame.add_paragraph()
        paragraph.alignment = align
        run = paragraph.add_run()
        run.text = line
        run.font.size, run.font.bold, run.font.color.rgb = Pt(size), bold, colour


def _facts(page: Any, block: Facts, box: Box) -> None:
    shape = page.shapes.add_textbox(*box.emu)
    frame = shape.text_frame
    frame.word_wrap = True
    for index, (number, words) in enumerate(block.items):
        paragraph = frame.paragraphs[0] if index == 0 else frame.add_paragraph()
        for said, size, bold, colour in ((number, 22, True, _INK), (f"  {words}", 13, False, _SOFT)):
            run = paragraph.add_run()
            run.text, run.font.size, run.font.bold, run.font.color.rgb = said, Pt(size), bold, colour


def _points(page: Any, block: Points, box: Box) -> None:
    _text(page, box, [f"\u2022 {item.replace('`', '')}" for item in block.items], 17)


def _formula(page: Any, block: Formula, box: Box) -> None:
    _text(page, Box(box.left, box.top, box.width, 0.6), [block.text], _fitting(block.text, box.width, 22))
    _text(page, Box(box.left, box.top + 0.6, box.width, 0.4), [block.words], 13, _SOFT)


def _missing(page: Any, block: Missing, box: Box) -> None:
    shape = page.shapes.add_shape(MSO_SHAPE.RECTANGLE, *box.emu)
    shape.fill.background()
    shape.line.color.rgb = _SECOND
    _write(shape.text_frame, [f"{block.what}.", f"To make it: {block.remedy.replace('`', '')}"], 13)


# Pictures


def _still(page: Any, block: Still, box: Box) -> None:
    _picture(page, _compact(block.path.read_bytes()), box, block.picture.alt, block.caption)


def _film(page: Any, block: Film, box: Box) -> None:
    """The animation if it is small; else the same images at four points of the training; else as they ended."""
    points = block.path and block.path.with_name("training_points.png")
    if block.path and block.path.stat().st_size <= _GIF_BYTES:
        data = block.path.read_bytes()
    elif points and points.exists():
        data = _compact(points.read_bytes())
    else:
        data = _as_png(block.frames[-1])
    _picture(page, data, box, block.alt, block.caption)


def _explorer(page: Any, block: Explorer, box: Box) -> None:
    words = "To move through the plane, open index.html: the decoder runs there."
    if block.manifold is None:
        _text(page, box, [words], 14)
    else:
        data = _compact(block.manifold.read_bytes())
        _picture(page, data, box, f"The plane of codes of {block.run}, decoded", words)


def _picture(page: Any, data: bytes, box: Box, alt: str, caption: str) -> None:
    room = box.height - (_CAPTION if caption else 0)
    with Image.open(BytesIO(data)) as image:
        ratio = image.width / image.height
    width = min(box.width, room * ratio)
    height = width / ratio
    top = box.top + (room - height) / 2
    shape = page.shapes.add_picture(BytesIO(data), *Box(box.left + (box.width - width) / 2, top, width, height).emu)
    shape._element.nvPicPr.cNvPr.set("descr", alt)
    if caption:
        _text(page, Box(box.left, top + height + 0.05, box.width, _CAPTION), [caption], 12, _SOFT, PP_ALIGN.CENTER)


def _compact(data: bytes) -> bytes:
    """A picture's own bytes, or a JPEG in colour where that is much smaller."""
    if len(data) <= _LARGE_BYTES:
        return data
    with Image.open(BytesIO(data)) as image:
        if image.mode == "L":
            return data
        buffer = BytesIO()
        image.convert("RGB").save(buffer, format="JPEG", quality=85)
    return min(data, buffer.getvalue(), key=len)


def _as_png(uri: str) -> bytes:
    buffer = BytesIO()
    with Image.open(BytesIO(b64decode(uri.partition(",")[2]))) as image:
        image.save(buffer, format="PNG")
    return _compact(buffer.getvalue())


# Charts and tables


def _chart(page: Any, block: Chart, box: Box) -> None:
    data: Any = XyChartData()  # type: ignore[no-untyped-call]
    for one in (plots.thinned(series) for series in block.series):
        added = data.add_series(one.name)
        for x, y in zip(one.x, one.y, strict=True):
            added.add_data_point(x, y)
    frame = page.shapes.add_chart(XL_CHART_TYPE.XY_SCATTER_LINES_NO_MARKERS, *box.emu, data)
    frame._element.nvGraphicFramePr.cNvPr.set("descr", plots.describe(block))
    chart = frame.chart
    _titled(chart, block.title)
    chart.has_legend, chart.legend.position, chart.legend.include_in_layout = True, XL_LEGEND_POSITION.BOTTOM, False
    chart.legend.font.size = Pt(12)
    for axis in (chart.category_axis, chart.value_axis):
        axis.tick_labels.font.size = Pt(11)
        axis.format.line.color.rgb = _LINE
    chart.category_axis.has_major_gridlines = False
    chart.category_axis.tick_labels.number_format, chart.category_axis.tick_labels.number_format_is_linked = (
        "#,##0",
        False,
    )
    chart.value_axis.major_gridlines.format.line.color.rgb = _LINE
    if block.limits:
        chart.value_axis.minimum_scale, chart.value_axis.maximum_scale = block.limits
    if block.log:
        _logarithmic(chart.value_axis)
    for plotted, series, colour in zip(chart.plots[0].series, block.series, (_ACCENT, _SECOND), strict=False):
        plotted.smooth = False
        if series.dots:
            plotted.format.line.fill.background()
            plotted.marker.style, plotted.marker.size = XL_MARKER_STYLE.CIRCLE, 6
            plotted.marker.format.fill.solid()
            plotted.marker.format.fill.fore_color.rgb = colour
            plotted.marker.format.line.fill.background()
        else:
            plotted.format.line.color.rgb, plotted.format.line.width = colour, Pt(1.75)


def _bars(page: Any, block: Bars, box: Box) -> None:
    data: Any = CategoryChartData()  # type: ignore[no-untyped-call]
    data.categories = list(block.values)
    data.add_series(block.title, list(block.values.values()))
    frame = page.shapes.add_chart(XL_CHART_TYPE.BAR_CLUSTERED, *box.emu, data)
    said = ", ".join(f"{name}: {text.number(value)}" for name, value in block.values.items())
    frame._element.nvGraphicFramePr.cNvPr.set("descr", f"{block.title}. {said}")
    chart = frame.chart
    _titled(chart, block.title)
    chart.has_legend = False
    chart.category_axis.reverse_order = True
    chart.category_axis.tick_labels.font.size = Pt(12)
    chart.value_axis.visible = chart.value_axis.has_major_gridlines = False
    if block.log:
        chart.value_axis.minimum_scale = min(block.values.values()) / 10
        _logarithmic(chart.value_axis)
    plot = chart.plots[0]
    plot.gap_width, plot.has_data_labels = 50, True
    plot.data_labels.font.size, plot.data_labels.number_format = Pt(12), "#,##0.##"
    plot.data_labels.number_format_is_linked = False
    plot.series[0].format.fill.solid()
    plot.series[0].format.fill.fore_color.rgb = _ACCENT


def _titled(chart: Any, title: str) -> None:
    chart.has_title = True
    _write(chart.chart_title.text_frame, [title], 13)


def _logarithmic(axis: Any) -> None:
    """python-pptx has no word for it; logBase must come first in its element."""
    scaling = axis._element.find(qn("c:scaling"))
    scaling.insert(0, scaling.makeelement(qn("c:logBase"), {"val": "10"}))


def _yardstick(page: Any, block: Yardstick, box: Box) -> None:
    rows = [[mark.name, mark.said] for mark in plots.marks(block)]
    _grid(page, ["", block.title], rows, box, 14)


def _table(page: Any, block: Table, box: Box) -> None:
    rows = [[cell.replace("`", "") for cell in row] for row in block.rows]
    _grid(page, block.head, rows, box, 12 if block.numbers else 15, 0.3)


def _moves(page: Any, block: Moves, box: Box) -> None:
    head = [block.title, *(f"{index}: {moves} learns" for index, (moves, _) in enumerate(block.half_steps, start=1))]
    rows = [[name, *(change(changes[name]) for _, changes in block.half_steps)] for name in block.networks]
    made = _grid(page, head, rows, Box(box.left, box.top, box.width, min(box.height, 1.6)), 13)
    for row, name in enumerate(block.networks, start=1):
        for column, (_, changes) in enumerate(block.half_steps, start=1):
            made.cell(row, column).fill.fore_color.rgb = (_FILLED, _OTHER)[(row - 1) % 2] if changes[name] else _PALE


def _grid(
    page: Any, head: Sequence[str], rows: Sequence[Sequence[str]], box: Box, size: float, first: float = 0.2
) -> Any:
    height = min(box.height, 0.42 * (len(rows) + 1))
    frame = page.shapes.add_table(len(rows) + 1, len(head), *Box(box.left, box.top, box.width, height).emu)
    made = frame.table
    made.columns[0].width = Inches(box.width * first)
    for index in range(1, len(head)):
        made.columns[index].width = Inches(box.width * (1 - first) / (len(head) - 1))
    for index, row in enumerate([head, *rows]):
        for place, said in enumerate(row):
            cell = made.cell(index, place)
            cell.fill.solid()
            cell.fill.fore_color.rgb = _FILLED if index == 0 else _PALE
            _write(cell.text_frame, [said], size)
    return made


def _diagram(page: Any, block: Diagram, box: Box) -> None:
    title = f"{block.title.capitalize()}: {text.shape(block.input)} \u2192 {text.shape(block.parts[-1].output)}, "
    _text(page, Box(box.left, box.top, box.width, 0.35), [f"{title}{text.number(block.parameters)} weights"], 15)
    step = box.width / len(block.parts)
    for index, part in enumerate(block.parts):
        place = Box(box.left + index * step, box.top + 0.45, step - 0.25, min(1.75, box.height - 0.5))
        shape = page.shapes.add_shape(MSO_SHAPE.RECTANGLE, *place.emu)
        shape.fill.solid()
        shape.fill.fore_color.rgb = _FILLED
        shape.line.color.rgb = _ACCENT
        said = [text.shape(part.output), f"{part.name}: {part.detail}" if part.detail else part.name, part.then]
        lines = [*(one for one in said if one), f"{text.number(part.parameters)} weights"]
        _write(shape.text_frame, lines, 11, align=PP_ALIGN.CENTER)


_DRAW: dict[type, Callable[[Any, Any, Box], None]] = {
    Bars: _bars,
    Chart: _chart,
    Diagram: _diagram,
    Explorer: _explorer,
    Facts: _facts,
    Film: _film,
    Formula: _formula,
    Missing: _missing,
    Moves: _moves,
    Points: _points,
    Still: _still,
    Table: _table,
    Yardstick: _yardstick,
}
