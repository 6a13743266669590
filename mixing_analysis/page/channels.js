import {
  average, between, count, fixed, folded, percent, plain, range, rounded, short, sum, tenth, whole,
} from "./numbers.js";
import {
  BINS, PARTS, channelsOf, hasChannels, keepsChannels, layerOver, networkOver, runs, runsWith,
} from "./values.js";
import { byArchitecture, named, ownLayers, several, state, whose, withKind } from "./series.js";
import { NOISE_SHARE, preferences, tells } from "./preference.js";
import { colorOf, element, layout, panel, ramp, seriesTitle, table, title } from "./elements.js";
import { Plot, RowPlot, ticks } from "./plots.js";

export const MOST_DOTS = 256;
export const SIDES = [{ side: "below", statistic: "instance" }, { side: "above", statistic: "batch" }];

const histogramFigure = kind => ({
  columns: width => layout(width, 155, 4).n,
  draw(width) {
    const series = withKind(kind), { n, size } = layout(width, 155, 4);
    const of = Object.keys(PARTS).map(part => series.map(one => networkOver(kind, one.members, state.step, part)));
    const most = Math.max(kind.published?.shares.network.above ?? 0, ...of.flat().flatMap(each => each.shares));
    const high = Math.ceil(most * 10) / 10;
    return Object.entries(PARTS).map(([part, words], p) => {
      const height = n === 4 || part === "network" ? 210 : 150;
      return panel(title(words), histogram(kind, series, of[p], part, size, height, high));
    });
  },
  finding() {
    const each = withKind(kind).map(one => networkOver(kind, one.members, state.step)), gates = sum(each[0].counts);
    const [below, above] = ["below", "above"].map(side => between(each.map(one => one[side]), percent));
    const subject = each.length === 1 && gates ? count(gates, "gate") : "the gates";
    const [low, high] = kind.limits.map(plain), words = `${below} of ${subject} are below ${low}, ${above} above ${high}.`;
    return [words, kind.published && publishedShares(kind.published), preferences(kind).words].filter(Boolean).join(" ");
  },
  after(figure) {
    const [low, high] = kind.limits.map(plain), published = kind.published ? ["published"] : [];
    const numeric = [`below ${low}`, ...published, "between", `above ${high}`, ...published, `mean ${kind.name}`];
    const heads = ["Gates", ...(several() ? [state.unit] : []), ...numeric];
    const rows = Object.entries(PARTS).flatMap(([part, words]) => withKind(kind).map((one, i) => {
      const { belows, aboves, below, above, means } = networkOver(kind, one.members, state.step, part);
      const { below: fewer, above: more } = (i === 0 && kind.published?.shares[part]) || {};
      const about = value => published.map(() => element("i", {}, value === undefined ? "" : `≈ ${rounded(value)}`));
      const lower = [folded(belows, percent), ...about(fewer)], upper = [folded(aboves, percent), ...about(more)];
      const numbers = [...lower, percent(1 - below - above), ...upper, folded(means, fixed)];
      return [i ? "" : words, ...named(one).flat(), ...numbers];
    }));
    figure.querySelector(".table").replaceChildren(table(heads, rows, several() ? 2 : 1));
  },
});

const publishedShares = ({ subject, source, shares: { network } }) =>
  `In ${subject} about ${rounded(network.below)} and ${rounded(network.above)} are (${source}).`;

function histogram(kind, series, of, part, width, height, high) {
  const plot = new Plot(`Histogram of ${kind.name}, ${PARTS[part]}`, { width, height, left: 36, y: [0, high] });
  const edge = b => plot.X(b / BINS), base = plot.Y(0);
  plot.yAxis(ticks([0, high], 5), rounded);
  const at = b => tenth(kind.range[0] + ((kind.range[1] - kind.range[0]) * b) / BINS);
  for (const value of [0, 0.5, 1]) {
    plot.text(plot.X(value), height - 9, at(value * BINS), value === 1 ? "end" : "middle");
  }
  const published = SIDES.flatMap(({ side }, s) => {
    const value = kind.published?.shares[part]?.[side];
    return value === undefined ? [] : [{ value, b: s * (BINS - 1) }];
  });
  for (const { value, b } of published) {
    const y = plot.Y(value), left = edge(b) + 1, width = edge(b + 1) - left - 1;
    plot.box(left, y, width, base - y, { class: "published" });
    plot.probe(left + width / 2, y, kind.published.source, ["about", rounded(value)]);
  }
  series.forEach((one, s) => {
    const { shares, counts } = of[s];
    const outline = shares.flatMap((value, b) => [[b / BINS, value], [(b + 1) / BINS, value]]);
    if (series.length > 1) plot.line(outline, { stroke: one.color, "stroke-width": 2 });
    shares.forEach((value, b) => {
      const [left, right, y] = [edge(b), edge(b + 1), plot.Y(value)];
      if (series.length === 1) plot.box(left + 1, y, right - left - 2, base - y, { fill: ramp((b + 0.5) / BINS) });
      const bin = `${kind.name} ${at(b)} to ${at(b + 1)}`;
      plot.probe((left + right) / 2, y, bin, ...named(one), ["share", percent(value)], ["gates", whole(counts[b])]);
    });
  });
  for (const { value, b } of published) {
    const outline = `M${edge(b) + 1} ${base}V${plot.Y(value)}H${edge(b + 1) - 1}V${base}`;
    plot.add("path", { class: "outline", d: outline });
  }
  plot.horizontal(0, "axis");
  return plot.node;
}

