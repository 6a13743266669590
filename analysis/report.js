"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const PUBLISHED = data.published;
const STATISTICS = data.statistics;
const MOMENTS = ["means", "variances"];
const PARTS = { network: "Whole network", first: "Lower third", middle: "Middle third", last: "Upper third" };
const SHAPES = 6; // as many selections can be told apart by color, mark and dashes
const BINS = 10;
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "12 4", "4 2"];
const MISSING = 65535;

/* ---- Numbers ---- */

function unpack(text, Type) {
  const characters = atob(text),
    bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return new Type(bytes.buffer);
}
const share = (packed, i) => (packed[i] === MISSING ? NaN : packed[i] / (MISSING - 1));
const range = n => [...Array(n).keys()];
const sum = values => values.reduce((a, b) => a + b, 0);
const average = values => sum(values) / values.length;
function deviation(values) {
  const center = average(values);
  return values.length > 1 ? Math.sqrt(sum(values.map(v => (v - center) ** 2)) / (values.length - 1)) : NaN;
}
const fixed = (value, digits = 3) => (Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : "–");
const percent = (value, digits = 1) => (Number.isFinite(value) ? `${(100 * value).toFixed(digits)}\u00a0%` : "–");
const signed = (value, digits = 3) => (value > 0 ? "+" : "") + fixed(value, digits);
const whole = value => String(value).replace(/\B(?=(\d{3})+$)/g, "\u2009");
const between = (values, form) =>
  [...new Set([Math.min(...values), Math.max(...values)].map(value => form(value)))].join(" to ");
const give = (value, spread, form) => form(value) + (Number.isFinite(spread) ? ` ± ${form(spread)}` : "");
const count = (n, word) => `${whole(n)} ${word}${n === 1 ? "" : "s"}`;

/* Student's t is sqrt(freedom) * tan(angle), where the angle has the density cos(angle) ** (freedom - 1). */
function tQuantile(freedom, confidence = 0.95) {
  const cells = 4000,
    width = Math.PI / 2 / cells;
  const density = range(cells).map(i => Math.cos((i + 0.5) * width) ** (Math.min(freedom, 1e4) - 1));
  let rest = confidence * sum(density),
    cell = 0;
  while (rest > density[cell]) rest -= density[cell++];
  return Math.sqrt(Math.min(freedom, 1e4)) * Math.tan((cell + rest / density[cell]) * width);
}

/* Second minus first, with the half width of Welch's interval. */
function welch(first, second) {
  const [a, b] = [first, second].map(values => deviation(values) ** 2 / values.length);
  const freedom = (a + b) ** 2 / (a ** 2 / (first.length - 1) + b ** 2 / (second.length - 1));
  const certain = a + b === 0 ? 0 : NaN;
  const half = Number.isFinite(freedom) ? tQuantile(freedom) * Math.sqrt(a + b) : certain;
  return { difference: average(second) - average(first), half };
}

/* ---- Values ---- */

const { runs, architectures } = data;
const rho =
  data.rho && Object.fromEntries(Object.entries(data.rho).map(([name, text]) => [name, unpack(text, Uint16Array)]));
const weights = data.switch && unpack(data.switch, Uint16Array);
const layersOf = (run, kind) => architectures[runs[run].architecture][kind];

function stepIndex(run, step) {
  const { steps } = runs[run];
  let index = 0;
  while (index + 1 < steps.length && steps[index + 1] <= step) index++;
  return index;
}
const cellOf = (run, kind, step, layer) => runs[run][kind] + stepIndex(run, step) * layersOf(run, kind).length + layer;
const weightOf = (run, step, layer, moment, statistic) =>
  share(weights, 6 * cellOf(run, "switch", step, layer) + 3 * moment + statistic);

function gatesOf(run, step, layer) {
  const cell = cellOf(run, "rho", step, layer);
  const numbers = Object.fromEntries(
    ["mean", "below", "above", "lower", "upper"].map(name => [name, share(rho[name], cell)]),
  );
  return { ...numbers, counts: rho.histogram.subarray(cell * BINS, (cell + 1) * BINS) };
}

/* The single channels of a layer, if they are kept for this step. */
function channelsOf(run, step, layer) {
  const { channels, channelSteps, steps } = runs[run],
    layers = layersOf(run, "rho");
  const index = channelSteps === 1 ? steps.length - 1 : stepIndex(run, step);
  if (channels === null) return [];
  const shown = layers.map(one => one.shown),
    row = channelSteps === 1 ? 0 : index;
  const start = channels + row * sum(shown) + sum(shown.slice(0, layer));
  return range(shown[layer])
    .map(i => ({
      channel: Math.floor((i * layers[layer].channels) / shown[layer]),
      value: share(rho.channels, start + i),
    }))
    .filter(one => Number.isFinite(one.value));
}

/* A layer over the runs of a series: its mean, how far runs differ, and the middle half of its channels. */
function layerOver(members, step, layer) {
  const gates = members.map(run => gatesOf(run, step, layer)),
    means = gates.map(one => one.mean);
  return {
    means,
    mean: average(means),
    spread: deviation(means),
    lower: average(gates.map(one => one.lower)),
    upper: average(gates.map(one => one.upper)),
  };
}

/* A network, or a third of it, over the runs of a series. */
function networkOver(members, step, part = "network") {
  const each = members.map(run => {
    const layers = layersOf(run, "rho")
      .map((layer, i) => ({ ...gatesOf(run, step, i), ...layer }))
      .filter(layer => part === "network" || layer.third === part);
    const total = sum(layers.map(layer => layer.channels || 1));
    const over = name => sum(layers.map(layer => layer[name] * (layer.channels || 1))) / total;
    return {
      mean: over("mean"),
      below: over("below"),
      above: over("above"),
      counts: range(BINS).map(b => sum(layers.map(layer => layer.counts[b]))),
    };
  });
  const counts = range(BINS).map(b => sum(each.map(one => one.counts[b])));
  const folded = { counts, shares: counts.map(n => n / Math.max(1, sum(counts))) };
  for (const name of ["mean", "below", "above"]) {
    folded[name] = average(each.map(one => one[name]));
    folded[`${name}Spread`] = deviation(each.map(one => one[name]));
    folded[`${name}s`] = each.map(one => one[name]);
  }
  return folded;
}

/* ---- What is shown ---- */

const units = {
  run: runs.map((run, i) => ({ name: run.name, members: [i] })),
  group: data.groups.map((name, g) => ({ name, members: range(runs.length).filter(i => runs[i].group === g) })),
};
const folds = units.group.length < units.run.length;
const state = {
  unit: folds ? "group" : "run",
  shown: [],
  step: 0,
  rhoLayer: "",
  switchLayer: "",
  moment: 0,
  gammaLayer: "",
  measure: "",
  first: 0,
  second: 1,
};

function show(selection) {
  const free = range(SHAPES);
  state.shown.forEach(one => free.splice(free.indexOf(one.slot), 1));
  state.shown.push({ ...selection, slot: free[0], color: `var(--run-${free[0]})`, dash: DASHES[free[0]] });
  state.shown.sort(
    (a, b) =>
      units[state.unit].findIndex(one => one.name === a.name) - units[state.unit].findIndex(one => one.name === b.name),
  );
}
function choose(unit) {
  Object.assign(state, { unit, shown: [] });
  units[unit].slice(0, SHAPES).forEach(show);
}
const shownSteps = () =>
  [...new Set(state.shown.flatMap(one => one.members.flatMap(run => runs[run].steps)))].sort((a, b) => a - b);
const withKind = kind => state.shown.filter(one => one.members.every(run => layersOf(run, kind).length));

const whose = one => (state.shown.length > 1 ? ` in ${one.name}` : "");

/* Series whose layers can be drawn in the same rows. */
function byArchitecture(kind) {
  const alike = new Map();
  for (const one of withKind(kind)) {
    const key = runs[one.members[0]].architecture;
    alike.set(key, [...(alike.get(key) ?? []), one]);
  }
  return [...alike].map(([key, series]) => ({ layers: architectures[key][kind], series }));
}
const layerNames = kind => [...new Set(byArchitecture(kind).flatMap(({ layers }) => layers.map(layer => layer.name)))];

