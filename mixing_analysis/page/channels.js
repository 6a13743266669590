import {
  average, between, count, fixed, folded, percent, range, rounded, short, sum, tenth, whole,
} from "./numbers.js";
import {
  BINS, PARTS, PUBLISHED, channelsOf, hasChannels, keepsChannels, layerOver, networkOver, runs, runsWith,
} from "./values.js";
import { byArchitecture, named, ownLayers, several, state, whose, withKind } from "./series.js";
import { element, layout, panel, ramp, seriesTitle, table, title } from "./elements.js";
import { Plot, RowPlot, figures, ticks } from "./plots.js";

export const MOST_DOTS = 256;

figures["rho-histogram"] = {
  columns: width => layout(width, 215, 4).n,
  draw(width) {
    const series = withKind("rho"), { n, size } = layout(width, 215, 4);
    const of = Object.keys(PARTS).map(part => series.map(one => networkOver(one.members, state.step, part)));
    const most = Math.max(PUBLISHED.network.above, ...of.flat().flatMap(each => each.shares));
    const high = Math.ceil(most * 10) / 10;
    return Object.entries(PARTS).map(([part, words], p) => {
      const height = n === 4 || part === "network" ? 210 : 150;
      return panel(title(words), histogram(series, of[p], part, size, height, high));
    });
  },
  finding() {
    const each = withKind("rho").map(one => networkOver(one.members, state.step)), gates = sum(each[0].counts);
    const [below, above] = ["below", "above"].map(side => between(each.map(one => one[side]), percent));
    const { network } = PUBLISHED, subject = each.length === 1 && gates ? count(gates, "gate") : "the gates";
    return `${below} of ${subject} are below 0.1, ${above} above 0.9. ` +
      `The published network had about ${rounded(network.below)} and ${rounded(network.above)}.`;
  },
  after(figure) {
    const numeric = ["below 0.1", "published", "between", "above 0.9", "published", "mean rho"];
    const heads = ["Gates", ...(several() ? [state.unit] : []), ...numeric];
    const rows = Object.entries(PARTS).flatMap(([part, words]) => withKind("rho").map((one, i) => {
      const { belows, aboves, below, above, means } = networkOver(one.members, state.step, part);
      const { below: fewer, above: more } = (i === 0 && PUBLISHED[part]) || {};
      const about = value => element("i", {}, value === undefined ? "" : `≈ ${rounded(value)}`);
      const lower = [folded(belows, percent), about(fewer)], upper = [folded(aboves, percent), about(more)];
      const numbers = [...lower, percent(1 - below - above), ...upper, folded(means, fixed)];
      return [i ? "" : words, ...named(one).flat(), ...numbers];
    }));
    figure.querySelector(".table").replaceChildren(table(heads, rows, several() ? 2 : 1));
  },
};

function histogram(series, of, part, width, height, high) {
  const plot = new Plot(`Histogram of rho, ${PARTS[part]}`, { width, height, left: 36, y: [0, high] });
  const edge = b => plot.X(b / BINS), base = plot.Y(0);
  plot.yAxis(ticks([0, high], 5), rounded);
  for (const value of [0, 0.5, 1]) plot.text(plot.X(value), height - 9, tenth(value), value === 1 ? "end" : "middle");
  const published = [["below", 0], ["above", BINS - 1]].filter(([side]) => PUBLISHED[part]?.[side] !== undefined);
  for (const [side, b] of published) {
    const value = PUBLISHED[part][side], y = plot.Y(value), left = edge(b) + 1, width = edge(b + 1) - left - 1;
    plot.box(left, y, width, base - y, { class: "published" });
    plot.probe(left + width / 2, y, "Nam & Kim 2018", ["about", rounded(value)]);
  }
  series.forEach((one, s) => {
    const { shares, counts } = of[s];
    const outline = shares.flatMap((value, b) => [[b / BINS, value], [(b + 1) / BINS, value]]);
    if (series.length > 1) plot.line(outline, { stroke: one.color, "stroke-width": 2 });
    shares.forEach((value, b) => {
      const [left, right, y] = [edge(b), edge(b + 1), plot.Y(value)];
      if (series.length === 1) plot.box(left + 1, y, right - left - 2, base - y, { fill: ramp((b + 0.5) / BINS) });
      const bin = `rho ${tenth(b / BINS)} to ${tenth((b + 1) / BINS)}`;
      plot.probe((left + right) / 2, y, bin, ...named(one), ["share", percent(value)], ["gates", whole(counts[b])]);
    });
  });
  for (const [side, b] of published) {
    const outline = `M${edge(b) + 1} ${base}V${plot.Y(PUBLISHED[part][side])}H${edge(b + 1) - 1}V${base}`;
    plot.add("path", { class: "outline", d: outline });
  }
  plot.horizontal(0, "axis");
  return plot.node;
}

figures["rho-runs"] = {
  exists: () => runsWith("rho").length > 1,
  draw(width) {
    const members = runsWith("rho"), height = members.length > 60 ? 6 : 18;
    const plot = new RowPlot("Histogram of rho of every run", members.map(run => runs[run]), width, height);
    plot.shares();
    members.forEach((run, r) => {
      const { shares, mean } = networkOver([run], state.step);
      shares.forEach((value, b) => {
        const left = plot.X(b / BINS), size = plot.X((b + 1) / BINS) - left, bin = (b + 0.5) / BINS;
        const look = { fill: bin < 0.5 ? "var(--instance)" : "var(--batch)", opacity: Math.sqrt(value).toFixed(2) };
        if (value > 0) plot.box(left, plot.row(r) + 0.5, size - 1, height - 1, look);
        const words = `rho ${tenth(b / BINS)} to ${tenth((b + 1) / BINS)}`;
        plot.probe(left + size / 2, plot.lane(r), runs[run].name, [words, percent(value)], ["mean rho", fixed(mean)]);
      });
    });
    return [panel(plot.node)];
  },
  finding() {
    const means = runsWith("rho").map(run => networkOver([run], state.step).mean);
    return `The mean rho of a run lies between ${fixed(Math.min(...means))} and ${fixed(Math.max(...means))}.`;
  },
};