const runsFigure = kind => ({
  exists: () => runsWith(kind).length > 1,
  draw(width) {
    const members = runsWith(kind), height = members.length > 60 ? 6 : 18;
    const plot = new RowPlot(`Histogram of ${kind.name} of every run`, members.map(run => runs[run]), width, height, { x: kind.range });
    plot.values(kind);
    const at = b => kind.range[0] + ((kind.range[1] - kind.range[0]) * b) / BINS;
    members.forEach((run, r) => {
      const { shares, mean } = networkOver(kind, [run], state.step);
      shares.forEach((value, b) => {
        const left = plot.X(at(b)), size = plot.X(at(b + 1)) - left;
        const look = { fill: b + 0.5 < BINS / 2 ? "var(--instance)" : "var(--batch)", opacity: Math.sqrt(value).toFixed(2) };
        if (value > 0) plot.box(left, plot.row(r) + 0.5, size - 1, height - 1, look);
        const words = `${kind.name} ${tenth(at(b))} to ${tenth(at(b + 1))}`;
        plot.probe(left + size / 2, plot.lane(r), runs[run].name, [words, percent(value)], [`mean ${kind.name}`, fixed(mean)]);
      });
    });
    return [panel(plot.node)];
  },
  finding() {
    const means = runsWith(kind).map(run => networkOver(kind, [run], state.step).mean);
    return `The mean ${kind.name} of a run lies between ${fixed(Math.min(...means))} and ${fixed(Math.max(...means))}.`;
  },
});

const depthFigure = kind => ({
  draw: width => byArchitecture(kind).map(({ layers, series }) => {
    const alone = series.length === 1, many = layers.length > 24;
    const height = alone ? (many ? 18 : 32) : Math.max(24, (many ? 7 : 9) * series.length + 8);
    const plot = new RowPlot(`${kind.name} of each layer`, layers, width, height, { x: kind.range });
    plot.values(kind);
    series.forEach((one, s) => layers.forEach((layer, l) => {
      const { mean, means, lower, upper } = layerOver(kind, one.members, state.step, l), y = plot.lane(l, s, series.length);
      if (one.members.length > 1) seedTicks(kind, plot, one, layer, means, y);
      else if (!several()) channelDots(kind, plot, one.members[0], layer, l, y);
      const half = { class: "half", stroke: one.color };
      if (Number.isFinite(lower)) plot.segment(plot.X(lower), y, plot.X(upper), y, half);
      plot.mark(one, plot.X(mean), y, series.length > 3 ? 4 : 5);
      const rows = [[`mean ${kind.name}`, folded(means, fixed)], ["middle half", `${fixed(lower)} to ${fixed(upper)}`]];
      plot.probe(plot.X(mean), y, layer.name, ...named(one), ...rows, ["channels", whole(layer.channels || "–")]);
    }));
    return panel(plot.node);
  }),
  finding() {
    const { series: [one], words } = preferences(kind);
    if (!one) return words;
    const layers = ownLayers(one, kind);
    const means = layers.map((_, l) => layerOver(kind, one.members, state.step, l).mean);
    const [low, high] = [Math.min(...means), Math.max(...means)];
    const at = value => `${short(value)} (${layers[means.indexOf(value)].name})`;
    if (!tells(kind, high - low)) return `The means of the layers hardly differ${whose(one)}: ${between(means, short)}.`;
    return `Layer means run from ${at(low)} to ${at(high)}${whose(one)}.`;
  },
});