/* ---- Elements ---- */

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") node.style.cssText = value;
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.filter(child => child != null));
  return node;
}
function shape(name, attributes = {}, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) if (value != null) node.setAttribute(key, value);
  if (text != null) node.textContent = text;
  return node;
}
const round = value => Math.round(value * 10) / 10;
function outline(slot, x, y, r) {
  const at = (dx, dy) => `${round(x + dx * r)} ${round(y + dy * r)}`;
  const polygons = [
    null,
    [
      [-0.9, -0.9],
      [0.9, -0.9],
      [0.9, 0.9],
      [-0.9, 0.9],
    ],
    [
      [0, -1.15],
      [1.1, 0.8],
      [-1.1, 0.8],
    ],
    [
      [0, -1.3],
      [1.15, 0],
      [0, 1.3],
      [-1.15, 0],
    ],
    [
      [0, 1.15],
      [1.1, -0.8],
      [-1.1, -0.8],
    ],
    [
      [-0.4, -1.2],
      [0.4, -1.2],
      [0.4, -0.4],
      [1.2, -0.4],
      [1.2, 0.4],
      [0.4, 0.4],
      [0.4, 1.2],
      [-0.4, 1.2],
      [-0.4, 0.4],
      [-1.2, 0.4],
      [-1.2, -0.4],
      [-0.4, -0.4],
    ],
  ];
  if (!polygons[slot]) return `M${at(-1, 0)}A${r} ${r} 0 1 1 ${at(1, 0)}A${r} ${r} 0 1 1 ${at(-1, 0)}Z`;
  return `M${polygons[slot].map(([dx, dy]) => at(dx, dy)).join("L")}Z`;
}
function swatch(one) {
  const icon = shape("svg", { width: 26, height: 12, "aria-hidden": "true" });
  icon.append(
    shape("line", {
      x1: 0,
      x2: 26,
      y1: 6,
      y2: 6,
      stroke: one.color,
      "stroke-width": 2,
      "stroke-dasharray": one.dash || null,
    }),
  );
  icon.append(shape("path", { d: outline(one.slot, 13, 6, 4), fill: one.color }));
  return icon;
}
const heading = (one, note) =>
  element(
    "h4",
    {},
    ...(state.shown.length > 1 ? [swatch(one)] : []),
    one.name,
    ...(note ? [element("small", {}, note)] : []),
  );

/* From a share to the color between instance and batch, through a middle that is close to the page. */
function ramp(value) {
  const end = value < 0.5 ? "var(--instance)" : "var(--batch)";
  return `color-mix(in oklab, ${end} ${Math.round(200 * Math.abs(value - 0.5))}%, var(--middle))`;
}

function ticks(low, high, target) {
  const raw = (high - low) / Math.max(1, target),
    magnitude = 10 ** Math.floor(Math.log10(raw));
  const width = magnitude * [1, 2, 5, 10].find(factor => factor * magnitude >= raw * 0.999);
  return range(Math.floor((high - low) / width + 1e-9) + 1)
    .map(i => Math.ceil(low / width - 1e-9) * width + i * width)
    .filter(tick => tick <= high + 1e-9);
}

class Plot {
  constructor({ width, height, left = 8, right = 8, top = 8, bottom = 22, x = [0, 1], y = [0, 1], label }) {
    Object.assign(this, { width, height, left, right, top, bottom, x, y, probes: [] });
    this.node = shape("svg", {
      class: "plot",
      width,
      height,
      role: "img",
      tabindex: 0,
      "aria-label": `${label}. Arrow keys read the values.`,
    });
    this.node.plot = this;
  }
  X(value) {
    return round(
      this.left + ((value - this.x[0]) / (this.x[1] - this.x[0] || 1)) * (this.width - this.left - this.right),
    );
  }
  Y(value) {
    return round(
      this.height -
        this.bottom -
        ((value - this.y[0]) / (this.y[1] - this.y[0] || 1)) * (this.height - this.top - this.bottom),
    );
  }
  add(name, attributes, text) {
    return this.node.appendChild(shape(name, attributes, text));
  }
  text(x, y, text, attributes = {}) {
    return this.add("text", { x, y, ...attributes }, text);
  }
  vertical(value, kind = "grid") {
    this.add("line", {
      class: kind,
      x1: this.X(value),
      x2: this.X(value),
      y1: this.top,
      y2: this.height - this.bottom,
    });
  }
  horizontal(value, kind = "grid") {
    this.add("line", { class: kind, x1: this.left, x2: this.width - this.right, y1: this.Y(value), y2: this.Y(value) });
  }
  xAxis(values, form) {
    for (const value of values) {
      this.vertical(value);
      const anchor = this.X(value) > this.width - 14 ? "end" : this.X(value) < 14 ? "start" : "middle";
      this.text(this.X(value), this.height - this.bottom + 15, form(value), { "text-anchor": anchor });
    }
  }
  yAxis(values, form) {
    for (const value of values) {
      this.horizontal(value);
      this.text(this.left - 6, this.Y(value) + 4, form(value), { "text-anchor": "end" });
    }
  }
  line(points, attributes) {
    const runsOf = points.filter(point => Number.isFinite(point[1])).map(([x, y]) => `${this.X(x)} ${this.Y(y)}`);
    if (runsOf.length) this.add("path", { class: "line", d: `M${runsOf.join("L")}`, ...attributes });
  }
  band(points, attributes) {
    const known = points.filter(([, low, high]) => Number.isFinite(low) && Number.isFinite(high));
    const there = known.map(([x, low]) => `${this.X(x)} ${this.Y(low)}`),
      back = known.map(([x, , high]) => `${this.X(x)} ${this.Y(high)}`).reverse();
    if (known.length) this.add("path", { d: `M${there.join("L")}L${back.join("L")}Z`, stroke: "none", ...attributes });
  }
  mark(one, x, y, r = 5) {
    this.add("path", {
      d: outline(one.slot, x, y, r),
      fill: one.color,
      stroke: "var(--paper)",
      "stroke-width": 1.2,
      "data-series": one.name,
    });
  }
  /* A place whose values are told when the pointer or the arrow keys come to it. */
  probe(x, y, title, ...rows) {
    this.probes.push({ x, y, title, rows });
  }
}

/* A plot with one row for each layer, from input to output. */
function rowPlot(layers, width, { height, label, x = [0, 1], labels = true, top = 6, right = 10 }) {
  const room = labels ? Math.min(Math.max(...layers.map(layer => layer.name.length)) * 6.4 + 10, width * 0.34) : 8;
  const plot = new Plot({
    width,
    height: layers.length * height + top + 24,
    left: room,
    right,
    top,
    bottom: 24,
    x,
    y: [layers.length, 0],
    label,
  });
  layers.forEach((layer, i) => {
    const y = top + i * height;
    if (height > 9)
      plot.add("line", { class: "grid", x1: plot.left, x2: width - right, y1: y + height, y2: y + height });
    if (labels && height > 9) layerLabel(plot, layer.name, plot.left - 8, y + height / 2 + 4);
  });
  plot.row = i => top + i * height;
  plot.rowHeight = height;
  return plot;
}
function layerLabel(plot, name, x, y) {
  const fits = Math.max(4, Math.floor((x - 2) / 6.1));
  const text = plot.text(x, y, name.length > fits ? `…${name.slice(1 - fits)}` : name, { "text-anchor": "end" });
  text.append(shape("title", {}, name));
}
/* The height at which a layer's row shows a series. */
const lane = (plot, l, s, n) => plot.row(l) + plot.rowHeight * (n === 1 ? 0.5 : 0.12 + (0.76 * (s + 0.5)) / n);
const rhoAxis = plot => plot.xAxis(ticks(0, 1, 5), value => fixed(value, 1));
const stepTicks = (low, high, width) => ticks(low, high, width / 90);
const panel = (...children) => element("div", { class: "panel" }, ...children);
const columns = (width, least, most) => Math.max(1, Math.min(most, Math.floor((width + 20) / (least + 20))));
const cell = (width, n) => Math.floor((width - 20 * (n - 1)) / n);

/* ---- Figures ---- */

const figures = {};

figures["rho-histogram"] = {
  draw(width) {
    const series = withKind("rho"),
      n = columns(width, 215, 4),
      narrow = n < 4;
    const folded = Object.fromEntries(
      Object.keys(PARTS).map(part => [part, series.map(one => networkOver(one.members, state.step, part))]),
    );
    const most = Math.max(
      0.2,
      ...Object.values(folded)
        .flat()
        .flatMap(one => one.shares),
      PUBLISHED.network.above,
    );
    const high = Math.ceil(most * 10) / 10;
    return Object.keys(PARTS).map(part =>
      panel(
        element("h4", {}, PARTS[part]),
        histogram(
          series,
          folded[part],
          part,
          n === 1 ? width : cell(width, n),
          narrow && part !== "network" ? 150 : 210,
          high,
        ),
      ),
    );
  },
  columns: width => columns(width, 215, 4),
  finding() {
    const each = withKind("rho").map(one => networkOver(one.members, state.step)),
      gates = sum(each[0].counts);
    const published = `The published network had about ${percent(PUBLISHED.network.below, 0)} and ${percent(PUBLISHED.network.above, 0)}.`;
    const [below, above] = ["below", "above"].map(side =>
      between(
        each.map(one => one[side]),
        percent,
      ),
    );
    return `${below} of ${each.length === 1 && gates ? count(gates, "gate") : "the gates"} ended below 0.1, ${above} above 0.9. ${published}`;
  },
  after(figure) {
    const series = withKind("rho"),
      many = series.length > 1;
    const numbers = texts => texts.map(text => element("td", { class: "number" }, text));
    const published = value =>
      element("td", { class: "number published" }, value === undefined ? "" : `≈ ${percent(value, 0)}`);
    const rows = Object.keys(PARTS).flatMap(part =>
      series.map((one, i) => {
        const { below, belowSpread, above, aboveSpread, mean, meanSpread } = networkOver(one.members, state.step, part);
        const paper = i === 0 ? PUBLISHED[part] : {};
        return element(
          "tr",
          {},
          element("th", { scope: "row" }, i ? "" : PARTS[part]),
          many ? element("td", {}, one.name) : null,
          ...numbers([give(below, belowSpread, percent)]),
          published(paper?.below),
          ...numbers([percent(1 - below - above), give(above, aboveSpread, percent)]),
          published(paper?.above),
          ...numbers([give(mean, meanSpread, fixed)]),
        );
      }),
    );
    const heads = ["below 0.1", "published", "between", "above 0.9", "published", "mean rho"].map(text =>
      element("th", { class: "number" }, text),
    );
    const head = element(
      "tr",
      {},
      element("th", {}, "Gates of the"),
      many ? element("th", {}, state.unit) : null,
      ...heads,
    );
    figure
      .querySelector(".table")
      .replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
  },
};

