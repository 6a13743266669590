import { average, deviation, fixed, folded, plain, range, short, sum, whole } from "./numbers.js";
import { LARGEST, data, layersOf, runs, runsWith, scaled, weightOf } from "./values.js";
import { layerIndex, named, ownLayers, several, state, stepsOf, whose, withKind } from "./series.js";
import { choice, layerSelect, layout, panel, seriesTitle, strokeOf, title } from "./elements.js";
import { RowPlot } from "./plots.js";
import { hasSpread, leading, tells } from "./preference.js";
import { relationFigure, styleFigure } from "./places.js";
import { overSteps, strokeWidth, trainingPanels } from "./training.js";

/* A share as it is written. */
const fraction = value => ["½", "⅓", "¼"].find((_, i) => Math.abs(value - 1 / (i + 2)) < 1e-6) ?? plain(value);

const barsFigure = family => ({
  columns: width => layout(width, 330, 2).n,
  draw(width) {
    const { size } = layout(width, 330, 2);
    return withKind(family).flatMap(one => family.words.map((words, moment) =>
      panel(several() ? seriesTitle(one, words) : title(`Weights of ${words}`), stackedBars(family, one, moment, size))));
  },
  finding() {
    const found = withKind(family).slice(0, 3).map(one => {
      const each = family.words.map((words, moment) => {
        const of = `in ${family.statistics ? "the " : ""}${words}`, found = leading(family, one, moment);
        if (found) return `${found.label}${family.statistics ? " statistics" : ""} lead ${of} (${short(found.mean)})`;
        return hasSpread(family, one, moment) ? `none lead ${of}, though layers differ` : `no preference yet ${of}`;
      });
      return each.join(" and ") + whose(one);
    });
    return `On average over the layers: ${found.join("; ")}.`;
  },
});

function stackedBars(family, one, moment, width) {
  const layers = ownLayers(one, family), height = layers.length > 24 ? 16 : 26;
  const plot = new RowPlot(`Weights of ${family.words[moment]}, ${one.name}`, layers, width, height);
  plot.values();
  layers.forEach((layer, l) => {
    const each = one.members.map(run => family.labels.map((_, k) => weightOf(family, run, state.step, l, moment, k)));
    family.labels.forEach((name, k) => {
      const upTo = end => each.map(values => sum(values.slice(0, end))), [start, end] = [k, k + 1].map(upTo);
      const [left, right] = [start, end].map(values => plot.X(average(values)));
      plot.box(left, plot.row(l) + 2, right - left - 1, height - 4, { fill: family.colors[k] });
      const weight = folded(each.map(values => values[k]), fixed), y = plot.lane(l);
      plot.probe((left + right) / 2, y, layer.name, [`${name}, ${family.words[moment]}`, weight]);
      const spread = k + 1 < family.labels.length ? plot.X(deviation(end)) - plot.X(0) : 0;
      if (spread > 0) plot.segment(right - spread, y, right + spread, y, { class: "whisker" });
    });
  });
  family.labels.slice(1).forEach((_, k) => plot.vertical((k + 1) / family.labels.length, "start"));
  return plot.node;
}

/* The top of an axis with room for every weight of the series. */
function highestWeight(family, series) {
  const highest = series.flatMap(one => one.members).map(run => {
    const size = family.words.length * family.labels.length, first = runs[run].cells[family.name] * size;
    const own = family.packed.subarray(first, first + runs[run].steps.length * layersOf(run, family).length * size);
    return scaled(family, own.reduce((a, b) => (b > LARGEST ? a : Math.max(a, b)), 0) / LARGEST);
  });
  return Math.min(family.range[1], Math.ceil(10 * Math.max(0.45, ...highest) + 0.5) / 10);
}

const weightTrainingFigure = family => ({
  exists: () => runsWith(family).some(run => runs[run].steps.length > 1),
  options() {
    const small = choice("Small plots", `${family.name}-moment`, Object.entries(family.words));
    return [layerSelect(family, `${family.name}-layer`), family.words.length > 1 ? small : null].filter(Boolean);
  },
  draw(width) {
    const high = highestWeight(family, withKind(family)), name = state[`${family.name}-layer`];
    const large = (series, frame) => family.words.map((words, moment) => {
      const plot = weightsOverSteps(family, series, name, frame, moment, high);
      return panel(title(`Weights of ${words} `, name || "mean over all layers"), plot);
    });
    const chosen = Number(state[`${family.name}-moment`]);
    const small = (series, layer, frame) => weightsOverSteps(family, series, layer, frame, chosen, high);
    return trainingPanels(family, `${family.name}-layer`, width, large, small);
  },
  finding() {
    const [one] = withKind(family), layers = range(ownLayers(one, family).length);
    const all = one.members.flatMap(run => layers.flatMap(l => family.words.flatMap((_, moment) =>
      family.labels.map((_, k) => weightOf(family, run, Infinity, l, moment, k)))));
    const subject = several() ? `the weights of ${one.name}` : "the weights";
    const from = family.neutral === null ? "Over the training," : `From ${fraction(family.neutral)} each,`;
    if (family.neutral !== null && !all.some(value => tells(family, value - family.neutral))) {
      return `No preference yet: ${subject} are still within ${plain(data.noise)} of ${fraction(family.neutral)} each.`;
    }
    return `${from} ${subject} have spread to between ${short(Math.min(...all))} and ${short(Math.max(...all))}.`;
  },
});

function weightsOverSteps(family, series, name, frame, moment, high) {
  const label = `Weights of ${family.words[moment]} over the training, ${name || "mean over all layers"}`;
  const plot = overSteps(label, frame, [Math.min(0, family.range[0]), high]);
  if (family.neutral !== null) plot.horizontal(family.neutral, "third");
  for (const one of series) {
    const l = layerIndex(one, family, name), steps = stepsOf(one);
    if (name && l < 0) continue;
    const layers = l < 0 ? range(ownLayers(one, family).length) : [l];
    const over = (members, chosen, k, at = steps) => at.map(step =>
      [step, average(members.flatMap(run => chosen.map(layer => weightOf(family, run, step, layer, moment, k))))]);
    family.labels.forEach((statistic, k) => {
      const stroke = family.colors[k], track = over(one.members, layers, k);
      const seeds = one.members.length > 1 ? one.members.map(run => over([run], layers, k, runs[run].steps)) : null;
      const fine = seeds ?? (several() ? [] : layers.map(layer => over(one.members, [layer], k)));
      if (frame.large) fine.forEach(points => plot.line(points, { class: "fine", stroke }));
      plot.line(track, strokeOf(one, stroke, strokeWidth(frame.large)));
      for (const [step, value] of track) {
        plot.probe(plot.X(step), plot.Y(value), `step ${whole(step)}`, ...named(one), [statistic, fixed(value)]);
      }
    });
  }
  return plot.node;
}

/** The figures of a family of kinds with labels. */
export const weightFigures = family => ({
  [`${family.name}-layers`]: barsFigure(family),
  [`${family.name}-training`]: weightTrainingFigure(family),
  [`${family.name}-relations`]: relationFigure(family),
  [`${family.name}-styles`]: styleFigure(family),
});
