"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const { runs, architectures, published: PUBLISHED, statistics: STATISTICS, bins: BINS, largest: LARGEST } = data;
const MOMENTS = ["means", "variances"];
const PARTS = { network: "Whole network", first: "Lower third", middle: "Middle third", last: "Upper third" };
const BIMODAL = 5 / 9;
const MOST_DOTS = 256;

/* What tells the runs or groups apart that are shown at once, besides their colors. */
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "12 4", "4 2"];
const MARKS = [
  "M-1 0A1 1 0 1 1 1 0A1 1 0 1 1-1 0Z",
  "M-.9-.9H.9V.9H-.9Z",
  "M0-1.15L1.1.8H-1.1Z",
  "M0-1.3L1.15 0L0 1.3L-1.15 0Z",
  "M0 1.15L1.1-.8H-1.1Z",
  "M-.4-1.2H.4V-.4H1.2V.4H.4V1.2H-.4V.4H-1.2V-.4H-.4Z",
];

/* ---- Numbers ---- */

const range = n => [...Array(n).keys()];
const sum = values => values.reduce((a, b) => a + b, 0);
const average = values => sum(values) / values.length;
const known = values => values.filter(Number.isFinite);
const ascending = values => [...new Set(values)].sort((a, b) => a - b);

function deviation(values) {
  if (values.length < 2) return NaN;
  const center = average(values);
  return Math.sqrt(sum(values.map(value => (value - center) ** 2)) / (values.length - 1));
}

const fixed = (value, digits = 3) => (Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : "–");
const short = value => fixed(value, 2);
const tenth = value => fixed(value, 1);
const significant = (value, digits) => (Number.isFinite(value) ? value.toPrecision(digits).replace("-", "−") : "–");
const signed = (value, digits = 3) => (value > 0 ? "+" : "") + fixed(value, digits);
const percent = (value, digits = 1) => (Number.isFinite(value) ? `${(100 * value).toFixed(digits)}\u00a0%` : "–");
const rounded = value => percent(value, 0);
const whole = value => String(value).replace(/\B(?=(\d{3})+$)/g, "\u2009");
const count = (n, word) => `${whole(n)} ${word}${n === 1 ? "" : "s"}`;
const withSpread = (value, spread, form) => form(value) + (Number.isFinite(spread) ? ` ± ${form(spread)}` : "");
const folded = (values, form) => withSpread(average(values), deviation(values), form);
const between = (values, form) =>
  [...new Set([Math.min(...values), Math.max(...values)].map(value => form(value)))].join(" to ");

/* The half width of a symmetric interval of Student's t, which is sqrt(freedom) * tan(angle), where the angle has the
   density cos(angle) ** (freedom - 1). */
function tQuantile(freedom, confidence = 0.95) {
  const cells = 4000, width = Math.PI / 2 / cells, power = Math.min(freedom, 1e4) - 1;
  const density = range(cells).map(i => Math.cos((i + 0.5) * width) ** power);
  let rest = confidence * sum(density), cell = 0;
  while (rest > density[cell]) rest -= density[cell++];
  return Math.sqrt(power + 1) * Math.tan((cell + rest / density[cell]) * width);
}

/* Second minus first, and the half width of its 95 % interval by Welch. */
function welch(first, second) {
  const [a, b] = [first, second].map(values => deviation(values) ** 2 / values.length);
  const freedom = (a + b) ** 2 / (a ** 2 / (first.length - 1) + b ** 2 / (second.length - 1));
  const half = a + b === 0 ? 0 : Number.isFinite(freedom) ? tQuantile(freedom) * Math.sqrt(a + b) : NaN;
  return { difference: average(second) - average(first), half };
}

/* ---- Values ---- */

function unpack(text) {
  const characters = atob(text), bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return new Uint16Array(bytes.buffer);
}

const rho = data.rho && Object.fromEntries(Object.entries(data.rho).map(([name, text]) => [name, unpack(text)]));
const weights = data.switch && unpack(data.switch);

const share = (packed, i) => (packed[i] > LARGEST ? NaN : packed[i] / LARGEST);
const layersOf = (run, kind) => architectures[runs[run].architecture][kind];
const runsWith = kind => range(runs.length).filter(run => layersOf(run, kind).length);

/* The last step that a run has values of, up to the given one. */
function stepIndex(run, step) {
  const later = runs[run].steps.findIndex(own => own > step);
  return later < 0 ? runs[run].steps.length - 1 : Math.max(0, later - 1);
}

const cellOf = (run, kind, step, layer) =>
  runs[run][kind] + stepIndex(run, step) * layersOf(run, kind).length + layer;

function weightOf(run, step, layer, moment, statistic) {
  const cell = cellOf(run, "switch", step, layer);
  return share(weights, (cell * MOMENTS.length + moment) * STATISTICS.length + statistic);
}

function gatesOf(run, step, layer) {
  const cell = cellOf(run, "rho", step, layer), names = ["mean", "below", "above", "lower", "upper"];
  const numbers = Object.fromEntries(names.map(name => [name, share(rho[name], cell)]));
  return { ...numbers, counts: rho.histogram.subarray(cell * BINS, (cell + 1) * BINS) };
}

const hasChannels = one => one.members.some(run => runs[run].channels !== null);
const keepsChannels = run => runs[run].channelSteps === runs[run].steps.length;

/* The single channels of a layer: of the given step, or of the last one if no others are kept. */
function channelsOf(run, step, layer) {
  if (runs[run].channels === null) return [];
  const layers = layersOf(run, "rho"), shown = layers.map(one => one.shown);
  const row = keepsChannels(run) ? stepIndex(run, step) : 0;
  const start = runs[run].channels + row * sum(shown) + sum(shown.slice(0, layer));
  const channel = i => Math.floor((i * layers[layer].channels) / shown[layer]);
  const all = range(shown[layer]).map(i => ({ channel: channel(i), value: share(rho.channels, start + i) }));
  return all.filter(one => Number.isFinite(one.value));
}

