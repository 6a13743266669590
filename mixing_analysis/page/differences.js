import { significant, signed, whole } from "./numbers.js";
import { data, runs } from "./values.js";
import { state, units } from "./series.js";
import { byId, element, panel, select, table } from "./elements.js";
import { RowPlot, ticks } from "./plots.js";

/* All numbers and sentences of comparisons come with the page: nothing here is computed but the sign of what is turned
   around. */
const { pairs, measures, layers, alpha, answers } = data.comparisons;
const compared = units.group.length > 1 ? units.group : units.run;

/* The chosen pair, and whether it is turned around; null for two that were not compared. */
export function chosenPair() {
  const [first, second] = [Number(state.first), Number(state.second)];
  const of = (a, b) => pairs.find(({ sides }) => sides[0] === a && sides[1] === b);
  const pair = of(first, second) ?? of(second, first);
  return pair ? { ...pair, turned: pair.sides[0] !== first } : null;
}

const withParts = pairs.filter(pair => pair.parts.length);

export function chooseCompared() {
  const built = withParts.find(({ sides: [a, b] }) => architectureOf(a) === architectureOf(b)) ?? withParts[0];
  if (!built) return;
  const [first, second] = built.sides.map(String);
  Object.assign(state, { first, second, measure: String(built.parts[0].measure) });
}

const architectureOf = side => runs[compared[side].members[0]].architecture;

/* The rows of the chosen pair and measure, one for each layer. */
export function layerDifferences() {
  const pair = chosenPair(), part = pair?.parts.find(one => one.measure === Number(state.measure));
  if (!part) return [];
  const turn = value => (value === null ? null : -value);
  return part.layers.map((layer, i) => {
    const row = { layer: { name: layers[layer] } };
    for (const name of ["difference", "low", "high", "g", "g_low", "g_high", "p", "p_holm"]) row[name] = part[name][i];
    if (!pair.turned) return row;
    const [difference, low, high] = [row.difference, row.high, row.low].map(turn);
    const [g, g_low, g_high] = [row.g, row.g_high, row.g_low].map(turn);
    return { ...row, difference, low, high, g, g_low, g_high };
  });
}

const isClear = row => row.p_holm !== null && row.p_holm < alpha;
const reach = (low, high, form) => (low === null ? "–" : `${form(low)} to ${form(high)}`);
const ofG = value => signed(value, 1);
const ofP = p => (p === null ? "–" : p < 0.001 ? "< 0.001" : significant(p, Math.abs(p - alpha) > 0.001 ? 2 : 3));
const numbersOf = row => [
  ["difference", signed(row.difference)],
  ["95 %", reach(row.low, row.high, signed)],
  ["Hedges' g", row.g === null ? "–" : `${ofG(row.g)} (${reach(row.g_low, row.g_high, ofG)})`],
  ["p, Holm", ofP(row.p_holm)],
];

function stepsInWords() {
  const { sides, steps, turned } = chosenPair(), at = turned ? [...steps].reverse() : steps;
  if (at[0] === at[1]) return `At step ${whole(at[0])}, the last that all runs of both have.`;
  const [first, second] = turned ? [...sides].reverse() : sides;
  return `${compared[first].name} at step ${whole(at[0])}, ${compared[second].name} at step ${whole(at[1])}.`;
}

export const differenceFigure = {
  exists: () => withParts.length > 0,
  options() {
    const names = compared.map((one, i) => [String(i), one.name]);
    const there = (chosenPair()?.parts ?? []).map(part => String(part.measure));
    const words = measures.map((measure, m) => [String(m), measure.words]).filter(([m]) => there.includes(m));
    if (there.length && !there.includes(state.measure)) [state.measure] = there;
    return [select("Of the", "measure", words), select("in", "second", names), select("minus", "first", names)];
  },
  draw(width) {
    const rows = layerDifferences();
    if (!chosenPair()) return [element("p", {}, "These two were not compared.")];
    if (!rows.length) return [element("p", {}, "These two have no layer in common of which this is known.")];
    const most = 1.05 * Math.max(0.02, ...rows.flatMap(row => [row.difference, row.low, row.high].map(Math.abs)));
    const height = rows.length > 24 ? 16 : 24;
    const plot = new RowPlot("Difference in each layer", rows.map(row => row.layer), width, height, { x: [-most, most] });
    plot.xAxis(ticks(plot.x, width > 420 ? 8 : 4), value => signed(value, most < 0.1 ? 3 : 2));
    plot.vertical(0, "axis");
    rows.forEach((row, l) => {
      const x = plot.X(row.difference), y = plot.lane(l);
      if (row.low !== null) plot.segment(plot.X(row.low), y, plot.X(row.high), y, { class: "interval" });
      plot.add("circle", { class: isClear(row) ? "clear" : "unclear", cx: x, cy: y, r: 4.5 });
      plot.probe(x, y, row.layer.name, ...numbersOf(row));
    });
    if (rows.every(row => row.p_holm === null)) return [panel(plot.node)];
    const heads = ["Layer", ...numbersOf(rows[0]).map(([name]) => name)];
    const list = table(heads, rows.map(row => [row.layer.name, ...numbersOf(row).map(([, value]) => value)]), 1);
    return [panel(plot.node, element("details", {}, element("summary", {}, "The numbers"), list))];
  },
  finding() {
    const part = chosenPair()?.parts.find(one => one.measure === Number(state.measure));
    return part?.finding ?? "";
  },
  after() {
    byId("compared-at").textContent = chosenPair() ? stepsInWords() : "";
    byId("answers").replaceChildren(...answers.map(text => element("li", {}, `${text[0].toUpperCase()}${text.slice(1)}.`)));
    byId("answers").hidden = !answers.length;
  },
};
