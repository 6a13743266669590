import { count, plain, signed, welch } from "./numbers.js";
import { channelKinds, families, gatesOf, runs, weightOf } from "./values.js";
import { layerIndex, ownLayers, state, units } from "./series.js";
import { element, panel, select } from "./elements.js";
import { RowPlot, ticks } from "./plots.js";

export const compared = units.group.length > 1 ? units.group : units.run;
/** @type {Record<string, import("./types").Measure>} */
const measures = {};
for (const kind of channelKinds) {
  const [low, high] = kind.limits.map(plain), of = channelKinds.length > 1 ? ` of ${kind.name}` : "";
  const names = { mean: `mean ${kind.name}`, below: `share${of} below ${low}`, above: `share${of} above ${high}` };
  for (const [part, words] of Object.entries(names)) {
    measures[words] = { kind, value: (run, l) => gatesOf(kind, run, state.step, l)[part] };
  }
}
for (const family of families) {
  family.words.forEach((moment, m) => family.labels.forEach((name, k) => {
    const value = (run, l) => weightOf(family, run, state.step, l, m, k);
    measures[`${name} weight of ${moment}`] = { kind: family, value };
  }));
}

/* To begin with, two series are compared that have the same layers, if there are such. */
export function chooseCompared() {
  const built = compared.map(one => runs[one.members[0]].architecture);
  const first = Math.max(0, built.findIndex((one, i) => built.includes(one, i + 1)));
  const second = built.indexOf(built[first], first + 1);
  const measure = Object.keys(measures).find(name => ownLayers(compared[first], measures[name].kind).length);
  Object.assign(state, { first: String(first), second: String(Math.max(second, 1)), measure });
}

function layerDifferences() {
  const { kind, value } = measures[state.measure], first = compared[state.first], second = compared[state.second];
  return ownLayers(second, kind).flatMap((layer, l) => {
    const other = layerIndex(first, kind, layer.name);
    if (other < 0) return [];
    const [before, after] = [first.members.map(run => value(run, other)), second.members.map(run => value(run, l))];
    return [{ layer, ...welch(before, after) }];
  });
}

export const differenceFigure = {
  exists: () => compared.length > 1,
  options() {
    const names = compared.map((one, i) => [String(i), one.name]);
    const words = Object.keys(measures).map(name => [name, name]);
    return [select("Of the", "measure", words), select("in", "second", names), select("minus", "first", names)];
  },
  draw(width) {
    const rows = layerDifferences();
    if (!rows.length) return [element("p", {}, "These two have no layer in common of which this is known.")];
    const reach = 1.05 * Math.max(0.02, ...rows.map(({ difference, half }) => Math.abs(difference) + (half || 0)));
    const layers = rows.map(row => row.layer), height = rows.length > 24 ? 16 : 24;
    const plot = new RowPlot("Difference in each layer", layers, width, height, { x: [-reach, reach] });
    plot.xAxis(ticks(plot.x, width > 420 ? 8 : 4), value => signed(value, reach < 0.1 ? 3 : 2));
    plot.vertical(0, "axis");
    rows.forEach(({ layer, difference, half }, l) => {
      const x = plot.X(difference), y = plot.lane(l), ends = [difference - half, difference + half];
      if (half > 0) plot.segment(plot.X(ends[0]), y, plot.X(ends[1]), y, { class: "interval" });
      plot.add("circle", { class: Math.abs(difference) > half ? "clear" : "unclear", cx: x, cy: y, r: 4.5 });
      const interval = Number.isFinite(half) ? [["95 %", ends.map(end => signed(end)).join(" to ")]] : [];
      plot.probe(x, y, layer.name, ["difference", signed(difference)], ...interval);
    });
    return [panel(plot.node)];
  },
  finding() {
    const rows = layerDifferences(), clear = rows.filter(({ difference, half }) => Math.abs(difference) > half);
    if (!rows.length) return "";
    const largest = rows.reduce((a, b) => (Math.abs(b.difference) > Math.abs(a.difference) ? b : a));
    const words = `The largest difference is ${signed(largest.difference)} in ${largest.layer.name}.`;
    const certain = `In ${clear.length} of ${count(rows.length, "layer")} the interval leaves out 0.`;
    return rows.some(row => Number.isFinite(row.half)) ? `${words} ${certain}` : words;
  },
};
