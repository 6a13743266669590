import { count, plain, signed, welch } from "./numbers.js";
import { architectures, channelKinds, families, gatesOf, runs, weightOf } from "./values.js";
import { layerIndex, ownLayers, state, units } from "./series.js";
import { tells } from "./preference.js";
import { element, panel, select } from "./elements.js";
import { RowPlot, ticks } from "./plots.js";

export const compared = units.group.length > 1 ? units.group : units.run;
/** @type {Record<string, import("./types").Measure>} */
const measures = {};
for (const kind of channelKinds) {
  const [low, high] = kind.limits.map(plain), of = channelKinds.length > 1 ? ` of ${kind.name}` : "";
  const names = { mean: `mean ${kind.name}`, below: `share${of} below ${low}`, above: `share${of} above ${high}` };
  for (const [part, words] of Object.entries(names)) {
    const range = part === "mean" ? kind.range : [0, 1];
    measures[words] = { kind, range, value: (run, l) => gatesOf(kind, run, state.step, l)[part] };
  }
}
for (const family of families) {
  family.words.forEach((moment, m) => family.labels.forEach((name, k) => {
    const value = (run, l) => weightOf(family, run, state.step, l, m, k);
    measures[`${name} weight of ${moment}`] = { kind: family, range: family.range, value };
  }));
}

/* The measures that some layer of both series has, of two series' architectures. */
function commonMeasures(first, second) {
  const names = ({ name }) => new Set(architectures[first][name].map(layer => layer.name));
  return Object.keys(measures).filter(words => {
    const { kind } = measures[words], known = names(kind);
    return architectures[second][kind.name].some(layer => known.has(layer.name));
  });
}

/* What is compared to begin with: two series of the same layers if there are such, else of some in common. */
function firstCompared() {
  const built = compared.map(one => runs[one.members[0]].architecture), kinds = [...new Set(built)];
  const alike = kinds.filter(one => built.indexOf(one) !== built.lastIndexOf(one)).map(one => [one, one]);
  const others = kinds.flatMap((one, i) => kinds.slice(i + 1).map(other => [one, other]));
  const pair = [...alike, ...others].find(([one, other]) => commonMeasures(one, other).length);
  if (!pair) return null;
  const first = built.indexOf(pair[0]), second = built.indexOf(pair[1], first + 1);
  return { first: String(first), second: String(second), measure: commonMeasures(...pair)[0] };
}

const BEGIN = firstCompared();
export const chooseCompared = () => Object.assign(state, BEGIN);

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
  exists: () => BEGIN !== null,
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
    const among = count(rows.length, "layer");
    if (!rows.some(row => Number.isFinite(row.half))) {
      if (tells(measures[state.measure], largest.difference)) return words;
      return `No difference yet: none is larger than ${signed(Math.abs(largest.difference))}.`;
    }
    if (clear.length > rows.length / 20) return `${words} In ${clear.length} of ${among} the interval leaves out 0.`;
    return `No difference beyond chance: in ${clear.length} of ${among} the interval leaves out 0.`;
  },
};
