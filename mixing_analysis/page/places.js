import { fixed, range, tenth, whole } from "./numbers.js";
import { data, runs } from "./values.js";
import { named, ownLayers, several, withKind } from "./series.js";
import { element, grid, keyOf, layout, panel, swatch, title } from "./elements.js";
import { Plot, ticks } from "./plots.js";

/* ---- How values go with where a layer is, and what they are in each style: as Python has computed them ---- */

/* The shown groups, each with the look of the first of its series that is shown; of weights the first alone. */
function shownGroups(kind) {
  const found = new Map();
  for (const one of withKind(kind)) {
    const group = runs[one.members[0]].group;
    if (!found.has(group)) found.set(group, one);
  }
  return [...found].slice(0, kind.labels ? 1 : undefined);
}

const members = kind => range(kind.words?.length ?? 1);
const what = (kind, member) => (kind.words ? `weights of ${kind.words[member]}` : kind.name);
const colorIn = (kind, one, label) => (label === null ? one.color : kind.colors[label]);
const distinct = values => [...new Set(values)];
const less = text => text.replaceAll("-", "−");

const rankOf = (kind, one, each) =>
  element("p", { class: "rank" }, each.label !== null ? keyOf(kind, each.label) : several() ? swatch(one) : null, ` ${less(each.rank)}`);

const LOGARITHMIC = name => name !== "depth";
/* Layers with the same number of channels lie beside each other, and one alone where it is. */
function beside(values, l) {
  const alike = range(values.length).filter(i => values[i] === values[l]);
  return 0.25 * ((alike.indexOf(l) + 0.5) / alike.length - 0.5);
}

/* From where to where values are drawn: as far as they lie, with a margin, and a fifth of the range at least. */
function drawnRange(kind, own) {
  const values = own.flatMap(({ each }) => (each.halves ? each.halves.flat() : each.y)).filter(Number.isFinite);
  const [low, high] = [Math.min(...values), Math.max(...values)], [bottom, top] = kind.range;
  const more = Math.max(0.08 * (high - low), (0.2 * (top - bottom) - (high - low)) / 2);
  return [Math.max(bottom, low - more), Math.min(top, high + more)];
}

function relationPlot(kind, name, own, width) {
  const place = x => (LOGARITHMIC(name) ? Math.log2(x) : x), values = own.flatMap(({ each }) => each.x).filter(Number.isFinite);
  const [low, high] = [Math.min(...values), Math.max(...values)].map(place), margin = 0.06 * (high - low) + 0.1;
  const x = [low - margin, high + margin];
  const y = drawnRange(kind, own), plot = new Plot(`${kind.name} and ${name}`, { width, height: 190, left: 38, bottom: 38, x, y });
  plot.yAxis(ticks(y, 4), value => fixed(value, 2));
  const known = distinct(values).sort((a, b) => a - b), stride = Math.ceil(known.length / 7);
  for (const value of known.filter((_, i) => i % stride === 0)) {
    plot.vertical(place(value));
    plot.text(plot.X(place(value)), plot.height - plot.bottom + 15, whole(Math.round(10 * value) / 10));
  }
  plot.text(plot.X((low + high) / 2), plot.height - 6, name);
  for (const { one, each } of own) {
    const layers = ownLayers(one, kind), color = colorIn(kind, one, each.label);
    each.x.forEach((value, l) => {
      if (value === null || each.y[l] === null) return;
      const left = plot.X(place(value) + (LOGARITHMIC(name) ? beside(each.x, l) : 0)), y = plot.Y(each.y[l]);
      const half = each.halves?.[l].every(Number.isFinite) ? each.halves[l] : null;
      if (half) plot.segment(left, plot.Y(half[0]), left, plot.Y(half[1]), { class: "stem", stroke: color });
      if (each.label === null) plot.mark(one, left, y, 4);
      else plot.dot(left, y, { fill: color, r: 3.5 });
      const whose = each.label === null ? named(one) : [[kind.labels[each.label]]];
      plot.probe(left, y, layers[l]?.name ?? "", ...whose, [name, whole(Math.round(10 * value) / 10)], ["value", fixed(each.y[l])]);
    });
  }
  return plot.node;
}

