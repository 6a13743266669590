import { fixed, known, significant, tenth } from "./numbers.js";
import { data, runs } from "./values.js";
import { named, several, state } from "./series.js";
import { element, layout, panel, select, title } from "./elements.js";
import { Plot, ticks } from "./plots.js";

const metrics = () => [...new Set(data.outcomes.map(each => each.metric))];

function outcomePlot({ measure, metric, x, y, runs: of }, width) {
  /** @returns {[number, number]} */
  const span = values => {
    const [low, high] = [Math.min(...values), Math.max(...values)], margin = 0.06 * (high - low);
    return [low - margin, high + margin];
  };
  const frame = { width, height: 200, left: 52, bottom: 38, x: span(x), y: span(y) };
  const plot = new Plot(`${metric} over ${measure}`, frame);
  const numbers = ([low, high]) => {
    const digits = 1 - Math.floor(Math.log10(high - low));
    return digits > 1 ? value => fixed(value, digits) : high - low < 50 ? tenth : value => significant(value, 3);
  };
  plot.xAxis(ticks(frame.x, 4), numbers(frame.x));
  plot.yAxis(ticks(frame.y, 4), numbers(frame.y));
  plot.text((plot.left + plot.width - plot.right) / 2, plot.height - 6, measure);
  of.forEach((run, i) => {
    const one = state.shown.find(({ members }) => members.includes(run)), [left, top] = [plot.X(x[i]), plot.Y(y[i])];
    if (one) plot.mark(one, left, top, 4.5);
    else plot.dot(left, top, { fill: "var(--faint)" });
    plot.probe(left, top, runs[run].name, ...(one && several() ? named(one) : []), [measure, fixed(x[i])], [metric, significant(y[i], 4)]);
  });
  return plot.node;
}

export const outcomeFigure = {
  exists: () => data.outcomes.length > 0,
  options: () => [select("Metric", "outcome-metric", metrics().map(name => [name, name]))],
  columns: width => layout(width, 300, 3).n,
  draw(width) {
    const { size } = layout(width, 300, 3), chosen = data.outcomes.filter(each => each.metric === state["outcome-metric"]);
    return chosen.map(each =>
      panel(title(each.metric), element("p", { class: "rank" }, each.rank.replaceAll("-", "−")), outcomePlot(each, size)));
  },
  finding() {
    const clear = data.outcomes.filter(each => each.clear);
    const words = clear.slice(0, 4).map(({ metric, measure, r }) => `${measure} with ${metric} (${fixed(r, 2)})`);
    if (words.length) return `Beyond chance (Holm-corrected p < 0.05): ${words.join("; ")}.`;
    const strongest = Math.max(0, ...known(data.outcomes.map(({ r }) => Math.abs(r))));
    return strongest ? `No relation beyond chance: the strongest correlation is ±${fixed(strongest, 2)}.` : "Too few runs to tell a relation from chance.";
  },
};

export const chooseMetric = () => { state["outcome-metric"] = metrics()[0]; };