function histogram(series, folded, part, width, height, high) {
  const plot = new Plot({ width, height, left: 36, top: 10, y: [0, high], label: `Histogram of rho, ${PARTS[part]}` });
  plot.yAxis(ticks(0, high, 5), value => `${Math.round(value * 100)} %`);
  for (const value of [0, 0.5, 1])
    plot.text(plot.X(value), height - 7, fixed(value, 1), { "text-anchor": value === 1 ? "end" : "middle" });
  const middle = plot.X(0.5 / BINS) - plot.X(0);
  for (const [side, bin] of [
    ["below", 0],
    ["above", BINS - 1],
  ]) {
    const value = PUBLISHED[part]?.[side];
    if (value === undefined) continue;
    plot.add("path", {
      d: `M${plot.X(bin / BINS) + 1} ${plot.Y(0)}V${plot.Y(value)}H${plot.X((bin + 1) / BINS) - 1}V${plot.Y(0)}`,
      fill: "var(--raised)",
      stroke: "var(--soft)",
      "stroke-dasharray": "3 2.5",
    });
    plot.probe(plot.X((bin + 0.5) / BINS), plot.Y(value), "Nam & Kim 2018, figure 2", [
      "share, about",
      percent(value, 0),
    ]);
  }
  series.forEach((one, s) => {
    const { shares, counts } = folded[s];
    if (series.length === 1) {
      shares.forEach((value, b) =>
        plot.add("rect", {
          x: plot.X(b / BINS) + 1,
          y: plot.Y(value),
          width: Math.max(1, 2 * middle - 2),
          height: round(plot.Y(0) - plot.Y(value)),
          fill: ramp((b + 0.5) / BINS),
          "data-series": one.name,
        }),
      );
    } else {
      const steps = shares.flatMap((value, b) => [
        [b / BINS, value],
        [(b + 1) / BINS, value],
      ]);
      plot.line(steps, { stroke: one.color, "stroke-width": 2, "data-series": one.name });
    }
    shares.forEach((value, b) =>
      plot.probe(
        plot.X((b + 0.5) / BINS),
        plot.Y(value),
        `rho ${fixed(b / BINS, 1)} to ${fixed((b + 1) / BINS, 1)}`,
        ...(series.length > 1 ? [[one.name]] : []),
        ["share", percent(value)],
        ["gates", whole(counts[b])],
      ),
    );
  });
  plot.add("line", { class: "axis", x1: plot.left, x2: width - plot.right, y1: plot.Y(0), y2: plot.Y(0) });
  return plot.node;
}

figures["rho-runs"] = {
  exists: () => runs.filter((run, i) => layersOf(i, "rho").length).length > 1,
  draw(width) {
    const members = range(runs.length).filter(i => layersOf(i, "rho").length),
      height = members.length > 60 ? 6 : 18;
    const plot = rowPlot(
      members.map(i => runs[i]),
      width,
      { height, label: "Histogram of rho of every run" },
    );
    rhoAxis(plot);
    const rows = members.map(i => networkOver([i], state.step));
    rows.forEach((row, i) =>
      row.shares.forEach((value, b) => {
        const place = {
          x: plot.X(b / BINS),
          y: plot.row(i) + 0.5,
          width: round(plot.X((b + 1) / BINS) - plot.X(b / BINS) - 1),
          height: height - 1,
        };
        if (value > 0)
          plot.add("rect", {
            ...place,
            fill: ramp((b + 0.5) / BINS > 0.5 ? 1 : 0),
            opacity: round(10 * Math.sqrt(value)) / 10,
          });
        plot.probe(
          place.x + place.width / 2,
          place.y + height / 2,
          runs[members[i]].name,
          [`rho ${fixed(b / BINS, 1)} to ${fixed((b + 1) / BINS, 1)}`, percent(value)],
          ["mean rho", fixed(row.mean)],
        );
      }),
    );
    return [panel(plot.node)];
  },
  finding() {
    const means = range(runs.length)
      .filter(i => layersOf(i, "rho").length)
      .map(i => networkOver([i], state.step).mean);
    return `The mean rho of the runs lies between ${fixed(Math.min(...means))} and ${fixed(Math.max(...means))}.`;
  },
};

figures["rho-depth"] = {
  draw(width) {
    return byArchitecture("rho").map(({ layers, series }) => {
      const height = series.length === 1 ? (layers.length > 24 ? 18 : 32) : Math.max(24, 9 * series.length + 8);
      const plot = rowPlot(layers, width, { height, label: "rho of each layer" });
      rhoAxis(plot);
      series.forEach((one, s) =>
        layers.forEach((layer, l) => {
          const over = layerOver(one.members, state.step, l),
            y = lane(plot, l, s, series.length);
          layerDots(plot, one, layer, l, over, y, series.length === 1 ? height * 0.62 : 5);
          plot.add("line", {
            x1: plot.X(over.lower),
            x2: plot.X(over.upper),
            y1: y,
            y2: y,
            stroke: one.color,
            "stroke-width": 2.5,
            "stroke-linecap": "round",
          });
          plot.mark(one, plot.X(over.mean), y, series.length > 3 ? 4 : 5);
          plot.probe(
            plot.X(over.mean),
            y,
            layer.name,
            ...(state.shown.length > 1 ? [[one.name]] : []),
            ["mean rho", give(over.mean, over.spread, fixed)],
            ["middle half", `${fixed(over.lower)} to ${fixed(over.upper)}`],
            ...(layer.channels ? [["channels", whole(layer.channels)]] : []),
          );
        }),
      );
      return panel(plot.node);
    });
  },
  finding() {
    const one = withKind("rho")[0],
      layers = layersOf(one.members[0], "rho");
    const means = layers.map((layer, l) => layerOver(one.members, state.step, l).mean);
    const [low, high] = [Math.min(...means), Math.max(...means)].map(value => means.indexOf(value));
    return layers.length > 1
      ? `Layer means run from ${fixed(means[low], 2)} (${layers[low].name}) to ${fixed(means[high], 2)} (${layers[high].name})${whose(one)}.`
      : "";
  },
};

function layerDots(plot, one, layer, l, over, y, room) {
  if (one.members.length > 1) {
    over.means.forEach((mean, m) => {
      plot.add("circle", { cx: plot.X(mean), cy: y, r: 2, fill: one.color, opacity: 0.6 });
      plot.probe(plot.X(mean), y, layer.name, [runs[one.members[m]].name], ["mean rho", fixed(mean)]);
    });
  } else if (state.shown.length === 1 && layer.channels <= 256 && channelsFollow(one.members[0])) {
    for (const { channel, value } of channelsOf(one.members[0], state.step, l)) {
      const dy = (((channel * 0.618034) % 1) - 0.5) * room;
      plot.add("circle", {
        cx: plot.X(value),
        cy: round(y + dy),
        r: 2.4,
        fill: ramp(value),
        stroke: "var(--faint)",
        "stroke-width": 0.4,
      });
      plot.probe(plot.X(value), y + dy, layer.name, ["channel", channel], ["rho", fixed(value)]);
    }
  }
}
const channelsFollow = run => runs[run].channelSteps !== 1 || state.step >= runs[run].steps.at(-1);