/* The gates of a layer over the runs of a series: `means` are those of the runs. */
function layerOver(members, step, layer) {
  const gates = members.map(run => gatesOf(run, step, layer)), of = name => gates.map(one => one[name]);
  const [lower, upper, below, above] = ["lower", "upper", "below", "above"].map(name => average(of(name)));
  return { mean: average(of("mean")), means: of("mean"), lower, upper, below, above };
}

/* The gates of a network, or of a third of it, over the runs of a series. Every channel counts the same. */
function networkOver(members, step, part = "network") {
  const each = members.map(run => {
    const layers = layersOf(run, "rho").map((layer, l) => ({ ...gatesOf(run, step, l), ...layer }));
    const chosen = layers.filter(layer => part === "network" || layer.third === part);
    const size = layer => layer.channels || 1, total = sum(chosen.map(size));
    const over = name => sum(chosen.map(layer => layer[name] * size(layer))) / total;
    const counts = range(BINS).map(b => sum(chosen.map(layer => layer.counts[b])));
    return { mean: over("mean"), below: over("below"), above: over("above"), counts };
  });
  const counts = range(BINS).map(b => sum(each.map(one => one.counts[b]))), total = Math.max(1, sum(counts));
  const [means, belows, aboves] = ["mean", "below", "above"].map(name => each.map(one => one[name]));
  const averages = { mean: average(means), below: average(belows), above: average(aboves) };
  return { ...averages, means, belows, aboves, counts, shares: counts.map(n => n / total) };
}

/* ---- What is shown: series, each a run or a group of runs ---- */

const units = {
  group: data.groups.map((name, g) => ({ name, members: range(runs.length).filter(run => runs[run].group === g) })),
  run: runs.map((run, i) => ({ name: run.name, members: [i] })),
};
const folds = units.group.length < units.run.length;
const state = { unit: "", shown: [], step: 0, rhoLayer: "", gammaLayer: "", switchLayer: "", moment: "0", search: "" };

function show(series) {
  const slot = range(MARKS.length).find(free => state.shown.every(one => one.slot !== free));
  state.shown.push({ ...series, slot, color: `var(--run-${slot})`, dash: DASHES[slot] });
  const place = one => units[state.unit].findIndex(other => other.name === one.name);
  state.shown.sort((a, b) => place(a) - place(b));
}

function choose(unit) {
  Object.assign(state, { unit, shown: [] });
  units[unit].slice(0, MARKS.length).forEach(show);
}

const several = () => state.shown.length > 1;
const whose = one => (several() ? ` in ${one.name}` : "");
const named = one => (several() ? [[one.name]] : []);
const withKind = kind => state.shown.filter(one => one.members.every(run => layersOf(run, kind).length));
const ownLayers = (one, kind) => layersOf(one.members[0], kind);
const layerIndex = (one, kind, name) => ownLayers(one, kind).findIndex(layer => layer.name === name);
const shownSteps = () => ascending(state.shown.flatMap(one => one.members.flatMap(run => runs[run].steps)));

/* The steps of a series, as far as all of its runs have come. */
function stepsOf({ members }) {
  const first = Math.max(...members.map(run => runs[run].steps[0]));
  const last = Math.min(...members.map(run => runs[run].steps.at(-1)));
  return ascending(members.flatMap(run => runs[run].steps)).filter(step => first <= step && step <= last);
}

/* Series that have the same layers, which can be drawn in the same rows. */
function byArchitecture(kind) {
  const alike = Map.groupBy(withKind(kind), one => runs[one.members[0]].architecture);
  return [...alike].map(([architecture, series]) => ({ layers: architectures[architecture][kind], series }));
}

const layerNames = kind => [...new Set(byArchitecture(kind).flatMap(({ layers }) => layers.map(layer => layer.name)))];

/* ---- Elements ---- */

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.flat().filter(child => child != null));
  return node;
}

function shape(name, attributes = {}, text = null) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) if (value != null) node.setAttribute(key, value);
  if (text !== null) node.textContent = text;
  return node;
}

const panel = (...children) => element("div", { class: "panel" }, ...children);
const title = (words, note) => element("h4", {}, words, note ? element("small", {}, note) : null);
const seriesTitle = (one, note) => element("h4", {}, swatch(one), one.name, note ? element("small", {}, note) : null);

function grid(n, kind, ...children) {
  const node = element("div", { class: `panels ${kind}` }, ...children);
  node.style.gridTemplateColumns = `repeat(${n}, minmax(0, 1fr))`;
  return node;
}

/* How many columns of at least this width there are room for, and how wide they are. */
function layout(width, least, most, gap = 20) {
  const n = Math.max(1, Math.min(most, Math.floor((width + gap) / (least + gap))));
  return { n, size: Math.floor((width - gap * (n - 1)) / n) };
}

function table(heads, rows, words) {
  const kind = (text, column) => ({ class: column < words ? null : "number" });
  const head = heads.map((text, column) => element("th", kind(text, column), text));
  const body = rows.map(row => element("tr", {}, row.map((text, column) => element("td", kind(text, column), text))));
  const whole = element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, body));
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": heads[0] }, whole);
}

function select(words, key, options) {
  const list = options.map(([value, text]) => element("option", { value, selected: value === state[key] }, text));
  const change = event => { state[key] = event.target.value; update(); };
  return element("label", {}, words, element("select", { "data-key": key, onchange: change }, list));
}

function layerSelect(kind, key) {
  const names = layerNames(kind);
  if (!names.includes(state[key])) state[key] = "";
  return select("Layer", key, [["", "all layers"], ...names.map(name => [name, name])]);
}

const pressed = (key, on, onclick, words) =>
  element("button", { type: "button", "data-key": key, "aria-pressed": String(on), onclick }, words);