function seedTicks(kind, plot, one, layer, means, y) {
  means.forEach((mean, m) => {
    plot.segment(plot.X(mean), y - 5, plot.X(mean), y + 5, { class: "seed", stroke: one.color });
    plot.probe(plot.X(mean), y, layer.name, [runs[one.members[m]].name], [`mean ${kind.name}`, fixed(mean)]);
  });
}

function channelDots(kind, plot, run, layer, l, y) {
  const current = keepsChannels(kind, run) || state.step >= runs[run].steps.at(-1);
  if (layer.channels > MOST_DOTS || !current) return;
  for (const { channel, value } of channelsOf(kind, run, state.step, l)) {
    // Multiples of the golden ratio are spread evenly, however many there are.
    const place = y + 0.62 * plot.rowHeight * (((channel * 0.618034) % 1) - 0.5);
    plot.dot(plot.X(value), place, { fill: colorOf(kind, value) });
    plot.probe(plot.X(value), place, layer.name, ["channel", channel], [kind.name, fixed(value)]);
  }
}

const sortedColumns = (kind, width) => {
  const n = withKind(kind).filter(one => hasChannels(kind, one)).length;
  return layout(width, n > 1 ? 300 : 900, Math.min(3, n));
};

const sortedFigure = kind => ({
  exists: () => runs.some((_, run) => hasChannels(kind, { members: [run] })),
  columns: width => sortedColumns(kind, width).n,
  draw(width) {
    const { n, size } = sortedColumns(kind, width);
    return withKind(kind).filter(one => hasChannels(kind, one)).map(one => {
      const layers = ownLayers(one, kind), height = layers.length > 24 || n > 1 ? 15 : 22;
      const plot = new RowPlot(`Channels of ${one.name}, sorted by ${kind.name}`, layers, size, height);
      plot.xAxis(size > 400 ? [0, 0.25, 0.5, 0.75, 1] : [0, 0.5, 1], rounded);
      layers.forEach((layer, l) => sortedRow(kind, plot, sortedChannels(kind, one, l), layer.name, l));
      return panel(several() ? seriesTitle(one) : null, plot.node);
    });
  },
  finding() {
    const middle = (kind.range[0] + kind.range[1]) / 2;
    const low = kind.ends ? `${kind.ends[0]} normalization` : `a low ${kind.name}`;
    const { series, words: open } = preferences(kind);
    if (!series.length) return open;
    let highest = 0;
    const found = series.filter(one => hasChannels(kind, one)).flatMap(one => {
      const leaning = ownLayers(one, kind).map((_, l) => {
        const values = sortedChannels(kind, one, l);
        return values.filter(value => value < middle).length / values.length;
      });
      const most = Math.max(...leaning), { name } = ownLayers(one, kind)[leaning.indexOf(most)];
      const words = `${rounded(most)} of the channels have a ${kind.name} below ${plain(middle)}`;
      highest = Math.max(highest, most);
      return most >= NOISE_SHARE ? [`${name}${whose(one)}, where ${words}`] : [];
    });
    const few = `at most ${percent(highest)} of a layer's have a ${kind.name} below ${plain(middle)}`;
    if (!found.length && highest > 0) return `Hardly a channel leans to ${low}: ${few}.`;
    if (!found.length) return `No channel leans to ${low}: every ${kind.name} is at least ${plain(middle)}.`;
    return `Leaning most to ${low}: ${found.slice(0, 3).join("; ")}.`;
  },
});

function sortedChannels(kind, one, l) {
  return one.members.flatMap(run => channelsOf(kind, run, state.step, l).map(each => each.value)).sort((a, b) => a - b);
}

function sortedRow(kind, plot, values, name, l) {
  const cells = Math.min(values.length, 128), width = (plot.width - plot.left - plot.right) / cells;
  for (const c of range(cells)) {
    const [from, to] = [c, c + 1].map(edge => Math.round((edge * values.length) / cells));
    const value = average(values.slice(from, to)), left = plot.left + c * width;
    plot.box(left, plot.row(l) + 1, width + 0.4, plot.rowHeight - 2, { fill: colorOf(kind, value) });
    const place = to - from > 1 ? `${from + 1} to ${to}` : to;
    plot.probe(left + width / 2, plot.lane(l), name, [kind.name, fixed(value)], ["place", `${place} of ${values.length}`]);
  }
}

/** The figures of a kind with a value in every channel, each with `draw`, which may use several columns, and `finding`. */
export const channelFigures = kind => ({
  [`${kind.name}-histogram`]: histogramFigure(kind),
  [`${kind.name}-runs`]: runsFigure(kind),
  [`${kind.name}-depth`]: depthFigure(kind),
  [`${kind.name}-channels`]: sortedFigure(kind),
});
