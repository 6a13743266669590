import { data, rho, weights } from "./values.js";
import { choose, folds, shownSteps, state } from "./series.js";
import { byId } from "./elements.js";
import { figures } from "./plots.js";
import { chooseCompared, compared } from "./differences.js";
import { drawSeries, play, playing } from "./controls.js";
import { entries, isWanted, redraw, update } from "./drawing.js";
import { facts, lead, notes, runTable } from "./overview.js";
import { hideTip, point, walk } from "./reading.js";

function watchFigures() {
  const observer = new IntersectionObserver(seen => {
    for (const { target, isIntersecting } of seen) entries.find(entry => entry.figure === target).near = isIntersecting;
    if (entries.some(entry => isWanted(entry, false))) redraw();
  }, { rootMargin: "600px" });
  for (const [id, spec] of Object.entries(figures)) {
    const figure = byId(id), section = figure?.closest("section");
    if (!figure) continue;
    if (spec.exists && !spec.exists()) {
      figure.remove();
      if (!section.querySelector("figure")) section.remove();
    } else {
      entries.push({ figure, spec, stale: true, near: false });
      observer.observe(figure);
    }
  }
}

function listen() {
  byId("step").addEventListener("input", event => {
    play(false);
    state.step = shownSteps()[event.target.value];
    update();
  });
  byId("play").addEventListener("click", () => play(!playing));
  byId("search").addEventListener("input", event => {
    state.search = event.target.value;
    drawSeries();
  });
  ["pointermove", "pointerdown"].forEach(kind => document.addEventListener(kind, point));
  document.addEventListener("keydown", walk);
  document.addEventListener("focusout", hideTip);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) update();
    width = innerWidth;
  });
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.print = "";
    redraw(true);
  });
  addEventListener("afterprint", () => delete document.documentElement.dataset.print);
}

export function start() {
  const has = { rho, switch: weights, gamma: data.gamma.length, snapped: data.snapped };
  document.querySelectorAll("[data-needs]").forEach(node => has[node.dataset.needs] || node.remove());
  choose(folds ? "group" : "run");
  state.step = Infinity;
  if (compared.length > 1) chooseCompared();
  lead();
  facts();
  runTable();
  notes();
  watchFigures();
  listen();
  redraw();
}

start();