function choice(label, key, options) {
  const change = value => () => { state[key] = value; update(); };
  const buttons = options.map(([value, text]) => pressed(`${key}:${value}`, state[key] === value, change(value), text));
  return element("span", { class: "choice", role: "group", "aria-label": label }, buttons);
}

function markOf(one, x, y, size) {
  const transform = `translate(${x} ${y}) scale(${size})`;
  return shape("path", { class: "mark", d: MARKS[one.slot], fill: one.color, transform });
}

const strokeOf = (one, color = one.color, width = 2, dash = one.dash) =>
  ({ stroke: color, "stroke-width": width, "stroke-dasharray": dash || null });

function swatch(one) {
  const icon = shape("svg", { width: 26, height: 12, "aria-hidden": "true" });
  const line = shape("path", { class: "line", d: "M0 6H26", ...strokeOf(one) });
  icon.append(line, markOf(one, 13, 6, 4));
  return icon;
}

/* From a share to a color between instance and batch, through one that is close to the page. */
function ramp(value) {
  const end = value < 0.5 ? "var(--instance)" : "var(--batch)";
  return `color-mix(in oklab, ${end} ${Math.round(200 * Math.abs(value - 0.5))}%, var(--middle))`;
}

/* ---- Plots ---- */

const pixel = value => Math.round(value * 10) / 10;

function ticks([low, high], most) {
  const raw = (high - low) / Math.max(1, most), magnitude = 10 ** Math.floor(Math.log10(raw));
  const width = magnitude * [1, 2, 5, 10].find(factor => factor * magnitude >= raw * 0.999);
  const first = Math.ceil(low / width - 1e-9);
  return range(Math.floor(high / width + 1e-9) - first + 1).map(i => (first + i) * width);
}

class Plot {
  constructor(label, { width, height, left = 8, right = 8, top = 8, bottom = 24, x = [0, 1], y = [0, 1] }) {
    Object.assign(this, { width, height, left, right, top, bottom, x, y, probes: [] });
    const words = `${label}. Arrow keys read the values.`;
    this.node = shape("svg", { class: "plot", width, height, role: "img", tabindex: 0, "aria-label": words });
    this.node.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.node.plot = this;
  }

  X(value) {
    const [low, high] = this.x;
    return pixel(this.left + ((value - low) / (high - low || 1)) * (this.width - this.left - this.right));
  }

  Y(value) {
    const [low, high] = this.y, bottom = this.height - this.bottom;
    return pixel(bottom - ((value - low) / (high - low || 1)) * (bottom - this.top));
  }

  add(name, attributes, text) {
    return this.node.appendChild(shape(name, attributes, text));
  }

  text(x, y, text, anchor = "middle") {
    return this.add("text", { x, y, "text-anchor": anchor }, text);
  }

  segment(x1, y1, x2, y2, attributes) {
    this.add("line", { x1, y1, x2, y2, ...attributes });
  }

  box(x, y, width, height, attributes) {
    this.add("rect", { x: pixel(x), y, width: Math.max(0, pixel(width)), height, ...attributes });
  }

  dot(x, y, attributes) {
    this.add("circle", { class: "dot", cx: x, cy: pixel(y), r: 2.5, ...attributes });
  }

  mark(one, x, y, size = 5) {
    this.node.append(markOf(one, x, y, size));
  }

  vertical(value, kind = "grid") {
    this.segment(this.X(value), this.top, this.X(value), this.height - this.bottom, { class: kind });
  }

  horizontal(value, kind = "grid") {
    this.segment(this.left, this.Y(value), this.width - this.right, this.Y(value), { class: kind });
  }

  xAxis(values, form) {
    for (const value of values) {
      const x = this.X(value), anchor = x > this.width - 14 ? "end" : x < 14 ? "start" : "middle";
      this.vertical(value);
      this.text(x, this.height - this.bottom + 15, form(value), anchor);
    }
  }

  yAxis(values, form) {
    for (const value of values) {
      this.horizontal(value);
      this.text(this.left - 6, this.Y(value) + 4, form(value), "end");
    }
  }

  line(points, attributes) {
    const there = points.filter(([, y]) => Number.isFinite(y)).map(([x, y]) => `${this.X(x)} ${this.Y(y)}`);
    const kind = `line ${attributes.class ?? ""}`;
    if (there.length) this.add("path", { ...attributes, class: kind, d: `M${there.join("L")}` });
  }

  band(points, attributes) {
    const there = points.filter(([, low, high]) => Number.isFinite(low + high));
    const edge = [...there.map(([x, low]) => [x, low]), ...there.map(([x, , high]) => [x, high]).reverse()];
    const path = edge.map(([x, y]) => `${this.X(x)} ${this.Y(y)}`).join("L");
    if (path) this.add("path", { class: "band", d: `M${path}Z`, ...attributes });
  }

  /* A place whose values are told when the pointer or the arrow keys come to it. */
  probe(x, y, title, ...rows) {
    this.probes.push({ x, y, title, rows });
  }
}

/* A plot with a row for each layer, from input to output. */
class RowPlot extends Plot {
  constructor(label, layers, width, height, options = {}) {
    const longest = Math.max(...layers.map(layer => layer.name.length)), named = height > 9;
    const left = named ? Math.min(longest * 6.4 + 10, width * 0.34) : 8;
    super(label, { width, height: layers.length * height + 30, left, right: 10, top: 6, ...options });
    this.rowHeight = height;
    layers.forEach((layer, l) => named && this.label(layer.name, this.row(l)));
  }

  row(l) {
    return this.top + l * this.rowHeight;
  }

  /* The height at which a row shows one of several series. */
  lane(l, s = 0, n = 1) {
    return this.row(l) + this.rowHeight * (n === 1 ? 0.5 : 0.12 + (0.76 * (s + 0.5)) / n);
  }

