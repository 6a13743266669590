import { average, deviation, fixed, folded, range, short, sum, whole } from "./numbers.js";
import { LARGEST, MOMENTS, STATISTICS, layersOf, runs, runsWith, weightOf, weights } from "./values.js";
import { layerIndex, named, ownLayers, several, state, stepsOf, whose, withKind } from "./series.js";
import { choice, layerSelect, layout, panel, seriesTitle, strokeOf, title } from "./elements.js";
import { RowPlot, figures } from "./plots.js";
import { overSteps, strokeWidth, trainingPanels } from "./training.js";

figures["switch-layers"] = {
  columns: width => layout(width, 330, 2).n,
  draw(width) {
    const { size } = layout(width, 330, 2);
    return withKind("switch").flatMap(one => MOMENTS.map((words, moment) =>
      panel(several() ? seriesTitle(one, words) : title(`Weights of ${words}`), stackedBars(one, moment, size))));
  },
  finding() {
    const found = withKind("switch").slice(0, 3).map(one => {
      const layers = range(ownLayers(one, "switch").length);
      const largest = MOMENTS.map((words, moment) => {
        const of = k => average(one.members.flatMap(run => layers.map(l => weightOf(run, state.step, l, moment, k))));
        const means = STATISTICS.map((_, k) => of(k)), most = Math.max(...means);
        return `${STATISTICS[means.indexOf(most)]} statistics in the ${words} (${short(most)})`;
      });
      return largest.join(" and ") + whose(one);
    });
    return `On average over the layers, the largest weights are those of ${found.join("; ")}.`;
  },
};

function stackedBars(one, moment, width) {
  const layers = ownLayers(one, "switch"), height = layers.length > 24 ? 16 : 26;
  const plot = new RowPlot(`Switch weights of ${MOMENTS[moment]}, ${one.name}`, layers, width, height);
  plot.shares();
  layers.forEach((layer, l) => {
    const each = one.members.map(run => STATISTICS.map((_, k) => weightOf(run, state.step, l, moment, k)));
    STATISTICS.forEach((name, k) => {
      const upTo = end => each.map(values => sum(values.slice(0, end))), [start, end] = [k, k + 1].map(upTo);
      const [left, right] = [start, end].map(values => plot.X(average(values)));
      plot.box(left, plot.row(l) + 2, right - left - 1, height - 4, { fill: `var(--${name})` });
      const weight = folded(each.map(values => values[k]), fixed), y = plot.lane(l);
      plot.probe((left + right) / 2, y, layer.name, [`${name}, ${MOMENTS[moment]}`, weight]);
      const spread = k + 1 < STATISTICS.length ? plot.X(deviation(end)) - plot.X(0) : 0;
      if (spread > 0) plot.segment(right - spread, y, right + spread, y, { class: "whisker" });
    });
  });
  [1 / 3, 2 / 3].forEach(value => plot.vertical(value, "start"));
  return plot.node;
}

/* The top of an axis with room for every weight of the series. */
function highestWeight(series) {
  const highest = series.flatMap(one => one.members).map(run => {
    const size = layersOf(run, "switch").length * MOMENTS.length * STATISTICS.length, first = runs[run].switch;
    const own = weights.subarray(first * MOMENTS.length * STATISTICS.length).subarray(0, runs[run].steps.length * size);
    return own.reduce((a, b) => (b > LARGEST ? a : Math.max(a, b)), 0) / LARGEST;
  });
  return Math.min(1, Math.ceil(10 * Math.max(0.45, ...highest) + 0.5) / 10);
}

figures["switch-training"] = {
  exists: () => runsWith("switch").some(run => runs[run].steps.length > 1),
  options() {
    return [layerSelect("switch", "switchLayer"), choice("Small plots", "moment", Object.entries(MOMENTS))];
  },
  draw(width) {
    const high = highestWeight(withKind("switch")), name = state.switchLayer;
    const large = (series, frame) => MOMENTS.map((words, moment) => {
      const plot = weightsOverSteps(series, name, frame, moment, high);
      return panel(title(`Weights of ${words} `, name || "mean over all layers"), plot);
    });
    const small = (series, layer, frame) => weightsOverSteps(series, layer, frame, Number(state.moment), high);
    return trainingPanels("switch", "switchLayer", width, large, small);
  },
  finding() {
    const [one] = withKind("switch"), layers = range(ownLayers(one, "switch").length);
    const ofLayer = (run, l) => [0, 1].flatMap(moment => STATISTICS.map((_, k) => weightOf(run, Infinity, l, moment, k)));
    const of = run => layers.flatMap(l => ofLayer(run, l));
    const subject = several() ? `the weights of ${one.name}` : "the weights";
    const all = one.members.flatMap(of);
    return `From ⅓ each, ${subject} have spread to between ${short(Math.min(...all))} and ${short(Math.max(...all))}.`;
  },
};

function weightsOverSteps(series, name, frame, moment, high) {
  const label = `Switch weights of ${MOMENTS[moment]} over the training, ${name || "mean over all layers"}`;
  const plot = overSteps(label, frame, high);
  plot.horizontal(1 / 3, "third");
  for (const one of series) {
    const l = layerIndex(one, "switch", name), steps = stepsOf(one);
    if (name && l < 0) continue;
    const layers = l < 0 ? range(ownLayers(one, "switch").length) : [l];
    const over = (members, chosen, k) => steps.map(step =>
      [step, average(members.flatMap(run => chosen.map(layer => weightOf(run, step, layer, moment, k))))]);
    STATISTICS.forEach((statistic, k) => {
      const stroke = `var(--${statistic})`, track = over(one.members, layers, k);
      const seeds = one.members.length > 1 ? one.members.map(run => over([run], layers, k)) : null;
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
