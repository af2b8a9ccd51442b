"use strict";

// Draws the embedded figures and repaints them when the reader's colour scheme changes.
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

  if (document.querySelector("[data-figure]")) {
    draw();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  }
})();