  label(name, y) {
    const fits = Math.max(4, Math.floor((this.left - 10) / 6.1)), bottom = y + this.rowHeight;
    const words = name.length > fits ? `…${name.slice(1 - fits)}` : name;
    this.segment(this.left, bottom, this.width - this.right, bottom, { class: "grid" });
    this.text(this.left - 8, y + this.rowHeight / 2 + 4, words, "end").append(shape("title", {}, name));
  }

  shares() {
    this.xAxis(ticks([0, 1], 5), tenth);
  }
}

/* Rows with a mark for each series that a stem joins to what it is compared with. */
function stems(label, { layers, series }, width, { x, from, value, row }) {
  const plot = new RowPlot(label, layers, width, Math.max(18, 8 * series.length + 6), { x });
  plot.xAxis(ticks(x, 5), tenth);
  plot.vertical(from, "cursor");
  series.forEach((one, s) => layers.forEach((layer, l) => {
    const values = known(value(one, layer, l));
    if (!values.length) return;
    const y = plot.lane(l, s, series.length), at = plot.X(average(values));
    plot.segment(plot.X(from), y, at, y, { class: "stem", stroke: one.color });
    plot.mark(one, at, y, 4.5);
    plot.probe(at, y, layer.name, ...named(one), [row, folded(values, short)]);
  }));
  return plot.node;
}

/* ---- Figures: each has `draw`, which may be told to use several columns, and a `finding` in words ---- */

const figures = {};

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

/* ---- Figures over the training ---- */

function trainingSpan(series) {
  const steps = series.flatMap(one => one.members.flatMap(run => runs[run].steps));
  return [Math.min(...steps), Math.max(...steps)];
}

/* Large plots of the chosen layer, over a small one of each layer, by which it is chosen. */
function trainingPanels(kind, key, width, large, small) {
  const series = withKind(kind), names = layerNames(kind), span = trainingSpan(series);
  const above = layout(width, 420, 2), below = layout(width, names.length > 24 ? 110 : 140, 8, 5);
  const plots = large(series, { width: above.size, height: 260, span, large: true });
  const minis = names.map(name => {
    const node = small(series, name, { width: below.size - 14, height: 62, span, large: false });
    node.removeAttribute("tabindex");
    node.setAttribute("aria-hidden", "true");
    const toggle = () => { state[key] = state[key] === name ? "" : name; update(); };
    const button = pressed(`${key}:${name}`, state[key] === name, toggle, [element("span", {}, name), node]);
    button.classList.add("mini");
    button.title = name;
    return button;
  });
  return [grid(above.n, "wide", ...plots), grid(below.n, "minis", ...minis)];
}

function overSteps(label, { width, height, span, large }, high = 1) {
  const [first, last] = span, x = first === last ? [first - 1, last + 1] : span;
  const room = large ? { left: 34 } : { left: 1, right: 1, top: 3, bottom: 3 };
  const plot = new Plot(label, { width, height, x, y: [0, high], ...room });
  if (large) plot.xAxis(ticks(x, width / 90), whole);
  if (large) plot.yAxis(ticks([0, high], 5), tenth);
  else [0, high].forEach(value => plot.horizontal(value));
  plot.vertical(Math.min(last, Math.max(first, state.step)), "cursor");
  return plot;
}

const strokeWidth = large => (large ? 2.3 : 1.6);

const SIDES = [
  { side: "below", statistic: "instance", words: "below 0.1" },
  { side: "above", statistic: "batch", words: "above 0.9" },
];

figures["rho-training"] = {
  exists: () => runsWith("rho").some(run => runs[run].steps.length > 1),
  options: () => [layerSelect("rho", "rhoLayer")],
  draw: width => trainingPanels("rho", "rhoLayer", width, (series, frame) => {
    const name = state.rhoLayer, note = name || "all layers";
    const sides = SIDES.map(({ statistic, words }) => element("em", { class: statistic }, words));
    const gates = element("h4", {}, "Gates", sides, element("small", {}, note));
    const shares = panel(gates, sharesOverSteps(series, name, frame));
    return [panel(title("rho ", note), rhoOverSteps(series, name, frame)), shares];
  }, rhoOverSteps),
  finding() {
    const [one] = withKind("rho"), [first, last] = trainingSpan([one]);
    const [before, after] = [first, last].map(step => fixed(networkOver(one.members, step).mean));
    const subject = several() ? `mean rho of ${one.name}` : "mean rho";
    return `The ${subject} goes from ${before} at step ${whole(first)} to ${after} at step ${whole(last)}.`;
  },
};

function rhoOverSteps(series, name, frame) {
  const plot = overSteps(`rho over the training, ${name || "all layers"}`, frame);
  for (const one of series) {
    const l = layerIndex(one, "rho", name);
    if (name && l < 0) continue;
    const at = step => (l < 0 ? networkOver(one.members, step) : layerOver(one.members, step, l));
    const track = stepsOf(one).map(step => ({ step, ...at(step) }));
    if (l >= 0) plot.band(track.map(({ step, lower, upper }) => [step, lower, upper]), { fill: one.color });
    const fine = frame.large ? fineTracks(one, l, track) : [];
    fine.forEach(([points, stroke]) => plot.line(points, { class: "fine", stroke }));
    const stroke = strokeOf(one, one.color, strokeWidth(frame.large), frame.large && one.dash);
    plot.line(track.map(({ step, mean }) => [step, mean]), stroke);
    for (const { step, mean, means, lower, upper } of track) {
      const half = l < 0 ? [] : [["middle half", `${fixed(lower)} to ${fixed(upper)}`]];
      const rows = [...named(one), ["mean rho", folded(means, fixed)], ...half];
      plot.probe(plot.X(step), plot.Y(mean), `step ${whole(step)}`, ...rows);
    }
  }
  return plot.node;
}

