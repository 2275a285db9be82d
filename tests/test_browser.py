"""The slides in a real browser, offline: whole, quiet, usable without a mouse, the same at every size."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("playwright", reason="the browser tests need playwright (make setup)")

from lanes import TRAINED, folders_in, trained_lane, trained_settings
from playwright.sync_api import Browser, Page, sync_playwright

from genlib import models
from genlib.presentation import site

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: slides not seen in a browser")

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
QUIET += ["--disable-sync", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND"]
SIZES = {"full HD": (1920, 1080), "projector": (1280, 720), "phone": (390, 844)}

OVERFLOWING = """() => {
  const found = [];
  if (document.documentElement.scrollWidth > innerWidth) found.push("the page scrolls sideways");
  for (const slide of document.querySelectorAll(".slide")) {
    const box = slide.getBoundingClientRect();
    for (const element of slide.querySelectorAll("*")) {
      const own = element.getBoundingClientRect();
      if (!own.width || !own.height) continue;
      if (own.left < box.left - 1 || own.right > box.right + 1 || own.top < box.top - 1 || own.bottom > box.bottom + 1)
        found.push(`${slide.id}: <${element.tagName}> ${element.textContent.trim().slice(0, 40)}`);
    }
    for (const part of slide.querySelectorAll(".body, .column, .frame, figure, header, footer"))
      if (part.scrollHeight > part.clientHeight + 2 || part.scrollWidth > part.clientWidth + 2)
        found.push(`${slide.id}: .${part.className} holds more than it shows`);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `present` writes of a lane of tiny trained models, in a folder of another name."""
    out = tmp_path_factory.mktemp("a lane")
    runs = {run: trained_settings(run) for run in TRAINED}
    site.write(out, "demo", "The demo", runs, folders_in(trained_lane()))
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield started
        started.close()


@pytest.fixture
def opened(browser: Browser, folder: Path) -> Iterator["Opened"]:
    made = Opened(browser, folder)
    yield made
    for context in browser.contexts:
        context.close()
    assert made.said == []
    assert all(address.startswith(("file:", "data:", "blob:")) for address in made.requests)


class Opened:
    """Opens the slides and listens: what the page asks for, and what it complains about."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self._browser, self._folder = browser, folder
        self.said: list[str] = []
        self.requests: list[str] = []

    def page(self, size: str = "projector", scheme: Any = "light", name: str = site.DECK, **more: Any) -> Page:
        width, height = SIZES[size]
        viewport: Any = {"width": width, "height": height}
        context = self._browser.new_context(
            viewport=viewport, color_scheme=scheme, offline=True, **{"reduced_motion": "reduce"} | more
        )
        page = context.new_page()
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("requestfailed", lambda request: self.said.append(f"failed: {request.url}"))
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.goto((self._folder / name).as_uri())
        return page


def current(page: Page) -> int:
    page.wait_for_timeout(60)
    found: int = page.evaluate("current")
    return found


def in_view(page: Page) -> int:
    """The slide whose top is at the top of the window."""
    found: int = page.evaluate("slides.findIndex((slide) => Math.abs(slide.getBoundingClientRect().top) < 3)")
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_nothing_overflows_and_every_image_is_there(opened: Opened, size: str, scheme: str) -> None:
    page = opened.page(size, scheme)
    page.wait_for_load_state("load")
    assert page.evaluate("slides.length") > 20
    assert page.evaluate(OVERFLOWING) == []
    broken = "[...document.images].filter((one) => !one.complete || !one.naturalWidth).map((one) => one.src)"
    assert page.evaluate(broken) == []
    assert page.evaluate("document.images.length") > 15
    dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", dark)[:3])) < 200) == (scheme == "dark")


def test_the_page_of_all_results_is_there_too(opened: Opened) -> None:
    page = opened.page()
    page.click("text=All results")
    assert page.url.endswith("/results.html")
    assert page.evaluate("[...document.images].every((one) => one.complete && one.naturalWidth)")
    page.click("text=The slides")
    page.wait_for_url("**/index.html*")


def test_keys_lead_through_the_slides(opened: Opened) -> None:
    page = opened.page()
    last = page.evaluate("slides.length - 1")
    for key, expected in [
        ("ArrowRight", 1), ("ArrowDown", 2), ("Space", 3), ("PageDown", 4), ("ArrowLeft", 3), ("ArrowUp", 2),
        ("Shift+Space", 1), ("PageUp", 0), ("ArrowLeft", 0), ("End", last), ("ArrowRight", last), ("Home", 0),
    ]:  # fmt: skip
        page.keyboard.press(key)
        assert (current(page), in_view(page)) == (expected, expected), key
    page.keyboard.press("ArrowRight")
    assert page.url.endswith("#autoencoder")
    page.reload()
    assert (current(page), in_view(page)) == (1, 1)


def test_keys_with_motion(opened: Opened) -> None:
    """Pressed faster than the slides move."""
    page = opened.page(reduced_motion="no-preference")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.wait_for_timeout(1000)
    assert (current(page), in_view(page)) == (4, 4)


def test_the_table_of_contents(opened: Opened) -> None:
    page = opened.page()
    page.keyboard.press("t")
    links = page.locator("dialog[open] li a")
    assert links.count() == page.evaluate("slides.length")
    links.nth(5).focus()
    page.keyboard.press("Enter")
    assert current(page) == 5
    assert page.locator("dialog[open]").count() == 0
    page.click("[data-contents]")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")
    assert current(page) == 6


def test_wheel_finger_and_buttons(opened: Opened) -> None:
    page = opened.page("phone", has_touch=True)
    page.tap('[data-go="1"]')
    assert current(page) == 1
    page.mouse.wheel(0, 2500)
    page.wait_for_timeout(300)
    assert current(page) > 1
    buttons = page.locator("nav button")
    for index in range(buttons.count()):
        box = buttons.nth(index).bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 44  # a finger's width


def test_focus_can_be_seen_and_everything_has_a_name(opened: Opened) -> None:
    page = opened.page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.matches('a, button')")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    nameless = """[...document.querySelectorAll("img, svg, canvas, button, input")].filter((one) =>
      !one.alt && !one.matches("[aria-label], [aria-hidden]") && !one.textContent.trim()).length"""
    assert page.evaluate(nameless) == 0


CONTRAST = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => parts(colour).slice(0, 3).map((one) => one / 255)
    .map((one) => (one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    .reduce((sum, one, index) => sum + one * [0.2126, 0.7152, 0.0722][index], 0);
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if ((parts(colour)[3] ?? 1) > 0.9 && !colour.startsWith("color")) return colour;
    }
    return getComputedStyle(document.documentElement).backgroundColor;
  };
  return [...document.querySelectorAll(".slide *")].filter((one) =>
    [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()) && !one.closest("svg, script")
  ).map((one) => {
    const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), one.textContent.trim().slice(0, 40)];
  }).filter(([ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(opened: Opened, scheme: str) -> None:
    assert opened.page(scheme=scheme).evaluate(CONTRAST) == []


def test_the_slider_moves_through_training(opened: Opened) -> None:
    page = opened.page()
    film = page.locator("#training-g .film")
    film.scroll_into_view_if_needed()
    last = film.locator("output").inner_text()
    assert last == "120 images seen"
    shown = film.locator("img").get_attribute("src")
    film.locator("input").focus()
    page.keyboard.press("Home")
    assert film.locator("output").inner_text() == "0 images seen"
    assert film.locator("img").get_attribute("src") != shown
    assert page.evaluate("slides[current].id") == "training-g"  # Home moved the slider, not the slides
    film.locator("button").click()
    page.wait_for_function("document.querySelector('#training-g output').textContent === '120 images seen'")
    page.wait_for_function("document.querySelector('#training-g button').getAttribute('aria-label') === 'Play'")


def test_after_the_pointer_keys_lead_through_the_slides(opened: Opened) -> None:
    page = opened.page()
    page.goto(page.url.partition("#")[0] + "#training-g")
    for used in ("#training-g .film input", "#gan .chart svg"):
        place = page.locator(used).first
        place.scroll_into_view_if_needed()
        place.click()
        page.wait_for_function("(id) => slides[current].id === id", arg=used.split()[0][1:])
        at = current(page)
        page.keyboard.press("ArrowRight")
        assert current(page) == at + 1
    page.locator("#training-g .film input").focus()
    page.keyboard.press("PageDown")  # as presenters' remotes say
    assert page.evaluate("slides[current].id") != "training-g"


def test_values_of_curves(opened: Opened, folder: Path) -> None:
    page = opened.page()
    chart = page.locator("#two-losses .chart").first
    chart.scroll_into_view_if_needed()
    box = chart.locator("svg").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.95, box["y"] + box["height"] / 2)
    said = chart.locator("output").all_inner_texts()
    rows = (folders_in(trained_lane()).runs / "digits-vae/training/steps.csv").read_text().splitlines()
    assert float(said[0].replace(",", "")) == pytest.approx(float(rows[-1].split(",")[2]), rel=0.01)
    assert said[-1] == "120 images seen"
    page.mouse.move(1, 1)
    assert set(chart.locator("output").all_inner_texts()) == {""}
    chart.locator("svg").focus()
    page.keyboard.press("ArrowRight")
    assert chart.locator("output").last.inner_text() == f"{rows[1].split(',')[1]} images seen"


def test_the_explorer_decodes_as_python_does(opened: Opened) -> None:
    page = opened.page()
    model = models.load(folders_in(trained_lane()).runs / "digits-vae-2d/model.safetensors")
    codes = [[0.0, 0.0], [1.5, -0.5], [-2.9, 2.9], [0.01, 3.0], [-1.1, -2.2]]
    expected = model.decode(torch.tensor(codes)).numpy()
    assert expected.std() > 1  # something is drawn
    for code, image in zip(codes, expected, strict=True):
        drawn = np.array(page.evaluate("(code) => [...explorers[0].decode(code)]", code)).reshape(image.shape)
        difference = np.abs(drawn.astype(int) - image.astype(int))
        assert difference.mean() < 0.05  # of 255
        assert difference.max() <= 1


def test_pointer_and_keys_move_through_the_plane(opened: Opened) -> None:
    page = opened.page()
    page.goto(page.url.partition("#")[0] + "#explorer")
    page.wait_for_function("explorers[0].painted()")
    plane, said = page.locator(".map"), page.locator(".explorer output")
    pixels = "document.querySelector('.image').toDataURL()"
    before = page.evaluate(pixels)
    box = plane.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.25)
    assert said.inner_text() == "(1.50, 1.50)"
    assert page.evaluate(pixels) != before
    plane.focus()
    at = current(page)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    assert said.inner_text() == "(1.40, 1.00)"
    assert current(page) == at


def test_touch_moves_through_the_plane(opened: Opened) -> None:
    page = opened.page("phone", has_touch=True)
    plane = page.locator(".map")
    plane.scroll_into_view_if_needed()
    box = plane.bounding_box()
    assert box is not None
    page.touchscreen.tap(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.75)
    said = page.locator(".explorer output").inner_text().replace("\u2212", "-")
    assert [float(number) for number in said[1:-1].split(",")] == pytest.approx([-1.5, -1.5], abs=0.05)


def test_one_printed_page_a_slide(opened: Opened, tmp_path: Path) -> None:
    page = opened.page()
    count = page.evaluate("slides.length")
    path = tmp_path / "slides.pdf"
    page.pdf(path=path, prefer_css_page_size=True, print_background=True)
    data = path.read_bytes()
    assert len(re.findall(rb"/Type\s*/Page\b", data)) == count
    sizes = set(re.findall(rb"/MediaBox\s*\[0 0 ([\d.]+) ([\d.]+)\]", data))
    assert [[float(side) for side in size] for size in sizes] == [pytest.approx([960, 540], abs=1.5)]
    if (reader := shutil.which("pdftotext")) is None:
        pytest.skip("one page a slide; what is on them was not read: no pdftotext on this machine")
    pages = subprocess.run([reader, path, "-"], capture_output=True, text=True, check=True).stdout.split("\f")
    expected = page.evaluate(
        """slides.map((slide, index) => [`${index + 1} / ${slides.length}`, slide.querySelector("h1, h2").textContent,
          ...[...slide.querySelectorAll("figcaption")].map((one) => one.textContent)])"""
    )
    for printed, words in zip(pages, expected, strict=False):
        said = "".join(printed.split())
        assert [one for one in words if "".join(one.split()) not in said] == []


def test_without_motion_nothing_moves_by_itself(opened: Opened) -> None:
    page = opened.page()
    assert page.evaluate("document.getAnimations().length") == 0
    assert page.evaluate("[...document.images].every((one) => !one.currentSrc.endsWith('.gif'))")


def test_an_unusual_start(opened: Opened, browser: Browser) -> None:
    """A hash that names no slide."""
    page = opened.page(name=site.DECK)
    page.goto(page.url.partition("#")[0] + "#nowhere")
    page.reload()
    assert current(page) == 0
