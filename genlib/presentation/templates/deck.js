"use strict";
const slides = [...document.querySelectorAll(".slide")];
const contents = document.getElementById("contents");
const still = matchMedia("(prefers-reduced-motion: reduce)");
const json = (element) => JSON.parse(element.querySelector('script[type="application/json"]').textContent);
let current = 0;
let aimed = null;

function goTo(index) {
  const target = Math.max(0, Math.min(slides.length - 1, index));
  aimed = target;
  show(target);
  slides[target].scrollIntoView({ behavior: still.matches ? "instant" : "smooth", block: "start" });
}

function show(index) {
  current = index;
  history.replaceState(null, "", "#" + slides[index].id);
  slides.forEach((slide, at) => slide.classList.toggle("current", at === index));
  document.querySelector('[data-go="-1"]').disabled = index === 0;
  document.querySelector('[data-go="1"]').disabled = index === slides.length - 1;
}

// Scrolling by hand or finger: the slide at the middle of the window is the current one.
function atMiddle() {
  const middle = innerHeight / 2;
  const found = slides.findIndex((slide) => slide.getBoundingClientRect().bottom > middle);
  return found < 0 ? slides.length - 1 : found;
}

addEventListener("scroll", () => {
  const index = atMiddle();
  if (aimed === index) aimed = null;
  if (aimed === null && index !== current) show(index);
}, { passive: true });
addEventListener("scrollend", () => { aimed = null; });
addEventListener("wheel", () => { aimed = null; }, { passive: true });
addEventListener("touchstart", () => { aimed = null; }, { passive: true });

// Keys that what has the focus needs itself.
const ARROWS = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"];
const OWN_KEYS = [
  ["input", [...ARROWS, "Home", "End"]],
  ["svg, canvas", ARROWS],
  ["a, button", [" ", "Enter"]],
];

// After a mouse or finger, keys lead through the slides again; who came to a slider or chart by Tab keeps them there.
addEventListener("pointerup", (event) => {
  const used = event.target.closest("input, .chart svg");
  if (used) used.blur();
});

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || contents.open) return;
  if (OWN_KEYS.some(([selector, keys]) => event.target.matches(selector) && keys.includes(event.key))) return;
  const tall = slides[current].offsetHeight > innerHeight + 2;
  const steps = { ArrowRight: 1, PageDown: 1, ArrowLeft: -1, PageUp: -1 };
  if (!tall) Object.assign(steps, { ArrowDown: 1, ArrowUp: -1, " ": event.shiftKey ? -1 : 1 });
  if (event.key in steps) goTo(current + steps[event.key]);
  else if (event.key === "Home") goTo(0);
  else if (event.key === "End") goTo(slides.length - 1);
  else if (event.key === "t" || event.key === "T") contents.showModal();
  else return;
  event.preventDefault();
});

document.querySelectorAll("[data-go]").forEach((button) => {
  button.addEventListener("click", () => goTo(current + Number(button.dataset.go)));
});
document.querySelector("[data-contents]").addEventListener("click", () => contents.showModal());
contents.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  if (link) {
    event.preventDefault();
    contents.close();
    goTo(slides.findIndex((slide) => "#" + slide.id === link.getAttribute("href")));
  } else if (event.target === contents) contents.close();
});

// Without this a resized window shows the seam between two slides.
let lastWidth = innerWidth;
addEventListener("resize", () => {
  // On a phone the bars of the browser come and go: the height alone says nothing.
  if (innerWidth !== lastWidth || slides[current].offsetHeight <= innerHeight + 2) {
    slides[current].scrollIntoView({ behavior: "instant" });
  }
  lastWidth = innerWidth;
});
addEventListener("hashchange", () => {
  const index = slides.findIndex((slide) => "#" + slide.id === location.hash);
  if (index >= 0 && index !== current) goTo(index);
});
const opened = slides.findIndex((slide) => "#" + slide.id === location.hash);
if (opened > 0) slides[opened].scrollIntoView({ behavior: "instant" });
show(Math.max(0, opened));

// Moments of training behind a slider.
document.querySelectorAll(".film").forEach((film) => {
  const { frames, captions } = json(film);
  const [image, slider, button, said] = ["img", "input", "button", "output"].map((name) => film.querySelector(name));
  let timer = null;
  frames.forEach((uri) => { new Image().src = uri; });
  const draw = () => {
    image.src = frames[slider.value];
    said.textContent = captions[slider.value];
    slider.setAttribute("aria-valuetext", captions[slider.value]);
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = "▶";
    button.setAttribute("aria-label", "Play");
  };
  const play = () => {
    if (Number(slider.value) === frames.length - 1) slider.value = 0;
    draw();
    button.textContent = "❚❚";
    button.setAttribute("aria-label", "Pause");
    timer = setInterval(() => {
      slider.value = Number(slider.value) + 1;
      draw();
      if (Number(slider.value) === frames.length - 1) stop();
    }, 250);
  };
  slider.addEventListener("input", () => { stop(); draw(); });
  button.addEventListener("click", () => (timer === null ? play() : stop()));
  addEventListener("beforeprint", () => { stop(); slider.value = frames.length - 1; draw(); });
  draw();
});
