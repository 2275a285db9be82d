// Values under the pointer, or at the cursor that the arrow keys move, in the legend of a chart.
document.querySelectorAll(".chart").forEach((chart) => {
  const { series, pixels } = json(chart);
  const svg = chart.querySelector("svg");
  const cursor = svg.querySelector(".cursor");
  const said = [...chart.querySelectorAll(".legend output")];
  const at = said.pop();
  const readable = (value) => (Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : Number(value.toPrecision(3)));
  let place = null;

  const nearest = (line, x) =>
    line.reduce((best, point, index) => (Math.abs(point[0] - x) < Math.abs(line[best][0] - x) ? index : best), 0);

  function show(x) {
    place = nearest(pixels[0], x);
    const exact = pixels[0][place][0];
    cursor.setAttribute("visibility", "visible");
    cursor.setAttribute("x1", exact);
    cursor.setAttribute("x2", exact);
    series.forEach((line, index) => {
      said[index].textContent = readable(line[nearest(pixels[index], exact)][1]);
    });
    at.textContent = Math.round(series[0][place][0]).toLocaleString("en") + " images seen";
  }

  function hide() {
    place = null;
    cursor.setAttribute("visibility", "hidden");
    [...said, at].forEach((output) => { output.textContent = ""; });
  }

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    show(((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width);
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const last = pixels[0].length - 1;
    const next = place === null ? (step > 0 ? 0 : last) : Math.max(0, Math.min(last, place + step));
    show(pixels[0][next][0]);
    event.preventDefault();
  });
});