figures["rho-channels"] = {
  draw(width) {
    const series = withKind("rho").filter(one => one.members.some(run => runs[run].channels !== null));
    const n = columns(width, series.length > 1 ? 300 : 900, Math.min(3, series.length));
    const size = n === 1 ? width : cell(width, n);
    return series.map(one => {
      const layers = layersOf(one.members[0], "rho"),
        height = layers.length > 24 || n > 1 ? 15 : 22;
      const plot = rowPlot(layers, size, { height, label: `Channels of ${one.name}, sorted by rho` });
      layers.forEach((layer, l) => {
        const values = one.members
          .flatMap(run => channelsOf(run, state.step, l).map(each => each.value))
          .sort((a, b) => a - b);
        sortedRow(plot, values, layer.name, plot.row(l) + 1, height - 2);
      });
      for (const share of size > 400 ? [0, 0.25, 0.5, 0.75, 1] : [0, 0.5, 1]) {
        const anchor = { 0: "start", 1: "end" }[share] ?? "middle";
        plot.text(plot.X(share), plot.height - 8, percent(share, 0), { "text-anchor": anchor });
      }
      return panel(...(state.shown.length > 1 ? [heading(one)] : []), plot.node);
    });
  },
  columns(width) {
    const series = withKind("rho").length;
    return columns(width, series > 1 ? 300 : 900, Math.min(3, series));
  },
  finding() {
    const found = withKind("rho")
      .filter(one => one.members.some(run => runs[run].channels !== null))
      .map(one => {
        const { name, leaning } = mostInstance(one);
        return `${name}${whose(one)}, where ${percent(leaning, 0)} of the channels have a rho below 0.5`;
      });
    return found.length ? `Leaning most to instance normalization: ${found.slice(0, 3).join("; ")}.` : "";
  },
};

/* The layer of which most channels lean to instance normalization, and how many do. */
function mostInstance(one) {
  const layers = layersOf(one.members[0], "rho").map((layer, l) => {
    const values = one.members.flatMap(run => channelsOf(run, state.step, l).map(each => each.value));
    return { name: layer.name, leaning: values.filter(value => value < 0.5).length / values.length };
  });
  return layers.reduce((a, b) => (b.leaning > a.leaning ? b : a));
}

function sortedRow(plot, values, name, y, height) {
  const cells = Math.min(values.length, 128),
    whole = plot.width - plot.left - plot.right;
  for (let c = 0; c < cells; c++) {
    const [from, to] = [c, c + 1].map(edge => Math.round((edge * values.length) / cells));
    const value = average(values.slice(from, to)),
      x = plot.left + (whole * c) / cells;
    plot.add("rect", { x: round(x), y, width: round(whole / cells + 0.4), height, fill: ramp(value) });
    const which = to - from > 1 ? `${from + 1} to ${to}` : `${to}`;
    plot.probe(
      x + whole / cells / 2,
      y + height / 2,
      name,
      ["rho", fixed(value)],
      ["place", `${which} of ${values.length}`],
    );
  }
}

figures["rho-training"] = {
  exists: () => runs.some((run, i) => layersOf(i, "rho").length && run.steps.length > 1),
  options: () => [layerSelect("rho", "rhoLayer")],
  draw(width) {
    const n = columns(width, 420, 2),
      size = n === 1 ? width : cell(width, n),
      series = withKind("rho");
    const span = stepSpan(series),
      chosen = state.rhoLayer;
    const large = element(
      "div",
      { class: "wide panels", style: `grid-template-columns:repeat(${n},minmax(0,1fr))` },
      panel(
        element("h4", {}, "rho ", element("small", {}, chosen || "all layers")),
        rhoOverSteps(series, chosen, size, 260, span, true),
      ),
      panel(
        element(
          "h4",
          {},
          "Gates ",
          element("em", { class: "instance" }, "below 0.1"),
          " ",
          element("em", { class: "batch" }, "above 0.9"),
          " ",
          element("small", {}, chosen || "all layers"),
        ),
        sharesOverSteps(series, chosen, size, 260, span),
      ),
    );
    const small = layerNames("rho"),
      across = columns(width, small.length > 24 ? 110 : 140, 8);
    const grid = element(
      "div",
      { class: "wide panels", style: `grid-template-columns:repeat(${across},minmax(0,1fr));gap:.3rem` },
      ...small.map(name =>
        miniature(
          name,
          "rhoLayer",
          rhoOverSteps(series, name, (width - 5 * (across - 1)) / across - 14, 62, span, false),
        ),
      ),
    );
    return [large, grid];
  },
  finding() {
    const one = withKind("rho")[0],
      steps = one.members.flatMap(run => runs[run].steps);
    const [first, last] = [Math.min(...steps), Math.max(...steps)];
    const [before, after] = [first, last].map(step => networkOver(one.members, step).mean);
    return `The mean rho${state.shown.length > 1 ? ` of ${one.name}` : ""} goes from ${fixed(before)} at step ${whole(first)} to ${fixed(after)} at step ${whole(last)}.`;
  },
};

const stepSpan = series => [
  Math.min(...series.flatMap(one => one.members.map(run => runs[run].steps[0]))),
  Math.max(...series.flatMap(one => one.members.map(run => runs[run].steps.at(-1)))),
];
const stepsOf = members =>
  [...new Set(members.flatMap(run => runs[run].steps))]
    .sort((a, b) => a - b)
    .filter(step => members.every(run => runs[run].steps.at(-1) >= step && runs[run].steps[0] <= step));
const layerIndex = (one, kind, name) => layersOf(one.members[0], kind).findIndex(layer => layer.name === name);

function layerSelect(kind, key) {
  const names = layerNames(kind);
  if (!names.includes(state[key])) state[key] = "";
  const options = ["", ...names].map(name =>
    element("option", { value: name, selected: name === state[key] }, name || "all layers"),
  );
  return element(
    "label",
    {},
    "Layer",
    element(
      "select",
      {
        "data-key": key,
        onchange: event => {
          state[key] = event.target.value;
          update();
        },
      },
      ...options,
    ),
  );
}

function miniature(name, key, node) {
  node.removeAttribute("tabindex");
  const toggle = () => {
    state[key] = state[key] === name ? "" : name;
    update();
  };
  return element(
    "button",
    {
      type: "button",
      class: "mini",
      "data-key": `${key}:${name}`,
      "aria-pressed": String(state[key] === name),
      title: name,
      onclick: toggle,
    },
    element("span", {}, name),
    node,
  );
}

function overSteps(width, height, span, large, label, high = 1) {
  const plot = new Plot({
    width,
    height,
    left: large ? 34 : 1,
    right: large ? 8 : 1,
    top: large ? 8 : 3,
    bottom: large ? 24 : 3,
    x: span[0] === span[1] ? [span[0] - 1, span[1] + 1] : span,
    y: [0, high],
    label,
  });
  if (large) {
    plot.xAxis(stepTicks(...plot.x, width), whole);
    plot.yAxis(ticks(0, high, 5), value => fixed(value, 1));
  } else {
    [0, high].forEach(value => plot.horizontal(value));
  }
  plot.vertical(Math.min(span[1], Math.max(span[0], state.step)), "cursor");
  return plot;
}

function rhoOverSteps(series, name, width, height, span, large) {
  const plot = overSteps(width, height, span, large, `rho over the training, ${name || "all layers"}`);
  for (const one of series) {
    const l = layerIndex(one, "rho", name);
    if (name && l < 0) continue;
    const values = stepsOf(one.members).map(step => ({
      step,
      ...(l < 0 ? networkOver(one.members, step) : layerOver(one.members, step, l)),
    }));
    if (l >= 0)
      plot.band(
        values.map(v => [v.step, v.lower, v.upper]),
        { fill: one.color, opacity: 0.14 },
      );
    if (large) fineLines(plot, one, l, values);
    plot.line(
      values.map(v => [v.step, v.mean]),
      {
        stroke: one.color,
        "stroke-width": large ? 2.4 : 1.6,
        "stroke-dasharray": large ? one.dash || null : null,
        "data-series": one.name,
      },
    );
    values.forEach(v =>
      plot.probe(
        plot.X(v.step),
        plot.Y(v.mean),
        `step ${whole(v.step)}`,
        ...(state.shown.length > 1 ? [[one.name]] : []),
        ["mean rho", give(v.mean, v.spread ?? v.meanSpread, fixed)],
        ...(l >= 0 ? [["middle half", `${fixed(v.lower)} to ${fixed(v.upper)}`]] : []),
      ),
    );
  }
  return plot.node;
}

function fineLines(plot, one, l, values) {
  const fine = (points, color) => plot.line(points, { stroke: color, "stroke-width": 0.9, opacity: 0.5 });
  const [run] = one.members;
  if (one.members.length > 1) {
    one.members.forEach((member, m) =>
      fine(
        values.map(v => [v.step, v.means[m]]),
        one.color,
      ),
    );
  } else if (state.shown.length > 1) {
    return;
  } else if (l < 0) {
    const layers = layersOf(run, "rho");
    layers.forEach((layer, k) =>
      fine(
        values.map(v => [v.step, gatesOf(run, v.step, k).mean]),
        "var(--soft)",
      ),
    );
  } else if (runs[run].channelSteps !== 1 && layersOf(run, "rho")[l].channels <= 256) {
    const tracks = values.map(v => channelsOf(run, v.step, l));
    tracks.at(-1).forEach((last, c) =>
      fine(
        values.map((v, i) => [v.step, tracks[i][c]?.value]),
        ramp(last.value),
      ),
    );
  }
}