/* What a mean is of: the runs of a group, else the layers of a network, else the channels of a layer. */
function fineTracks(one, l, track) {
  const [run] = one.members, layers = ownLayers(one, "rho");
  const over = value => track.map((each, i) => [each.step, value(each, i)]);
  if (one.members.length > 1) return one.members.map((_, m) => [over(({ means }) => means[m]), one.color]);
  if (several()) return [];
  if (l < 0) return layers.map((_, k) => [over(({ step }) => gatesOf(run, step, k).mean), "var(--soft)"]);
  if (!keepsChannels(run) || layers[l].channels > MOST_DOTS) return [];
  const values = track.map(({ step }) => channelsOf(run, step, l));
  return values.at(-1).map((last, c) => [over((_, i) => values[i][c]?.value), ramp(last.value)]);
}

function sharesOverSteps(series, name, frame) {
  const plot = overSteps(`Shares of gates over the training, ${name || "all layers"}`, frame);
  for (const one of series) {
    const l = layerIndex(one, "rho", name);
    if (name && l < 0) continue;
    const at = step => (l < 0 ? networkOver(one.members, step) : layerOver(one.members, step, l));
    const track = stepsOf(one).map(step => ({ step, ...at(step) }));
    for (const { side, statistic, words } of SIDES) {
      plot.line(track.map(each => [each.step, each[side]]), strokeOf(one, `var(--${statistic})`, strokeWidth(true)));
      for (const each of track) {
        const [x, y] = [plot.X(each.step), plot.Y(each[side])];
        plot.probe(x, y, `step ${whole(each.step)}`, ...named(one), [words, percent(each[side])]);
      }
    }
  }
  return plot.node;
}

/* ---- Bimodality, gamma ---- */

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

/* ---- Switch weights ---- */

figures["switch-layers"] = {
  columns: width => layout(width, 330, 2).n,
  draw(width) {
    const { size } = layout(width, 330, 2);
    return withKind("switch").flatMap(one => MOMENTS.map((words, moment) =>
      panel(several() ? seriesTitle(one, words) : title(`Weights of ${words}`), stackedBars(one, moment, size))));
  },
  finding() {
    const found = withKind("switch").slice(0, 3).map(one => {
      const layers = range(ownLayers(one, "switch").length);
      const largest = MOMENTS.map((words, moment) => {
        const of = k => average(one.members.flatMap(run => layers.map(l => weightOf(run, state.step, l, moment, k))));
        const means = STATISTICS.map((_, k) => of(k)), most = Math.max(...means);
        return `${STATISTICS[means.indexOf(most)]} statistics in the ${words} (${short(most)})`;
      });
      return largest.join(" and ") + whose(one);
    });
    return `On average over the layers, the largest weights are those of ${found.join("; ")}.`;
  },
};

function stackedBars(one, moment, width) {
  const layers = ownLayers(one, "switch"), height = layers.length > 24 ? 16 : 26;
  const plot = new RowPlot(`Switch weights of ${MOMENTS[moment]}, ${one.name}`, layers, width, height);
  plot.shares();
  layers.forEach((layer, l) => {
    const each = one.members.map(run => STATISTICS.map((_, k) => weightOf(run, state.step, l, moment, k)));
    STATISTICS.forEach((name, k) => {
      const upTo = end => each.map(values => sum(values.slice(0, end))), [start, end] = [k, k + 1].map(upTo);
      const [left, right] = [start, end].map(values => plot.X(average(values)));
      plot.box(left, plot.row(l) + 2, right - left - 1, height - 4, { fill: `var(--${name})` });
      const weight = folded(each.map(values => values[k]), fixed), y = plot.lane(l);
      plot.probe((left + right) / 2, y, layer.name, [`${name}, ${MOMENTS[moment]}`, weight]);
      const spread = k + 1 < STATISTICS.length ? plot.X(deviation(end)) - plot.X(0) : 0;
      if (spread > 0) plot.segment(right - spread, y, right + spread, y, { class: "whisker" });
    });
  });
  [1 / 3, 2 / 3].forEach(value => plot.vertical(value, "start"));
  return plot.node;
}

/* The top of an axis with room for every weight of the series. */
function highestWeight(series) {
  const highest = series.flatMap(one => one.members).map(run => {
    const size = layersOf(run, "switch").length * MOMENTS.length * STATISTICS.length, first = runs[run].switch;
    const own = weights.subarray(first * MOMENTS.length * STATISTICS.length).subarray(0, runs[run].steps.length * size);
    return own.reduce((a, b) => (b > LARGEST ? a : Math.max(a, b)), 0) / LARGEST;
  });
  return Math.min(1, Math.ceil(10 * Math.max(0.45, ...highest) + 0.5) / 10);
}

figures["switch-training"] = {
  exists: () => runsWith("switch").some(run => runs[run].steps.length > 1),
  options() {
    return [layerSelect("switch", "switchLayer"), choice("Small plots", "moment", Object.entries(MOMENTS))];
  },
  draw(width) {
    const high = highestWeight(withKind("switch")), name = state.switchLayer;
    const large = (series, frame) => MOMENTS.map((words, moment) => {
      const plot = weightsOverSteps(series, name, frame, moment, high);
      return panel(title(`Weights of ${words} `, name || "mean over all layers"), plot);
    });
    const small = (series, layer, frame) => weightsOverSteps(series, layer, frame, Number(state.moment), high);
    return trainingPanels("switch", "switchLayer", width, large, small);
  },
  finding() {
    const [one] = withKind("switch"), layers = range(ownLayers(one, "switch").length);
    const ofLayer = (run, l) => [0, 1].flatMap(moment => STATISTICS.map((_, k) => weightOf(run, Infinity, l, moment, k)));
    const of = run => layers.flatMap(l => ofLayer(run, l));
    const subject = several() ? `the weights of ${one.name}` : "the weights";
    const all = one.members.flatMap(of);
    return `From ⅓ each, ${subject} have spread to between ${short(Math.min(...all))} and ${short(Math.max(...all))}.`;
  },
};

