import { average, between, count, fixed, folded, known, short, tenth } from "./numbers.js";
import { runs, runsWith } from "./values.js";
import { byArchitecture, named, ownLayers, several, state, whose, withKind } from "./series.js";
import { colorOf, element, grid, layerSelect, layout, panel, title } from "./elements.js";
import { Plot, stems, ticks } from "./plots.js";
import { preferences } from "./preference.js";

const BIMODAL = 5 / 9;

const bimodalityOf = (kind, one, l) => one.members.map(run => runs[run].channels[kind.name].bimodality[l] ?? NaN);

export const bimodalityFigure = kind => ({
  exists: () => runsWith(kind).some(run => known(runs[run].channels[kind.name].bimodality).length),
  draw(width) {
    const value = (one, _, l) => bimodalityOf(kind, one, l);
    const options = { x: [0, 1], from: BIMODAL, value, row: "bimodality" }, size = Math.min(width, 680);
    return byArchitecture(kind).map(alike => panel(stems(`Bimodality of ${kind.name} in each layer`, alike, size, options)));
  },
  finding() {
    const { series, words } = preferences(kind);
    if (!series.length) return words;
    const found = series.map(one => {
      const layers = ownLayers(one, kind), network = folded(known(one.members.map(run => runs[run].channels[kind.name].bimodal)), short);
      const above = layers.filter((_, l) => average(known(bimodalityOf(kind, one, l))) > BIMODAL);
      return `${above.length} of ${count(layers.length, "layer")}${whose(one)}, and ${network} over all of its gates`;
    });
    return `Above 5/9: ${found.slice(0, 3).join("; ")}.`;
  },
});

const gammaOf = (kind, one) => kind.gamma.filter(({ run }) => one.members.includes(run)).flatMap(({ layers }) => layers);

export const gammaFigure = kind => ({
  exists: () => kind.gamma.length > 0,
  options: () => [layerSelect(kind, `${kind.name}-gamma-layer`)],
  draw(width) {
    const { n, size } = layout(width, 420, 2), series = withKind(kind).filter(one => gammaOf(kind, one).length);
    if (!series.length) return [element("p", {}, "What is shown has no checkpoint, so that its gamma is not known.")];
    const name = state[`${kind.name}-gamma-layer`];
    const value = (one, layer) => gammaOf(kind, one).filter(each => each.name === layer.name).map(each => each.r);
    const options = { x: [-1, 1], from: 0, value, row: "correlation" };
    const label = `Correlation of ${kind.name} and gamma in each layer`;
    const rows = byArchitecture(kind).map(alike => stems(label, alike, size, options));
    const scatter = panel(title(`gamma over ${kind.name} `, name || "all layers"), gammaScatter(kind, series, name, size));
    return [grid(n, "wide", panel(title("Correlation in each layer"), ...rows), scatter)];
  },
  finding() {
    const { series, words } = preferences(kind);
    if (!series.length) return words;
    const told = series.flatMap(one => gammaOf(kind, one)).filter(({ r }) => Number.isFinite(r));
    const clear = told.filter(layer => layer.clear);
    if (!told.length) return "";
    const are = `the correlation is ${between(told.map(({ r }) => r), short)}`;
    if (!clear.length) return `No relation yet: ${are}, not farther from 0 than by chance in any layer.`;
    return `In the layers ${are}, and beyond chance in ${clear.length} of ${told.length} (Holm-corrected p < 0.05).`;
  },
});

function gammaScatter(kind, series, name, width) {
  const layers = one => gammaOf(kind, one).filter(layer => !name || layer.name === name);
  const gammas = series.flatMap(one => layers(one).flatMap(layer => layer.gamma));
  const low = Math.min(...gammas), high = Math.max(...gammas), margin = (high - low || 1) * 0.04;
  const [first, last] = kind.range, beside = 0.02 * (last - first), x = [first - beside, last + beside];
  const frame = { width, height: 340, left: 40, bottom: 38, x, y: [low - margin, high + margin] };
  const plot = new Plot(`${kind.name} and gamma of the channels`, frame);
  plot.xAxis(ticks(kind.range, 5), tenth);
  plot.yAxis(ticks(frame.y, 6), high - low < 1 ? short : tenth);
  plot.text(plot.X((first + last) / 2), plot.height - 4, kind.name);
  series.forEach(one => layers(one).forEach(layer => layer.gates.forEach((value, i) => {
    const [left, top] = [plot.X(value), plot.Y(layer.gamma[i])];
    plot.dot(left, top, { fill: several() ? one.color : colorOf(kind, value), opacity: 0.85 });
    plot.probe(left, top, layer.name, ...named(one), [kind.name, fixed(value)], ["gamma", fixed(layer.gamma[i])]);
  })));
  return plot.node;
}