function sharesOverSteps(series, name, width, height, span) {
  const plot = overSteps(width, height, span, true, `Shares of gates over the training, ${name || "all layers"}`);
  for (const one of series) {
    const l = layerIndex(one, "rho", name);
    if (name && l < 0) continue;
    const at = (step, side) =>
      l < 0 ? networkOver(one.members, step)[side] : average(one.members.map(run => gatesOf(run, step, l)[side]));
    for (const [side, color, words] of [
      ["below", "var(--instance)", "rho below 0.1"],
      ["above", "var(--batch)", "rho above 0.9"],
    ]) {
      const points = stepsOf(one.members).map(step => [step, at(step, side)]);
      plot.line(points, {
        stroke: color,
        "stroke-width": 2.2,
        "stroke-dasharray": one.dash || null,
        "data-series": one.name,
      });
      points.forEach(([step, value]) =>
        plot.probe(
          plot.X(step),
          plot.Y(value),
          `step ${whole(step)}`,
          ...(state.shown.length > 1 ? [[one.name]] : []),
          [words, percent(value)],
        ),
      );
    }
  }
  return plot.node;
}
figures["rho-bimodality"] = {
  exists: () => runs.some(run => run.bimodality.some(Number.isFinite)),
  draw(width) {
    return byArchitecture("rho").map(({ layers, series }) => {
      const height = Math.max(18, 8 * series.length + 6),
        plot = rowPlot(layers, Math.min(width, 680), { height, label: "Bimodality of rho in each layer" });
      rhoAxis(plot);
      plot.vertical(5 / 9, "cursor");
      series.forEach((one, s) =>
        layers.forEach((layer, l) => {
          const values = one.members.map(run => runs[run].bimodality[l]).filter(Number.isFinite);
          if (!values.length) return;
          const y = lane(plot, l, s, series.length),
            x = plot.X(average(values));
          plot.add("line", {
            x1: plot.X(5 / 9),
            x2: x,
            y1: y,
            y2: y,
            stroke: one.color,
            "stroke-width": 1.5,
            opacity: 0.5,
          });
          plot.mark(one, x, y, 4.5);
          plot.probe(x, y, layer.name, ...(state.shown.length > 1 ? [[one.name]] : []), [
            "bimodality",
            give(average(values), deviation(values), fixed),
          ]);
        }),
      );
      return panel(plot.node);
    });
  },
  finding() {
    const found = withKind("rho").map(one => {
      const layers = layersOf(one.members[0], "rho"),
        above = layers.filter((layer, l) => average(one.members.map(run => runs[run].bimodality[l] ?? NaN)) > 5 / 9);
      return `${above.length} of ${count(layers.length, "layer")}${whose(one)}`;
    });
    return `Above 5/9: ${found.slice(0, 3).join("; ")}.`;
  },
};

const gammaOf = one => one.members.flatMap(run => data.gamma.filter(each => each.run === run));

figures["rho-gamma"] = {
  exists: () => data.gamma.length > 0,
  options: () => [layerSelect("rho", "gammaLayer")],
  draw(width) {
    const n = columns(width, 420, 2),
      size = n === 1 ? width : cell(width, n);
    const series = withKind("rho").filter(one => gammaOf(one).length);
    if (!series.length)
      return [element("p", {}, "The runs that are shown have no checkpoint, so that gamma is not known.")];
    return [
      element(
        "div",
        { class: "wide panels", style: `grid-template-columns:repeat(${n},minmax(0,1fr))` },
        panel(
          element("h4", {}, "Correlation in each layer"),
          ...byArchitecture("rho").map(alike => correlationRows(alike, size)),
        ),
        panel(
          element("h4", {}, "gamma over rho ", element("small", {}, state.gammaLayer || "all layers")),
          gammaScatter(series, size),
        ),
      ),
    ];
  },
  finding() {
    const values = withKind("rho")
      .flatMap(gammaOf)
      .flatMap(each => each.layers.map(layer => layer.r))
      .filter(Number.isFinite);
    return values.length
      ? `The correlation lies between ${fixed(Math.min(...values), 2)} and ${fixed(Math.max(...values), 2)} in the layers.`
      : "";
  },
};

function correlationRows({ layers, series }, width) {
  const plot = rowPlot(layers, width, {
    height: Math.max(18, 8 * series.length + 6),
    x: [-1, 1],
    label: "Correlation of rho and gamma in each layer",
  });
  plot.xAxis([-1, -0.5, 0, 0.5, 1], value => fixed(value, 1));
  plot.vertical(0, "axis");
  series.forEach((one, s) =>
    layers.forEach(({ name }, l) => {
      const values = gammaOf(one)
        .flatMap(each => each.layers.filter(layer => layer.name === name).map(layer => layer.r))
        .filter(Number.isFinite);
      if (!values.length) return;
      const y = lane(plot, l, s, series.length),
        x = plot.X(average(values));
      plot.add("line", { x1: plot.X(0), x2: x, y1: y, y2: y, stroke: one.color, "stroke-width": 1.5, opacity: 0.5 });
      plot.mark(one, x, y, 4.5);
      plot.probe(x, y, name, ...(state.shown.length > 1 ? [[one.name]] : []), [
        "r",
        give(average(values), deviation(values), value => fixed(value, 2)),
      ]);
    }),
  );
  return plot.node;
}

function gammaScatter(series, width) {
  const points = series.map(one =>
    gammaOf(one).flatMap(each =>
      each.layers
        .filter(layer => !state.gammaLayer || layer.name === state.gammaLayer)
        .flatMap(layer => layer.rho.map((value, i) => ({ name: layer.name, rho: value, gamma: layer.gamma[i] }))),
    ),
  );
  const gammas = points.flat().map(point => point.gamma),
    low = Math.min(...gammas),
    high = Math.max(...gammas),
    margin = (high - low || 1) * 0.04;
  const plot = new Plot({
    width,
    height: 340,
    left: 40,
    bottom: 38,
    x: [-0.02, 1.02],
    y: [low - margin, high + margin],
    label: "rho and gamma of the channels",
  });
  plot.xAxis(ticks(0, 1, 5), value => fixed(value, 1));
  plot.yAxis(ticks(...plot.y, 6), value => fixed(value, high - low < 1 ? 2 : 1));
  plot.text(plot.X(0.5), plot.height - 4, "rho", { "text-anchor": "middle" });
  series.forEach((one, s) =>
    points[s].forEach(point => {
      const [x, y] = [plot.X(point.rho), plot.Y(point.gamma)];
      plot.add("circle", {
        cx: x,
        cy: y,
        r: 2.6,
        fill: series.length > 1 ? one.color : ramp(point.rho),
        stroke: "var(--faint)",
        "stroke-width": 0.4,
        opacity: 0.85,
        "data-series": one.name,
      });
      plot.probe(
        x,
        y,
        point.name,
        ...(state.shown.length > 1 ? [[one.name]] : []),
        ["rho", fixed(point.rho)],
        ["gamma", fixed(point.gamma)],
      );
    }),
  );
  return plot.node;
}

figures["switch-layers"] = {
  draw(width) {
    const n = columns(width, 330, 2),
      size = n === 1 ? width : cell(width, n);
    return withKind("switch").flatMap(one =>
      MOMENTS.map((words, moment) =>
        panel(
          state.shown.length > 1 ? heading(one, words) : element("h4", {}, `Weights of ${words}`),
          stackedBars(one, moment, size),
        ),
      ),
    );
  },
  columns: width => columns(width, 330, 2),
  finding() {
    const found = withKind("switch")
      .slice(0, 3)
      .map(one => {
        const largest = MOMENTS.map((words, moment) => {
          const means = STATISTICS.map((name, k) =>
            average(
              layersOf(one.members[0], "switch").map((layer, l) =>
                average(one.members.map(run => weightOf(run, state.step, l, moment, k))),
              ),
            ),
          );
          const top = means.indexOf(Math.max(...means));
          return `${STATISTICS[top]} statistics in the ${words} (${fixed(means[top], 2)})`;
        });
        return largest.join(" and ") + whose(one);
      });
    return `On average over the layers, the largest weights are those of ${found.join("; ")}.`;
  },
};

function stackedBars(one, moment, width) {
  const layers = layersOf(one.members[0], "switch"),
    height = layers.length > 24 ? 16 : 26;
  const plot = rowPlot(layers, width, { height, label: `Switch weights of ${MOMENTS[moment]}, ${one.name}` });
  rhoAxis(plot);
  layers.forEach((layer, l) => {
    let start = 0;
    const y = plot.row(l) + 2,
      each = one.members.map(run => STATISTICS.map((name, k) => weightOf(run, state.step, l, moment, k)));
    STATISTICS.forEach((name, k) => {
      const values = each.map(weightsOf => weightsOf[k]),
        value = average(values);
      plot.add("rect", {
        x: plot.X(start),
        y,
        width: Math.max(0, round(plot.X(start + value) - plot.X(start) - 1)),
        height: height - 4,
        fill: `var(--${name})`,
        "data-series": one.name,
      });
      plot.probe(plot.X(start + value / 2), y + height / 2, layer.name, [
        `${name}, ${MOMENTS[moment]}`,
        give(value, deviation(values), fixed),
      ]);
      start += value;
      const spread = deviation(each.map(weightsOf => sum(weightsOf.slice(0, k + 1))));
      if (k < 2 && spread > 0)
        plot.add("line", {
          x1: plot.X(start - spread),
          x2: plot.X(start + spread),
          y1: y + height / 2 - 2,
          y2: y + height / 2 - 2,
          stroke: "var(--ink)",
          "stroke-width": 1.5,
        });
    });
  });
  for (const third of [1 / 3, 2 / 3])
    plot.add("line", {
      x1: plot.X(third),
      x2: plot.X(third),
      y1: plot.top,
      y2: plot.height - plot.bottom,
      stroke: "var(--paper)",
      "stroke-opacity": 0.7,
      "stroke-dasharray": "3 3",
    });
  return plot.node;
}