function weightsOverSteps(series, name, frame, moment, high) {
  const label = `Switch weights of ${MOMENTS[moment]} over the training, ${name || "mean over all layers"}`;
  const plot = overSteps(label, frame, high);
  plot.horizontal(1 / 3, "third");
  for (const one of series) {
    const l = layerIndex(one, "switch", name), steps = stepsOf(one);
    if (name && l < 0) continue;
    const layers = l < 0 ? range(ownLayers(one, "switch").length) : [l];
    const over = (members, chosen, k) => steps.map(step =>
      [step, average(members.flatMap(run => chosen.map(layer => weightOf(run, step, layer, moment, k))))]);
    STATISTICS.forEach((statistic, k) => {
      const stroke = `var(--${statistic})`, track = over(one.members, layers, k);
      const seeds = one.members.length > 1 ? one.members.map(run => over([run], layers, k)) : null;
      const fine = seeds ?? (several() ? [] : layers.map(layer => over(one.members, [layer], k)));
      if (frame.large) fine.forEach(points => plot.line(points, { class: "fine", stroke }));
      plot.line(track, strokeOf(one, stroke, strokeWidth(frame.large)));
      for (const [step, value] of track) {
        plot.probe(plot.X(step), plot.Y(value), `step ${whole(step)}`, ...named(one), [statistic, fixed(value)]);
      }
    });
  }
  return plot.node;
}

/* ---- Differences ---- */

const compared = units.group.length > 1 ? units.group : units.run;
const measures = {};
if (rho) {
  for (const [name, words] of [["mean", "mean rho"], ["below", "share below 0.1"], ["above", "share above 0.9"]]) {
    measures[name] = { words, kind: "rho", value: (run, l) => gatesOf(run, state.step, l)[name] };
  }
}
if (weights) {
  MOMENTS.forEach((moment, m) => STATISTICS.forEach((name, k) => {
    const words = `${name} weight of ${moment}`;
    measures[words] = { words, kind: "switch", value: (run, l) => weightOf(run, state.step, l, m, k) };
  }));
}