figures["rho-depth"] = {
  draw: width => byArchitecture("rho").map(({ layers, series }) => {
    const alone = series.length === 1, many = layers.length > 24;
    const height = alone ? (many ? 18 : 32) : Math.max(24, (many ? 7 : 9) * series.length + 8);
    const plot = new RowPlot("rho of each layer", layers, width, height);
    plot.shares();
    series.forEach((one, s) => layers.forEach((layer, l) => {
      const { mean, means, lower, upper } = layerOver(one.members, state.step, l), y = plot.lane(l, s, series.length);
      if (one.members.length > 1) seedTicks(plot, one, layer, means, y);
      else if (!several()) channelDots(plot, one.members[0], layer, l, y);
      if (Number.isFinite(lower)) plot.segment(plot.X(lower), y, plot.X(upper), y, { class: "half", stroke: one.color });
      plot.mark(one, plot.X(mean), y, series.length > 3 ? 4 : 5);
      const rows = [["mean rho", folded(means, fixed)], ["middle half", `${fixed(lower)} to ${fixed(upper)}`]];
      plot.probe(plot.X(mean), y, layer.name, ...named(one), ...rows, ["channels", whole(layer.channels || "–")]);
    }));
    return panel(plot.node);
  }),
  finding() {
    const [one] = withKind("rho"), layers = ownLayers(one, "rho");
    const means = layers.map((layer, l) => layerOver(one.members, state.step, l).mean);
    const [low, high] = [Math.min(...means), Math.max(...means)];
    const at = value => `${short(value)} (${layers[means.indexOf(value)].name})`;
    return low < high ? `Layer means run from ${at(low)} to ${at(high)}${whose(one)}.` : "";
  },
};

function seedTicks(plot, one, layer, means, y) {
  means.forEach((mean, m) => {
    plot.segment(plot.X(mean), y - 5, plot.X(mean), y + 5, { class: "seed", stroke: one.color });
    plot.probe(plot.X(mean), y, layer.name, [runs[one.members[m]].name], ["mean rho", fixed(mean)]);
  });
}

function channelDots(plot, run, layer, l, y) {
  const current = keepsChannels(run) || state.step >= runs[run].steps.at(-1);
  if (layer.channels > MOST_DOTS || !current) return;
  for (const { channel, value } of channelsOf(run, state.step, l)) {
    // Multiples of the golden ratio are spread evenly, however many there are.
    const place = y + 0.62 * plot.rowHeight * (((channel * 0.618034) % 1) - 0.5);
    plot.dot(plot.X(value), place, { fill: ramp(value) });
    plot.probe(plot.X(value), place, layer.name, ["channel", channel], ["rho", fixed(value)]);
  }
}

const sortedColumns = width => {
  const n = withKind("rho").filter(hasChannels).length;
  return layout(width, n > 1 ? 300 : 900, Math.min(3, n));
};

figures["rho-channels"] = {
  exists: () => runs.some(run => run.channels != null),
  columns: width => sortedColumns(width).n,
  draw(width) {
    const { n, size } = sortedColumns(width);
    return withKind("rho").filter(hasChannels).map(one => {
      const layers = ownLayers(one, "rho"), height = layers.length > 24 || n > 1 ? 15 : 22;
      const plot = new RowPlot(`Channels of ${one.name}, sorted by rho`, layers, size, height);
      plot.xAxis(size > 400 ? [0, 0.25, 0.5, 0.75, 1] : [0, 0.5, 1], rounded);
      layers.forEach((layer, l) => sortedRow(plot, sortedChannels(one, l), layer.name, l));
      return panel(several() ? seriesTitle(one) : null, plot.node);
    });
  },
  finding() {
    const found = withKind("rho").filter(hasChannels).flatMap(one => {
      const leaning = ownLayers(one, "rho").map((layer, l) => {
        const values = sortedChannels(one, l);
        return values.filter(value => value < 0.5).length / values.length;
      });
      const most = Math.max(...leaning), { name } = ownLayers(one, "rho")[leaning.indexOf(most)];
      return most > 0 ? [`${name}${whose(one)}, where ${rounded(most)} of the channels have a rho below 0.5`] : [];
    });
    if (!found.length) return "No channel leans to instance normalization: every rho is at least 0.5.";
    return `Leaning most to instance normalization: ${found.slice(0, 3).join("; ")}.`;
  },
};

function sortedChannels(one, l) {
  return one.members.flatMap(run => channelsOf(run, state.step, l).map(each => each.value)).sort((a, b) => a - b);
}

function sortedRow(plot, values, name, l) {
  const cells = Math.min(values.length, 128), width = (plot.width - plot.left - plot.right) / cells;
  for (const c of range(cells)) {
    const [from, to] = [c, c + 1].map(edge => Math.round((edge * values.length) / cells));
    const value = average(values.slice(from, to)), left = plot.left + c * width;
    plot.box(left, plot.row(l) + 1, width + 0.4, plot.rowHeight - 2, { fill: ramp(value) });
    const place = to - from > 1 ? `${from + 1} to ${to}` : to;
    plot.probe(left + width / 2, plot.lane(l), name, ["rho", fixed(value)], ["place", `${place} of ${values.length}`]);
  }
}