/* The top of an axis that has room for every weight of the series. */
function highestWeight(series) {
  const highest = one =>
    one.members.flatMap(run => {
      const first = 6 * runs[run].switch,
        count = 6 * runs[run].steps.length * layersOf(run, "switch").length;
      return (
        weights.subarray(first, first + count).reduce((a, b) => (b === MISSING ? a : Math.max(a, b)), 0) / (MISSING - 1)
      );
    });
  return Math.min(1, Math.ceil(10 * Math.max(0.45, ...series.flatMap(highest)) + 0.5) / 10);
}

figures["switch-training"] = {
  exists: () => runs.some((run, i) => layersOf(i, "switch").length && run.steps.length > 1),
  options: () => [layerSelect("switch", "switchLayer"), choice("Below", MOMENTS, "moment")],
  draw(width) {
    const n = columns(width, 420, 2),
      size = n === 1 ? width : cell(width, n),
      series = withKind("switch"),
      span = stepSpan(series),
      high = highestWeight(series);
    const large = element(
      "div",
      { class: "wide panels", style: `grid-template-columns:repeat(${n},minmax(0,1fr))` },
      ...MOMENTS.map((words, moment) =>
        panel(
          element("h4", {}, `Weights of ${words} `, element("small", {}, state.switchLayer || "mean over all layers")),
          weightsOverSteps(series, state.switchLayer, moment, size, 260, span, high, true),
        ),
      ),
    );
    const names = layerNames("switch"),
      across = columns(width, names.length > 24 ? 110 : 140, 8);
    const grid = element(
      "div",
      { class: "wide panels", style: `grid-template-columns:repeat(${across},minmax(0,1fr));gap:.3rem` },
      ...names.map(name =>
        miniature(
          name,
          "switchLayer",
          weightsOverSteps(series, name, state.moment, (width - 5 * (across - 1)) / across - 14, 62, span, high, false),
        ),
      ),
    );
    return [large, grid];
  },
  finding() {
    const one = withKind("switch")[0],
      step = Math.max(...one.members.map(run => runs[run].steps.at(-1)));
    const all = one.members.flatMap(run =>
      layersOf(run, "switch").flatMap((layer, l) =>
        [0, 1].flatMap(moment => [0, 1, 2].map(k => weightOf(run, step, l, moment, k))),
      ),
    );
    return `From ⅓, the weights${state.shown.length > 1 ? ` of ${one.name}` : ""} have moved to between ${fixed(Math.min(...all), 2)} and ${fixed(Math.max(...all), 2)}.`;
  },
};

function weightsOverSteps(series, name, moment, width, height, span, high, large) {
  const plot = overSteps(
    width,
    height,
    span,
    large,
    `Switch weights of ${MOMENTS[moment]} over the training, ${name || "mean over all layers"}`,
    high,
  );
  plot.horizontal(1 / 3, "mark");
  for (const one of series) {
    const l = layerIndex(one, "switch", name),
      layers = layersOf(one.members[0], "switch"),
      chosen = l < 0 ? range(layers.length) : [l];
    if (name && l < 0) continue;
    const steps = stepsOf(one.members);
    STATISTICS.forEach((statistic, k) => {
      const color = `var(--${statistic})`,
        of = (run, step, layer) => weightOf(run, step, layer, moment, k);
      const points = steps.map(step => [
        step,
        average(chosen.flatMap(layer => one.members.map(run => of(run, step, layer)))),
      ]);
      const fine =
        one.members.length > 1
          ? one.members.map(run => step => average(chosen.map(layer => of(run, step, layer))))
          : series.length > 1 || l >= 0
            ? []
            : chosen.map(layer => step => of(one.members[0], step, layer));
      if (large)
        fine.forEach(track =>
          plot.line(
            steps.map(step => [step, track(step)]),
            { stroke: color, "stroke-width": 0.9, opacity: 0.45 },
          ),
        );
      plot.line(points, {
        stroke: color,
        "stroke-width": large ? 2.4 : 1.6,
        "stroke-dasharray": one.dash || null,
        "data-series": one.name,
      });
      points.forEach(([step, value]) =>
        plot.probe(
          plot.X(step),
          plot.Y(value),
          `step ${whole(step)}`,
          ...(state.shown.length > 1 ? [[one.name]] : []),
          [statistic, fixed(value)],
        ),
      );
    });
  }
  return plot.node;
}

/* ---- Differences ---- */

const compared = folds && units.group.length > 1 ? units.group : units.run;
const measures = {
  ...(rho && {
    mean: ["mean rho", "rho", (run, l) => gatesOf(run, state.step, l).mean],
    below: ["share below 0.1", "rho", (run, l) => gatesOf(run, state.step, l).below],
    above: ["share above 0.9", "rho", (run, l) => gatesOf(run, state.step, l).above],
  }),
  ...(weights &&
    Object.fromEntries(
      MOMENTS.flatMap((words, moment) =>
        STATISTICS.map((name, k) => [
          `${words} ${name}`,
          [`${name} weight of ${words}`, "switch", (run, l) => weightOf(run, state.step, l, moment, k)],
        ]),
      ),
    )),
};
const sameLayers = (a, b) => runs[a.members[0]].architecture === runs[b.members[0]].architecture;
const comparable = compared.flatMap((a, first) =>
  compared
    .slice(first + 1)
    .filter(b => sameLayers(a, b))
    .map(b => [first, compared.indexOf(b)]),
)[0] ?? [0, 1];
[state.first, state.second] = comparable;
state.measure =
  Object.keys(measures).find(key => layersOf(compared[state.first].members[0], measures[key][1]).length) ??
  Object.keys(measures)[0];

function layerDifferences() {
  const [, kind, value] = measures[state.measure],
    [second, first] = [compared[state.second], compared[state.first]].map(one => one.members);
  const layers = layersOf(second[0], kind),
    others = layersOf(first[0], kind).map(layer => layer.name);
  return layers
    .map((layer, l) => ({ layer, l, other: others.indexOf(layer.name) }))
    .filter(each => each.other >= 0)
    .map(({ layer, l, other }) => ({
      layer,
      ...welch(
        first.map(run => value(run, other)),
        second.map(run => value(run, l)),
      ),
    }));
}

figures.difference = {
  exists: () => compared.length > 1 && Object.keys(measures).length > 0,
  options() {
    const select = (key, options, words) =>
      element(
        "label",
        {},
        words,
        element(
          "select",
          {
            "data-key": key,
            onchange: event => {
              state[key] = key === "measure" ? event.target.value : Number(event.target.value);
              update();
            },
          },
          ...options.map(([value, text]) =>
            element("option", { value, selected: String(value) === String(state[key]) }, text),
          ),
        ),
      );
    const names = compared.map((one, i) => [i, one.name]);
    return [
      select(
        "measure",
        Object.entries(measures).map(([key, [words]]) => [key, words]),
        "Of the",
      ),
      select("second", names, "in"),
      select("first", names, "minus"),
    ];
  },
  draw(width) {
    const rows = layerDifferences();
    if (!rows.length)
      return [
        element(
          "p",
          {},
          "These two have no layer in common for which this is known, so that nothing can be compared layer by layer.",
        ),
      ];
    const reach =
      Math.max(0.02, ...rows.map(row => Math.abs(row.difference) + (Number.isFinite(row.half) ? row.half : 0))) * 1.05;
    const plot = rowPlot(
      rows.map(row => row.layer),
      width,
      { height: rows.length > 24 ? 16 : 24, x: [-reach, reach], label: "Difference in each layer" },
    );
    plot.xAxis(ticks(-reach, reach, width > 420 ? 8 : 4), value => signed(value, reach < 0.1 ? 3 : 2));
    plot.vertical(0, "axis");
    rows.forEach(({ layer, difference, half }, i) => {
      const y = lane(plot, i, 0, 1),
        x = plot.X(difference),
        clear = Math.abs(difference) > half;
      if (Number.isFinite(half))
        plot.add("line", {
          x1: plot.X(difference - half),
          x2: plot.X(difference + half),
          y1: y,
          y2: y,
          stroke: "var(--ink)",
          "stroke-width": 2,
        });
      plot.add("circle", {
        cx: x,
        cy: y,
        r: 4.5,
        fill: clear ? "var(--ink)" : "var(--paper)",
        stroke: "var(--ink)",
        "stroke-width": 1.5,
        "data-layer": layer.name,
        "data-difference": difference,
        "data-half": half,
      });
      plot.probe(
        x,
        y,
        layer.name,
        ["difference", signed(difference)],
        ...(Number.isFinite(half) ? [["95 %", `${signed(difference - half)} to ${signed(difference + half)}`]] : []),
      );
    });
    return [panel(plot.node)];
  },
  finding() {
    const rows = layerDifferences(),
      clear = rows.filter(row => Math.abs(row.difference) > row.half);
    if (!rows.length) return "";
    const largest = rows.reduce((a, b) => (Math.abs(b.difference) > Math.abs(a.difference) ? b : a));
    const text = `The largest difference is ${signed(largest.difference)} in ${largest.layer.name}.`;
    return rows.some(row => Number.isFinite(row.half))
      ? `${text} In ${clear.length} of ${count(rows.length, "layer")} the interval leaves out 0.`
      : text;
  },
};