/** @param {any} kind a section: what may go with properties of its layers */
export const relationFigure = kind => {
  const found = data.relations[kind.name];
  const shown = () => shownGroups(kind).flatMap(([group, one]) =>
    found.filter(each => each.group === group).map(each => ({ one, each })));
  return {
    exists: () => found.length > 0,
    draw(width) {
      const { n, size } = layout(width, 300, 2), own = shown();
      const panels = members(kind).flatMap(member => distinct(own.map(({ each }) => each.name)).map(name => {
        const chosen = own.filter(({ each }) => each.name === name && each.member === member);
        if (!chosen.length) return null;
        const ranks = chosen.map(({ one, each }) => rankOf(kind, one, each));
        return panel(title(`${what(kind, member)} `, `and ${name}`), ...ranks, relationPlot(kind, name, chosen, size));
      })).filter(Boolean);
      return [panels.length ? grid(n, "wide", ...panels) : element("p", {}, "Of what is shown no property of the layers is known.")];
    },
    finding() {
      const own = shown(), clear = own.filter(({ each }) => each.clear);
      if (!clear.length) return own.length ? "No relation beyond chance." : "";
      const words = clear.slice(0, 4).map(({ one, each }) => {
        const label = each.label === null ? kind.name : `${kind.labels[each.label]} weight of ${kind.words[each.member]}`;
        return `${label} with ${each.name} (${fixed(each.r, 2)}${several() ? `, ${one.name}` : ""})`;
      });
      return `Beyond chance (Holm-corrected p < 0.05): ${words.join("; ")}.`;
    },
  };
};

function stylePlot(kind, own, width) {
  const most = Math.max(...own.map(({ each }) => each.y.length)), frame = { width, height: 110, left: 30, right: 4, bottom: 20 };
  const plot = new Plot(`${kind.name} over depth`, { ...frame, x: [0, Math.max(1, most - 1)], y: kind.range });
  plot.yAxis(ticks(kind.range, 2), tenth);
  plot.xAxis(ticks(plot.x, 3).filter(Number.isInteger), whole);
  for (const { one, each } of own) {
    const color = colorIn(kind, one, each.label), dash = each.label === null ? one.dash : "";
    plot.band(each.halves.map(([low, high], l) => [l, low ?? NaN, high ?? NaN]), { fill: color });
    plot.line(each.y.map((y, l) => [l, y ?? NaN]), { stroke: color, "stroke-width": 1.6, "stroke-dasharray": dash || null });
    const whose = each.label === null ? named(one) : [[kind.labels[each.label]]];
    each.y.forEach((y, l) => y !== null && plot.probe(plot.X(l), plot.Y(y), each.places[l], ...whose, ["mean", fixed(y)]));
  }
  return plot.node;
}

/** @param {any} kind a section: what each style of a network has for itself */
export const styleFigure = kind => {
  const found = data.styles[kind.name];
  return {
    exists: () => found.length > 0,
    draw(width) {
      const { n, size } = layout(width, 150, 5);
      const own = shownGroups(kind).flatMap(([group, one]) => found.filter(each => each.group === group).map(each => ({ one, each })));
      const panels = members(kind).flatMap(member => distinct(own.map(({ each }) => each.style)).map(style => {
        const chosen = own.filter(({ each }) => each.style === style && each.member === member);
        return panel(title(`${style} `, kind.words ? kind.words[member] : ""), stylePlot(kind, chosen, size));
      }));
      return [panels.length ? grid(n, "wide", ...panels) : element("p", {}, "What is shown has no norms for single styles.")];
    },
    finding() {
      const [[group] = [-1]] = shownGroups(kind), own = found.filter(each => each.group === group);
      if (!own.length || kind.words) return "";
      const means = own.map(({ style, y }) => ({ style, mean: y.reduce((a, b) => a + b, 0) / y.length }));
      const [low, high] = [Math.min, Math.max].map(of => means.find(({ mean }) => mean === of(...means.map(one => one.mean))));
      return `The mean ${kind.name} over the layers runs from ${fixed(low.mean, 2)} (${low.style}) to ${fixed(high.mean, 2)} (${high.style}).`;
    },
  };
};
