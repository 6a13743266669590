import { count, signed, significant } from "./numbers.js";
import { data, runs } from "./values.js";
import { several, state } from "./series.js";
import { choice, element, layout, panel, select, title } from "./elements.js";
import { RowPlot, ticks } from "./plots.js";

const PLAIN = ["instance", "layer", "batch"];
const once = values => [...new Set(values)];
const ablatedMetrics = () => once(data.ablation.map(each => each.metric));
const ablatedStatistics = () => once(data.ablation.map(each => each.statistics));
const colorOfWay = forced => (PLAIN.includes(forced) ? `var(--${forced})` : "var(--soft)");

/* The networks of the shown series of which the chosen numbers are known. */
function ablatedShown() {
  const shown = state.shown.flatMap(one => one.members.map(run => runs[run].name));
  const own = data.ablation.filter(each => each.metric === state["ablation-metric"] && shown.includes(each.run));
  const alike = own.filter(each => each.statistics === state["ablation-statistics"]);
  return alike.length ? alike : own;
}

const scoreWords = each => (each.metric === "rms_change" ? "" : `${significant(each.learned, 4)} as learned, `);

function ablationPlot({ metric, learned, layers }, width) {
  const ways = layers.flatMap(layer => layer.ways), ends = ways.flatMap(way => [way.change, ...(way.interval ?? [])]);
  const [low, high] = [Math.min(0, ...ends), Math.max(0, ...ends)], margin = 0.04 * (high - low) || 1;
  const height = 9 * Math.max(...layers.map(layer => layer.ways.length)) + 6;
  const plot = new RowPlot(`What forcing a layer changes ${metric} by`, layers, width, height, { x: [low - margin, high + margin] });
  const digits = Math.max(0, Math.min(6, 1 - Math.floor(Math.log10(high - low || 1))));
  plot.xAxis(ticks(plot.x, width > 420 ? 6 : 3), value => signed(value, digits));
  plot.vertical(0, "axis");
  layers.forEach((layer, l) => layer.ways.forEach((way, w) => {
    const x = plot.X(way.change), y = plot.lane(l, w, layer.ways.length), stroke = colorOfWay(way.forced);
    const clear = way.interval && (way.interval[0] > 0 || way.interval[1] < 0);
    if (way.interval) plot.segment(plot.X(way.interval[0]), y, plot.X(way.interval[1]), y, { class: "interval", style: `stroke: ${stroke}` });
    plot.add("circle", { class: "clear", cx: x, cy: y, r: 3.5, style: `stroke: ${stroke}; fill: ${clear ? stroke : "var(--paper)"}` });
    const interval = way.interval ? [["95 %", way.interval.map(end => signed(end, digits + 1)).join(" to ")]] : [];
    plot.probe(x, y, layer.name, ["forced to", way.forced], ["change", signed(way.change, digits + 1)], ...interval, ["learned", significant(learned, 4)]);
  }));
  return plot.node;
}

const legendOfWays = layers => once(layers.flatMap(layer => layer.ways.map(way => way.forced)))
  .map(forced => element("em", { class: "key", style: `--color: ${colorOfWay(forced)}` }, forced));

export const ablationFigure = {
  exists: () => data.ablation.length > 0,
  options() {
    const kinds = ablatedStatistics().map(name => [name, name]);
    const metric = select("Change of", "ablation-metric", ablatedMetrics().map(name => [name, name]));
    return [metric, ...(kinds.length > 1 ? [choice("Running statistics", "ablation-statistics", kinds)] : [])];
  },
  columns: width => layout(width, 420, Math.max(1, ablatedShown().length)).n,
  draw(width) {
    const shown = ablatedShown(), { size } = layout(width, 420, Math.max(1, shown.length));
    if (!shown.length) return [element("p", {}, "Of the runs that are shown, none was ablated.")];
    return shown.map(each => {
      const note = `${scoreWords(each)}statistics ${each.statistics}, ${count(each.parts, "part")} of images`;
      const keys = element("div", { class: "legend" }, legendOfWays(each.layers));
      return panel(title(several() || shown.length > 1 ? `${each.run}: ${each.metric}` : each.metric, note), keys, ablationPlot(each, size));
    });
  },
  finding() {
    const shown = ablatedShown();
    return shown.map(each => (shown.length > 1 ? `${each.run}: ${each.finding}` : each.finding)).join(" ");
  },
};

export function chooseAblation() {
  const judged = ablatedMetrics().find(name => name.split("/").at(-1) === "loss") ?? ablatedMetrics()[0];
  Object.assign(state, { "ablation-metric": judged, "ablation-statistics": ablatedStatistics().at(-1) });
}