/* ---- Snapping ---- */

const SNAPPED = {
  "images/rms_change": "root mean square by which snapping changes the images, whose range is 1",
  "images/rms_between": "the same between images of different latent vectors, for comparison",
  d_fake: "mean score that the discriminator gives to the generated images",
};

figures.snapped = {
  exists: () => Boolean(data.snapped),
  draw() {
    const several = state.shown.length > 1;
    const rows = state.shown.flatMap(one => {
      const own = data.snapped.filter(row => one.members.some(run => runs[run].name === row.run));
      const keys = [...new Set(own.map(row => JSON.stringify([row.metric, row.statistics])))].map(key =>
        JSON.parse(key),
      );
      return keys.map(([metric, statistics], i) => {
        const alike = own.filter(row => row.metric === metric && row.statistics === statistics);
        const over = value => give(average(alike.map(value)), deviation(alike.map(value)), fixed);
        const again = i > 0 && keys[i - 1][0] === metric;
        return element(
          "tr",
          {},
          several ? element("td", {}, i ? "" : one.name) : null,
          element("th", { scope: "row" }, again ? "" : metric),
          element("td", {}, statistics),
          ...[row => row.learned, row => row.snapped].map(value => element("td", { class: "number" }, over(value))),
          element(
            "td",
            { class: "number" },
            alike.length > 1 ? over(row => row.snapped - row.learned) : signed(alike[0].snapped - alike[0].learned),
          ),
        );
      });
    });
    const heads = [...(several ? [state.unit] : []), "Metric", "Running statistics"].map(text =>
      element("th", {}, text),
    );
    const numbers = ["learned", "snapped", "change"].map(text => element("th", { class: "number" }, text));
    return [
      element(
        "div",
        { class: "scroll" },
        element(
          "table",
          {},
          element("thead", {}, element("tr", {}, ...heads, ...numbers)),
          element("tbody", {}, ...rows),
        ),
      ),
    ];
  },
  finding() {
    const known = Object.entries(SNAPPED).filter(([metric]) => data.snapped.some(row => row.metric === metric));
    return known.map(([metric, words]) => `${metric}: ${words}.`).join(" ");
  },
};

/* ---- Controls ---- */

function choice(words, options, key) {
  return element(
    "span",
    {},
    element("span", { class: "silent" }, words),
    element(
      "span",
      { class: "choice" },
      ...options.map((text, i) =>
        element(
          "button",
          {
            type: "button",
            "data-key": `${key}:${i}`,
            "aria-pressed": String(state[key] === i),
            onclick: () => {
              state[key] = i;
              update();
            },
          },
          text,
        ),
      ),
    ),
  );
}

function chip(one) {
  const shown = state.shown.find(each => each.name === one.name);
  const full = !shown && state.shown.length === SHAPES,
    last = shown && state.shown.length === 1;
  const toggle = () => {
    shown ? state.shown.splice(state.shown.indexOf(shown), 1) : show(one);
    update();
  };
  const words = one.members.length > 1 ? `${one.name} (${one.members.length} runs)` : one.name;
  return element(
    "label",
    { class: "chip", title: full ? `${SHAPES} at most are shown at once` : null },
    element("input", {
      type: "checkbox",
      "data-key": `show:${one.name}`,
      checked: Boolean(shown),
      disabled: full || last,
      onchange: toggle,
    }),
    swatch(shown ?? { slot: 0, color: "var(--faint)" }),
    words,
  );
}

function drawChips() {
  const all = units[state.unit],
    box = document.getElementById("chips");
  if (all.length <= SHAPES) return box.replaceChildren(...all.map(chip));
  const search = element("input", {
    type: "search",
    placeholder: "Find",
    "aria-label": "Find",
    "data-key": "search",
    value: state.search ?? "",
    oninput: event => {
      state.search = event.target.value;
      keepFocus(drawChips);
    },
  });
  const found = all.filter(one => one.name.toLowerCase().includes((state.search ?? "").toLowerCase()));
  const picker = element(
    "details",
    { class: "picker", open: box.parentNode.querySelector(".picker")?.open ?? false },
    element("summary", { "data-key": "picker" }, `Choose of ${all.length} ${state.unit}s`),
    element("div", { class: "list" }, search, ...found.slice(0, 300).map(chip)),
  );
  box.parentNode.querySelector(".picker")?.remove();
  box.before(picker);
  return box.replaceChildren(...state.shown.map(one => chip(all.find(each => each.name === one.name))));
}

function drawUnit() {
  const box = document.getElementById("unit");
  box.hidden = !folds;
  box.replaceChildren(
    ...Object.keys(units)
      .reverse()
      .map(unit =>
        element(
          "button",
          {
            type: "button",
            "data-key": `unit:${unit}`,
            "aria-pressed": String(state.unit === unit),
            onclick: () => {
              document.querySelector(".picker")?.remove();
              choose(unit);
              update();
            },
          },
          `${unit}s`,
        ),
      ),
  );
  document.getElementById("series-line").hidden = runs.length < 2;
}

function drawStep() {
  const steps = shownSteps(),
    slider = document.getElementById("step");
  if (!steps.includes(state.step)) state.step = steps.findLast(step => step <= state.step) ?? steps[0];
  slider.max = steps.length - 1;
  slider.value = steps.indexOf(state.step);
  const text = `step ${whole(state.step)} of ${whole(steps.at(-1))}`;
  slider.setAttribute("aria-valuetext", text);
  document.getElementById("step-text").value = text;
  document.getElementById("step-line").hidden = steps.length < 2;
  document.getElementById("controls").hidden = steps.length < 2 && runs.length < 2;
}

let playing = 0;
function play(on) {
  clearInterval(playing);
  playing = 0;
  document.getElementById("play").textContent = on ? "Pause" : "Play";
  if (!on) return;
  const steps = shownSteps();
  if (state.step === steps.at(-1)) state.step = steps[0];
  const stride = Math.max(1, Math.round(steps.length / 60));
  playing = setInterval(() => {
    const at = steps.indexOf(state.step);
    if (at < 0 || at === steps.length - 1) return play(false);
    state.step = steps[Math.min(steps.length - 1, at + stride)];
    return update();
  }, 160);
  update();
}

/* ---- The page ---- */

const active = [];
function keepFocus(change) {
  const { key } = document.activeElement?.dataset ?? {},
    at = document.activeElement?.selectionStart;
  change();
  const again = key && [...document.querySelectorAll("[data-key]")].find(node => node.dataset.key === key);
  if (again && again !== document.activeElement) {
    again.focus({ preventScroll: true });
    if (again.type === "search") again.setSelectionRange(at, at);
  }
}

function drawFigure(entry) {
  const { figure, spec, kind } = entry;
  entry.stale = false;
  figure.hidden = Boolean(kind) && !withKind(kind).length;
  if (figure.hidden) return;
  const box = figure.querySelector(".panels"),
    width = Math.floor(figure.clientWidth);
  figure.querySelector(".options")?.replaceChildren(...(spec.options?.() ?? []));
  box.style.gridTemplateColumns = `repeat(${spec.columns?.(width) ?? 1}, minmax(0, 1fr))`;
  box.replaceChildren(...spec.draw(width));
  figure.querySelector(".finding").textContent = spec.finding?.() ?? "";
  spec.after?.(figure);
}

function conditions() {
  const grouped = state.shown.some(one => one.members.length > 1),
    [first, second] = [state.first, state.second].map(i => compared[i]?.members.length ?? 0);
  return {
    single: state.shown.length === 1 && !grouped,
    many: state.shown.length > 1,
    seeds: grouped,
    lastonly: runs.some(run => run.channelSteps === 1 && run.steps.length > 1),
    uncertain: first > 1 && second > 1,
    certain: first < 2 || second < 2,
  };
}