/* To begin with, two series are compared that have the same layers, if there are such. */
function chooseCompared() {
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

figures.difference = {
  exists: () => compared.length > 1,
  options() {
    const names = compared.map((one, i) => [String(i), one.name]);
    const words = Object.entries(measures).map(([name, measure]) => [name, measure.words]);
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

/* ---- Snapped gates ---- */

const EXPLAINED = {
  rms_change: "the root mean square by which snapping changes the images, whose values lie in [0, 1]",
  rms_between: "the same between images of different latent vectors, for comparison",
  d_fake: "the mean score that the discriminator gives to generated images",
};

function measured(values, digits) {
  const spread = deviation(values), words = significant(average(values), digits);
  return Number.isFinite(spread) ? `${words} ± ${significant(spread, 2)}` : words;
}

figures.snapped = {
  exists: () => data.snapped !== null,
  draw() {
    const rows = state.shown.flatMap(one => {
      const names = one.members.map(run => runs[run].name), own = data.snapped.filter(row => names.includes(row.run));
      const alike = Map.groupBy(own, row => `${row.metric}\n${row.statistics}`);
      return [...alike.values()].map((group, i) => {
        const { metric, statistics } = group[0];
        const before = group.map(row => row.learned), after = group.map(row => row.snapped);
        const change = group.map(row => row.snapped - row.learned), sign = average(change) > 0 ? "+" : "";
        const numbers = [measured(before, 4), measured(after, 4), sign + measured(change, 2)];
        return [...(several() ? [i ? "" : one.name] : []), metric, statistics, ...numbers];
      });
    });
    const heads = [...(several() ? [state.unit] : []), "Metric", "Running statistics", "learned", "snapped", "change"];
    return [table(heads, rows, several() ? 3 : 2)];
  },
  finding() {
    const metrics = Object.keys(EXPLAINED).filter(metric => data.snapped.some(row => row.metric === metric));
    return metrics.map(metric => `${metric} is ${EXPLAINED[metric]}.`).join(" ");
  },
};

/* ---- Controls ---- */

const byId = id => document.getElementById(id);

function chip(series) {
  const shown = state.shown.find(one => one.name === series.name), full = state.shown.length === MARKS.length;
  const toggle = () => {
    if (shown) state.shown.splice(state.shown.indexOf(shown), 1);
    else show(series);
    update();
  };
  // One is always left; and no more are shown than can be told apart.
  const disabled = shown ? !several() : full;
  const words = series.members.length > 1 ? `${series.name} (${series.members.length} runs)` : series.name;
  const box = { type: "checkbox", "data-key": `show:${series.name}`, checked: Boolean(shown), disabled };
  const hint = !shown && full ? `${MARKS.length} at most are shown at once` : null, icon = shown ? swatch(shown) : null;
  return element("label", { class: "chip", title: hint }, element("input", { ...box, onchange: toggle }), icon, words);
}

function drawSeries() {
  const all = units[state.unit], few = all.length <= MARKS.length, picker = byId("picker");
  byId("series-line").hidden = runs.length < 2;
  byId("chips").replaceChildren(...(few ? all : state.shown).map(chip));
  picker.hidden = few;
  if (few) return;
  picker.querySelector("summary").textContent = `Choose of ${all.length} ${state.unit}s`;
  const found = all.filter(one => one.name.toLowerCase().includes(state.search.toLowerCase()));
  picker.querySelector(".found").replaceChildren(...found.slice(0, 300).map(chip));
}

function drawUnit() {
  const change = unit => () => { choose(unit); update(); };
  byId("unit").hidden = !folds;
  const button = unit => pressed(`unit:${unit}`, state.unit === unit, change(unit), `${unit}s`);
  byId("unit").replaceChildren(...Object.keys(units).map(button));
}

function drawStep() {
  const steps = shownSteps(), slider = byId("step");
  state.step = steps.findLast(step => step <= state.step) ?? steps[0];
  slider.max = steps.length - 1;
  slider.value = steps.indexOf(state.step);
  byId("step-text").value = `step ${whole(state.step)} of ${whole(steps.at(-1))}`;
  slider.setAttribute("aria-valuetext", byId("step-text").value);
  byId("step-line").hidden = steps.length < 2;
  byId("controls").hidden = steps.length < 2 && runs.length < 2;
}

let playing = 0;

function play(on) {
  clearInterval(playing);
  playing = 0;
  byId("play").textContent = on ? "Pause" : "Play";
  if (!on) return;
  const steps = shownSteps(), stride = Math.max(1, Math.round(steps.length / 60));
  let at = state.step === steps.at(-1) ? -stride : steps.indexOf(state.step);
  playing = setInterval(() => {
    at = Math.min(steps.length - 1, at + stride);
    state.step = steps[at];
    if (at === steps.length - 1) play(false);
    update();
  }, 160);
}

/* ---- Drawing what is near the window, after every change ---- */

const entries = [];

/* Controls are made anew by a change: the one that had the focus gets it back. */
function keepFocus(change) {
  const { key } = document.activeElement?.dataset ?? {};
  change();
  if (key && document.activeElement?.dataset.key !== key) {
    const again = [...document.querySelectorAll("[data-key]")].find(node => node.dataset.key === key);
    again?.focus({ preventScroll: true });
  }
}

function drawFigure(entry) {
  const { figure, spec } = entry, box = figure.querySelector(".panels"), width = Math.floor(figure.clientWidth);
  entry.stale = false;
  figure.querySelector(".options")?.replaceChildren(...(spec.options?.() ?? []));
  box.style.gridTemplateColumns = `repeat(${spec.columns?.(width) ?? 1}, minmax(0, 1fr))`;
  box.replaceChildren(...spec.draw(width));
  figure.querySelector(".finding").textContent = spec.finding();
  spec.after?.(figure);
}

function conditions() {
  const grouped = state.shown.some(one => one.members.length > 1);
  const sides = [state.first, state.second].map(i => compared[i]?.members.length ?? 0);
  return {
    single: !several() && !grouped,
    many: several(),
    seeds: grouped,
    last: runsWith("rho").some(run => !keepsChannels(run)),
    uncertain: Math.min(...sides) > 1,
    certain: Math.min(...sides) < 2 && data.groups.length > 1,
    within: data.groups.length === 1,
  };
}

const isWanted = ({ figure, stale, near }, far) => stale && (near || far) && !figure.closest("[hidden]");

let requested = 0;

function update() {
  entries.forEach(entry => { entry.stale = true; });
  requested ||= requestAnimationFrame(() => redraw());
}

function redraw(everything = false) {
  requested = 0;
  hideTip();
  keepFocus(() => {
    drawUnit();
    drawSeries();
    drawStep();
    for (const kind of ["rho", "switch"]) {
      const section = document.querySelector(`section[data-needs=${kind}]`);
      if (section) section.hidden = !withKind(kind).length;
    }
    entries.filter(entry => isWanted(entry, everything)).forEach(drawFigure);
    const now = conditions();
    document.querySelectorAll("[data-when]").forEach(node => { node.hidden = !now[node.dataset.when]; });
  });
}

/* ---- What does not change ---- */

const namesOf = run => [...layersOf(run, "rho"), ...layersOf(run, "switch")].map(layer => layer.name);

function lead() {
  const gates = "the gates rho of batch-instance normalization", shares = "the weights of switchable normalization";
  const what = [rho && gates, weights && shares].filter(Boolean).join(" and ");
  const groups = folds ? `, in ${count(data.groups.length, "group")}` : "";
  const whom = runs.length === 1 ? runs[0].name : count(runs.length, "run") + groups;
  const layers = count(new Set(range(runs.length).flatMap(namesOf)).size, "layer");
  const steps = ascending(runs.flatMap(run => run.steps)), [first, last] = [steps[0], steps.at(-1)].map(whole);
  const when = first === last ? `at step ${last}` : `from step ${first} to ${last}`;
  byId("lead").textContent = `What ${what} became in ${whom}: ${layers}, ${when}.`;
}

/* A number of several runs: mean and deviation if they are of one group, which may be averaged, else its range. */
function over(members, value, form) {
  const values = members.map(value), alike = new Set(members.map(run => runs[run].group)).size === 1;
  return alike ? folded(values, form) : between(values, form);
}

function facts() {
  const fact = (words, value, note) => {
    const number = element("dd", { class: value.length > 12 ? "long" : null }, value, element("small", {}, note));
    byId("numbers").append(element("div", {}, element("dt", {}, words), number));
  };
  const gated = runsWith("rho"), switched = runsWith("switch"), { network, first, last } = PUBLISHED;
  if (gated.length) {
    const of = (name, form, part) => over(gated, run => networkOver([run], Infinity, part)[name], form);
    fact("Mean rho at the end", of("mean", short), "1 when training began");
    fact("Gates below 0.1", of("below", rounded), `about ${rounded(network.below)} as published`);
    fact("Gates above 0.9", of("above", rounded), `about ${rounded(network.above)} as published`);
    const thirds = ["first", "last"].map(part => of("below", rounded, part)).join(" · ");
    const published = [first, last].map(({ below }) => rounded(below)).join(" · ");
    fact("Below 0.1, lower · upper third", thirds, `about ${published} as published`);
  }
  STATISTICS.forEach((name, k) => {
    if (!switched.length) return;
    const mean = (run, moment) => average(layersOf(run, "switch").map((_, l) => weightOf(run, Infinity, l, moment, k)));
    const both = [0, 1].map(moment => over(switched, run => mean(run, moment), short)).join(" · ");
    fact(element("em", { class: name }, `${name} weight`), both, "of means · of variances, over all layers");
  });
}

const FEW = 8;
const folding = (words, content) => element("details", {}, element("summary", {}, words), content);

function runTable() {
  const heads = ["Run", ...(folds ? ["Group"] : []), "Read from", "Layers", "Gates", "Steps"];
  const rows = runs.map((run, i) => {
    const gates = sum(layersOf(i, "rho").map(layer => layer.channels)), [first, last] = [run.steps[0], run.steps.at(-1)];
    const steps = first === last ? whole(last) : `${whole(first)} to ${whole(last)}, ${run.logged} logged`;
    const group = folds ? [data.groups[run.group]] : [], layers = whole(new Set(namesOf(i)).size);
    return [run.name, ...group, element("code", {}, run.source), layers, gates ? whole(gates) : "–", steps];
  });
  const list = table(heads, rows, folds ? 3 : 2);
  byId("runs").append(runs.length > FEW ? folding(`The ${runs.length} runs`, list) : list);
}

function notes() {
  const items = data.notes.map(text => element("li", {}, text)), many = items.length > FEW;
  const list = many ? [element("li", {}, folding(count(items.length, "further note"), element("ul", {}, items)))] : items;
  byId("notes-list").append(...list);
}

/* ---- Reading values ---- */

function hideTip() {
  byId("tip").hidden = true;
  document.querySelectorAll(".ring").forEach(ring => ring.remove());
}

function showTip(plot, index, aloud) {
  const { x, y, title, rows } = plot.probes[index], tip = byId("tip"), page = document.documentElement;
  hideTip();
  plot.at = index;
  plot.add("circle", { class: "ring", cx: x, cy: y, r: 7 });
  const lines = rows.map(row => element("span", {}, row.map(part => element("span", {}, String(part)))));
  tip.replaceChildren(element("b", {}, title), ...lines);
  tip.hidden = false;
  const { left, top } = plot.node.getBoundingClientRect();
  const across = Math.min(Math.max(left + x - tip.offsetWidth / 2, 6), page.clientWidth - tip.offsetWidth - 6);
  const above = top + y - tip.offsetHeight - 14, down = above > 6 ? above : top + y + 16;
  tip.style.transform = `translate(${across + scrollX}px, ${down + scrollY}px)`;
  if (aloud) byId("say").textContent = [title, ...rows.map(row => row.join(" "))].join(", ");
}

function nearest(plot, cost, limit) {
  let best = -1, least = limit;
  plot.probes.forEach(({ x, y }, i) => {
    const value = cost(x, y);
    if (value < least) [best, least] = [i, value];
  });
  return best;
}

function point(event) {
  const plot = event.target.closest?.("svg.plot")?.plot;
  if (!plot) return hideTip();
  const { left, top } = plot.node.getBoundingClientRect(), [x, y] = [event.clientX - left, event.clientY - top];
  const index = nearest(plot, (ofX, ofY) => Math.hypot(ofX - x, ofY - y), 40);
  return index < 0 ? hideTip() : showTip(plot, index, false);
}

const WAYS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };

/* From value to value by the arrow keys: to the nearest in that direction. */
function walk(event) {
  const plot = document.activeElement?.plot, way = WAYS[event.key];
  if (event.key === "Escape") hideTip();
  if (!plot?.probes.length || !way) return;
  event.preventDefault();
  const from = plot.probes[plot.at];
  if (!from) return showTip(plot, 0, true);
  const next = nearest(plot, (x, y) => {
    const [dx, dy] = [x - from.x, y - from.y], ahead = dx * way[0] + dy * way[1];
    return ahead > 0.4 ? ahead + 3 * Math.abs(dx * way[1] + dy * way[0]) : Infinity;
  }, Infinity);
  return showTip(plot, next < 0 ? plot.at : next, true);
}

/* ---- Start ---- */

function watchFigures() {
  const observer = new IntersectionObserver(seen => {
    for (const { target, isIntersecting } of seen) entries.find(entry => entry.figure === target).near = isIntersecting;
    if (entries.some(entry => isWanted(entry, false))) redraw();
  }, { rootMargin: "600px" });
  for (const [id, spec] of Object.entries(figures)) {
    const figure = byId(id), section = figure?.closest("section");
    if (!figure) continue;
    if (spec.exists && !spec.exists()) {
      figure.remove();
      if (!section.querySelector("figure")) section.remove();
    } else {
      entries.push({ figure, spec, stale: true, near: false });
      observer.observe(figure);
    }
  }
}

function listen() {
  byId("step").addEventListener("input", event => {
    play(false);
    state.step = shownSteps()[event.target.value];
    update();
  });
  byId("play").addEventListener("click", () => play(!playing));
  byId("search").addEventListener("input", event => {
    state.search = event.target.value;
    drawSeries();
  });
  ["pointermove", "pointerdown"].forEach(kind => document.addEventListener(kind, point));
  document.addEventListener("keydown", walk);
  document.addEventListener("focusout", hideTip);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) update();
    width = innerWidth;
  });
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.print = "";
    redraw(true);
  });
  addEventListener("afterprint", () => delete document.documentElement.dataset.print);
}

function start() {
  const has = { rho, switch: weights, gamma: data.gamma.length, snapped: data.snapped };
  document.querySelectorAll("[data-needs]").forEach(node => has[node.dataset.needs] || node.remove());
  choose(folds ? "group" : "run");
  state.step = Infinity;
  if (compared.length > 1) chooseCompared();
  lead();
  facts();
  runTable();
  notes();
  watchFigures();
  listen();
  redraw();
}

start();
