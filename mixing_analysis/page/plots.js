import { average, folded, known, range, short, tenth } from "./numbers.js";
import { named } from "./series.js";
import { markOf, shape } from "./elements.js";

const pixel = value => Math.round(value * 10) / 10;

/** @param {number[]} span */
export function ticks([low, high], most) {
  const raw = (high - low) / Math.max(1, most), magnitude = 10 ** Math.floor(Math.log10(raw));
  const width = magnitude * [1, 2, 5, 10].find(factor => factor * magnitude >= raw * 0.999);
  const first = Math.ceil(low / width - 1e-9);
  return range(Math.floor(high / width + 1e-9) - first + 1).map(i => (first + i) * width);
}

/** @type {WeakMap<Element, Plot>} the plot that an element is of */
export const PLOTS = new WeakMap();

export class Plot {
  /**
   * @param {string} label what is plotted, in words
   * @param {import("./types").Frame} frame
   */
  constructor(label, { width, height, left = 8, right = 8, top = 8, bottom = 24, x = [0, 1], y = [0, 1] }) {
    this.width = width;
    this.height = height;
    this.left = left;
    this.right = right;
    this.top = top;
    this.bottom = bottom;
    this.x = x;
    this.y = y;
    this.probes = [];
    this.at = -1;
    const words = `${label}. Arrow keys read the values.`;
    this.node = shape("svg", { class: "plot", width, height, role: "img", tabindex: 0, "aria-label": words });
    this.node.setAttribute("viewBox", `0 0 ${width} ${height}`);
    PLOTS.set(this.node, this);
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
export class RowPlot extends Plot {
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

  /* The axis of the values of a kind, or of shares. */
  values({ range } = { range: [0, 1] }) {
    this.xAxis(ticks(range, 5), tenth);
  }
}

/* Rows with a mark for each series that a stem joins to what it is compared with. */
export function stems(label, { layers, series }, width, { x, from, value, row }) {
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