let requested = 0;
function update() {
  active.forEach(entry => {
    entry.stale = true;
  });
  requested ||= requestAnimationFrame(redraw);
}
function redraw(everything = false) {
  requested = 0;
  hideTip();
  keepFocus(() => {
    drawUnit();
    drawChips();
    drawStep();
    active.filter(entry => entry.stale && (entry.near || everything === true)).forEach(drawFigure);
    const now = conditions();
    document.querySelectorAll("[data-when]").forEach(node => {
      node.hidden = !now[node.dataset.when];
    });
  });
}

function fact(words, value, note) {
  return element(
    "div",
    {},
    element("dt", {}, words),
    element("dd", { class: value.length > 12 ? "long" : null }, value, ...(note ? [element("small", {}, note)] : [])),
  );
}

function lead() {
  const layers = new Set(
    runs.flatMap((run, i) => [...layersOf(i, "rho"), ...layersOf(i, "switch")].map(layer => layer.name)),
  ).size;
  const steps = runs.flatMap(run => run.steps),
    [first, last] = [Math.min(...steps), Math.max(...steps)];
  const what = [
    rho && "the gates rho of batch-instance normalization",
    weights && "the weights of switchable normalization",
  ]
    .filter(Boolean)
    .join(" and ");
  const when = first === last ? `at step ${whole(last)}` : `from step ${whole(first)} to ${whole(last)}`;
  const groups = folds ? `, in ${count(units.group.length, "group")}` : "";
  document.getElementById("lead").textContent =
    `What ${what} became in ${runs.length === 1 ? runs[0].name : count(runs.length, "run") + groups}: ${count(layers, "layer")}, ${when}.`;
}

/* A number of several runs: mean and deviation if they are of one group, which may be averaged, else its range. */
function over(members, value, form) {
  const values = members.map(value),
    alike = new Set(members.map(run => runs[run].group)).size === 1;
  return alike ? give(average(values), deviation(values), form) : between(values, form);
}

function numbers() {
  const end = Infinity,
    [gated, switched] = ["rho", "switch"].map(kind => range(runs.length).filter(run => layersOf(run, kind).length));
  const facts = [];
  if (gated.length) {
    const of = (name, part) =>
      over(
        gated,
        run => networkOver([run], end, part)[name],
        name === "mean" ? value => fixed(value, 2) : value => percent(value, 0),
      );
    facts.push(fact("Mean rho at the end", of("mean"), "1 when training began"));
    facts.push(fact("Gates below 0.1", of("below"), `about ${percent(PUBLISHED.network.below, 0)} as published`));
    facts.push(fact("Gates above 0.9", of("above"), `about ${percent(PUBLISHED.network.above, 0)} as published`));
    const published = ["first", "last"].map(part => percent(PUBLISHED[part].below, 0)).join(" · ");
    facts.push(
      fact(
        "Below 0.1, lower · upper third",
        `${of("below", "first")} · ${of("below", "last")}`,
        `about ${published} as published`,
      ),
    );
  }
  if (switched.length) {
    const of = (moment, k) =>
      over(
        switched,
        run => average(layersOf(run, "switch").map((layer, l) => weightOf(run, end, l, moment, k))),
        value => fixed(value, 2),
      );
    STATISTICS.forEach((name, k) =>
      facts.push(
        fact(
          element("em", { class: name }, `${name} weight at the end`),
          `${of(0, k)} · ${of(1, k)}`,
          "of means · of variances, over all layers",
        ),
      ),
    );
  }
  document.getElementById("numbers").append(...facts);
}

function runTable() {
  const head = ["Run", ...(folds ? ["Group"] : []), "Read from", "Layers", "Gates", "Steps"];
  const numeric = new Set(["Layers", "Gates", "Steps"]);
  const rows = runs.map((run, i) => {
    const gates = sum(layersOf(i, "rho").map(layer => layer.channels)),
      names = new Set([...layersOf(i, "rho"), ...layersOf(i, "switch")].map(layer => layer.name));
    const steps =
      run.steps.length > 1
        ? `${whole(run.steps[0])} to ${whole(run.steps.at(-1))}, ${run.logged} logged`
        : whole(run.steps[0]);
    const cells = [
      element("th", { scope: "row" }, run.name),
      ...(folds ? [element("td", {}, data.groups[run.group])] : []),
      element("td", {}, element("code", {}, run.source)),
      ...[whole(names.size), gates ? whole(gates) : "–", steps].map(text => element("td", { class: "number" }, text)),
    ];
    return element("tr", {}, ...cells);
  });
  const table = element(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": "Runs" },
    element(
      "table",
      {},
      element(
        "thead",
        {},
        element("tr", {}, ...head.map(text => element("th", { class: numeric.has(text) ? "number" : null }, text))),
      ),
      element("tbody", {}, ...rows),
    ),
  );
  document
    .getElementById("runs")
    .append(runs.length > 8 ? element("details", {}, element("summary", {}, `The ${runs.length} runs`), table) : table);
}

function notes() {
  document.getElementById("notes-list").append(...data.notes.map(text => element("li", {}, text)));
}

/* ---- Reading values ---- */

const tip = document.getElementById("tip");
function hideTip() {
  tip.hidden = true;
  document.querySelectorAll(".ring").forEach(ring => ring.remove());
}
function showTip(plot, index, speak) {
  const { x, y, title, rows } = plot.probes[index],
    box = plot.node.getBoundingClientRect();
  hideTip();
  plot.at = index;
  plot.add("circle", { class: "ring", cx: x, cy: y, r: 7 });
  tip.replaceChildren(
    element("b", {}, title),
    ...rows.map(row => element("span", {}, ...row.map(part => element("span", {}, String(part))))),
  );
  tip.hidden = false;
  const left = Math.min(
    Math.max(box.left + x - tip.offsetWidth / 2, 6),
    document.documentElement.clientWidth - tip.offsetWidth - 6,
  );
  const above = box.top + y - tip.offsetHeight - 14;
  tip.style.transform = `translate(${left + scrollX}px, ${(above > 6 ? above : box.top + y + 16) + scrollY}px)`;
  if (speak) document.getElementById("say").textContent = [title, ...rows.map(row => row.join(" "))].join(", ");
}
function nearest(plot, x, y, cost, limit) {
  let best = -1,
    least = limit;
  plot.probes.forEach((probe, i) => {
    const value = cost(probe.x - x, probe.y - y);
    if (value < least) [best, least] = [i, value];
  });
  return best;
}
function point(event) {
  const node = event.target.closest?.("svg.plot");
  if (!node?.plot) return hideTip();
  const box = node.getBoundingClientRect();
  const index = nearest(node.plot, event.clientX - box.left, event.clientY - box.top, Math.hypot, 40);
  return index < 0 ? hideTip() : showTip(node.plot, index, false);
}
const WAYS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
function walk(event) {
  const plot = document.activeElement?.plot,
    way = WAYS[event.key];
  if (event.key === "Escape") hideTip();
  if (!plot || !way || !plot.probes.length) return;
  event.preventDefault();
  const from = plot.probes[plot.at ?? -1];
  const cost = (dx, dy) => {
    const ahead = dx * way[0] + dy * way[1],
      aside = Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
    return ahead > 0.4 ? ahead + 3 * aside : Infinity;
  };
  const next = from ? nearest(plot, from.x, from.y, cost, Infinity) : 0;
  showTip(plot, next < 0 ? plot.at : next, true);
}

/* ---- Start ---- */

function start() {
  const has = {
    rho: Boolean(rho),
    switch: Boolean(weights),
    gamma: data.gamma.length > 0,
    snapped: Boolean(data.snapped),
  };
  document.querySelectorAll("[data-needs]").forEach(node => has[node.dataset.needs] || node.remove());
  choose(state.unit);
  state.step = shownSteps().at(-1);
  lead();
  numbers();
  runTable();
  notes();
  const observer = new IntersectionObserver(
    entries => {
      for (const { target, isIntersecting } of entries) {
        const entry = active.find(each => each.figure === target);
        entry.near = isIntersecting;
        if (isIntersecting && entry.stale) redraw();
      }
    },
    { rootMargin: "600px" },
  );
  for (const [id, spec] of Object.entries(figures)) {
    const figure = document.getElementById(id);
    if (!figure) continue;
    if (spec.exists && !spec.exists()) {
      (figure.closest("section").querySelectorAll("figure").length > 1 ? figure : figure.closest("section")).remove();
      continue;
    }
    active.push({ figure, spec, kind: /^(rho|switch)-/.exec(id)?.[1], stale: true, near: false });
    observer.observe(figure);
  }
  document.getElementById("step").addEventListener("input", event => {
    play(false);
    state.step = shownSteps()[event.target.value];
    update();
  });
  document.getElementById("play").addEventListener("click", () => play(!playing));
  document.addEventListener("pointermove", point);
  document.addEventListener("pointerdown", point);
  document.addEventListener("keydown", walk);
  document.addEventListener("focusout", hideTip);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) {
      width = innerWidth;
      update();
    }
  });
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.print = "";
    active.forEach(entry => {
      entry.stale = true;
    });
    redraw(true);
  });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.print;
    update();
  });
  redraw();
}
start();
