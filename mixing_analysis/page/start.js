import { channelKinds, data, families, sections } from "./values.js";
import { choose, folds, shownSteps, state } from "./series.js";
import { all, byId, keyOf } from "./elements.js";
import { channelFigures } from "./channels.js";
import { gateTrainingFigure } from "./training.js";
import { bimodalityFigure, gammaFigure } from "./relations.js";
import { relationFigure, styleFigure } from "./places.js";
import { chooseMetric, outcomeFigure } from "./outcomes.js";
import { metricsFigure } from "./metrics.js";
import { weightFigures } from "./weights.js";
import { chooseCompared, differenceFigure } from "./differences.js";
import { ablationFigure, chooseAblation } from "./ablation.js";
import { binarizedFigure } from "./binarized.js";
import { activationsFigure, listenToPictures, versionsFigure } from "./pictures.js";
import { drawSeries, play, playing } from "./controls.js";
import { entries, isWanted, redraw, update } from "./drawing.js";
import { facts, lead, notes, runTable } from "./overview.js";
import { hideTip, point, walk } from "./reading.js";

/** @returns {Record<string, import("./types").Figure>} each figure by its id, in the order of the page */
const figures = () => Object.assign(
  { versions: versionsFigure, activations: activationsFigure },
  ...channelKinds.map(kind => ({
    ...channelFigures(kind),
    [`${kind.name}-training`]: gateTrainingFigure(kind),
    [`${kind.name}-bimodality`]: bimodalityFigure(kind),
    [`${kind.name}-gamma`]: gammaFigure(kind),
    [`${kind.name}-relations`]: relationFigure(kind),
    [`${kind.name}-styles`]: styleFigure(kind),
  })),
  ...families.map(weightFigures),
  { difference: differenceFigure, metrics: metricsFigure, outcome: outcomeFigure, ablation: ablationFigure, binarized: binarizedFigure },
);

function watchFigures() {
  const observer = new IntersectionObserver(seen => {
    for (const { target, isIntersecting } of seen) entries.find(entry => entry.figure === target).near = isIntersecting;
    if (entries.some(entry => isWanted(entry, false))) redraw();
  }, { rootMargin: "600px" });
  for (const [id, spec] of Object.entries(figures())) {
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
  listenToPictures();
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
  const names = sections.map(({ name }) => name);
  const has = [...names, channelKinds.length && "channels", data.binarized && "binarized", data.outcomes.length && "outcomes", data.ablation.length && "ablation"];
  if (data.pictures.length) has.push("pictures");
  if (data.metrics.rows.length) has.push("metrics");
  all("[data-needs]").filter(node => !has.includes(node.dataset.needs)).forEach(node => node.remove());
  all("[data-section]").forEach(node => {
    const family = families.find(({ name }) => name === node.dataset.section);
    family?.labels.forEach((_, k) => node.querySelector(".legend").append(keyOf(family, k), " "));
  });
  for (const { name } of families) state[`${name}-moment`] = "0";
  choose(folds ? "group" : "run");
  state.step = Infinity;
  chooseCompared();
  chooseMetric();
  chooseAblation();
  lead();
  facts();
  runTable();
  notes();
  watchFigures();
  listen();
  redraw();
}

start();
