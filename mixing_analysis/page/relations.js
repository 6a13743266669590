import { average, between, count, fixed, folded, known, short, tenth } from "./numbers.js";
import { data, runs, runsWith } from "./values.js";
import { byArchitecture, named, ownLayers, several, state, whose, withKind } from "./series.js";
import { element, grid, layerSelect, layout, panel, ramp, title } from "./elements.js";
import { Plot, figures, stems, ticks } from "./plots.js";

const BIMODAL = 5 / 9;

const bimodalityOf = (one, layer, l) => one.members.map(run => runs[run].bimodality[l] ?? NaN);

figures["rho-bimodality"] = {
  exists: () => runsWith("rho").some(run => known(runs[run].bimodality).length),
  draw(width) {
    const options = { x: [0, 1], from: BIMODAL, value: bimodalityOf, row: "bimodality" }, size = Math.min(width, 680);
    return byArchitecture("rho").map(alike => panel(stems("Bimodality of rho in each layer", alike, size, options)));
  },
  finding() {
    const found = withKind("rho").map(one => {
      const layers = ownLayers(one, "rho"), network = folded(known(one.members.map(run => runs[run].bimodal)), short);
      const above = layers.filter((layer, l) => average(known(bimodalityOf(one, layer, l))) > BIMODAL);
      return `${above.length} of ${count(layers.length, "layer")}${whose(one)}, and ${network} over all of its gates`;
    });
    return `Above 5/9: ${found.slice(0, 3).join("; ")}.`;
  },
};

const gammaOf = one => data.gamma.filter(({ run }) => one.members.includes(run)).flatMap(({ layers }) => layers);

figures["rho-gamma"] = {
  exists: () => data.gamma.length > 0,
  options: () => [layerSelect("rho", "gammaLayer")],
  draw(width) {
    const { n, size } = layout(width, 420, 2), series = withKind("rho").filter(one => gammaOf(one).length);
    if (!series.length) return [element("p", {}, "What is shown has no checkpoint, so that its gamma is not known.")];
    const value = (one, layer) => gammaOf(one).filter(each => each.name === layer.name).map(each => each.r);
    const options = { x: [-1, 1], from: 0, value, row: "correlation" };
    const label = "Correlation of rho and gamma in each layer";
    const rows = byArchitecture("rho").map(alike => stems(label, alike, size, options));
    const scatter = panel(title("gamma over rho ", state.gammaLayer || "all layers"), gammaScatter(series, size));
    return [grid(n, "wide", panel(title("Correlation in each layer"), ...rows), scatter)];
  },
  finding() {
    const values = known(withKind("rho").flatMap(gammaOf).map(layer => layer.r));
    return values.length ? `In the layers the correlation is ${between(values, short)}.` : "";
  },
};

function gammaScatter(series, width) {
  const layers = one => gammaOf(one).filter(layer => !state.gammaLayer || layer.name === state.gammaLayer);
  const gammas = series.flatMap(one => layers(one).flatMap(layer => layer.gamma));
  const low = Math.min(...gammas), high = Math.max(...gammas), margin = (high - low || 1) * 0.04;
  const frame = { width, height: 340, left: 40, bottom: 38, x: [-0.02, 1.02], y: [low - margin, high + margin] };
  const plot = new Plot("rho and gamma of the channels", frame);
  plot.xAxis(ticks([0, 1], 5), tenth);
  plot.yAxis(ticks(frame.y, 6), high - low < 1 ? short : tenth);
  plot.text(plot.X(0.5), plot.height - 4, "rho");
  series.forEach(one => layers(one).forEach(layer => layer.rho.forEach((value, i) => {
    const [left, top] = [plot.X(value), plot.Y(layer.gamma[i])];
    plot.dot(left, top, { fill: several() ? one.color : ramp(value), opacity: 0.85 });
    plot.probe(left, top, layer.name, ...named(one), ["rho", fixed(value)], ["gamma", fixed(layer.gamma[i])]);
  })));
  return plot.node;
}
