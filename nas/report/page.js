"use strict";

// Draws the embedded figures, repaints them when the reader's colour scheme changes, and lets arrow keys walk through
// their points.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const style = getComputedStyle(document.documentElement);
  const colour = (role) => style.getPropertyValue(`--plot-${role}`).trim();
  const config = { responsive: true, displayModeBar: false };

  function painted(figure) {
    const copy = structuredClone(figure);
    for (const trace of copy.data) {
      const paint = colour(trace.meta.role);
      for (const part of [trace.marker, trace.line, trace.error_x]) {
        if (part) part.color = paint;
      }
    }
    const layout = copy.layout;
    layout.font.color = colour("ink");
    for (const axis of [layout.xaxis, layout.yaxis]) {
      axis.gridcolor = axis.linecolor = colour("grid");
    }
    for (const shape of layout.shapes || []) shape.line.color = colour("limit");
    for (const annotation of layout.annotations || []) annotation.font.color = colour("limit");
    layout.hoverlabel.bgcolor = style.getPropertyValue("--card").trim();
    layout.hoverlabel.bordercolor = style.getPropertyValue("--line").trim();
    layout.hoverlabel.font.color = style.getPropertyValue("--ink").trim();
    return copy;
  }

  function draw() {
    for (const place of document.querySelectorAll("[data-figure]")) {
      const figure = painted(figures[place.dataset.figure]);
      Plotly.react(place, figure.data, figure.layout, config);
    }
  }

  const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };

  // Left and right walk along a series by x, up and down to the next series; the point is shown and spoken.
  function walk(place) {
    const series = figures[place.dataset.figure].data
      .map((trace, curveNumber) => ({ ...trace, curveNumber }))
      .filter((trace) => trace.hovertext && trace.hovertext.length);
    for (const each of series) each.order = [...each.x.keys()].sort((a, b) => each.x[a] - each.x[b]);
    let chosen = Math.max(series.findIndex((trace) => trace.meta.role === "front"), 0);
    let position = -1;
    place.addEventListener("keydown", (event) => {
      if (event.key === "Escape") Plotly.Fx.unhover(place);
      const step = steps[event.key];
      if (!step || !series.length) return;
      event.preventDefault();
      if (step[0]) [chosen, position] = [(chosen + step[0] + series.length) % series.length, 0];
      const { order, curveNumber, hovertext, name } = series[chosen];
      position = Math.min(Math.max(position + step[1], 0), order.length - 1);
      const pointNumber = order[position];
      Plotly.Fx.hover(place, [{ curveNumber, pointNumber }]);
      const text = hovertext[pointNumber].replaceAll("<br>", "; ");
      const plain = new DOMParser().parseFromString(text, "text/html").body.textContent;
      place.nextElementSibling.textContent = `${name}, ${position + 1} of ${order.length}: ${plain}`;
    });
    place.addEventListener("blur", () => Plotly.Fx.unhover(place));
  }

  if (document.querySelector("[data-figure]")) {
    draw();
    document.querySelectorAll("[data-figure]").forEach(walk);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  }
})();
