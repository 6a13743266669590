import { MARKS, layerNames, state } from "./series.js";
import { update } from "./drawing.js";

export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.flat().filter(child => child != null));
  return node;
}

export function shape(name, attributes = {}, text = null) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) if (value != null) node.setAttribute(key, value);
  if (text !== null) node.textContent = text;
  return node;
}

export const panel = (...children) => element("div", { class: "panel" }, ...children);
export const title = (words, note = "") => element("h4", {}, words, note ? element("small", {}, note) : null);
export const seriesTitle = (one, note = "") =>
  element("h4", {}, swatch(one), one.name, note ? element("small", {}, note) : null);

export function grid(n, kind, ...children) {
  const node = element("div", { class: `panels ${kind}` }, ...children);
  node.style.gridTemplateColumns = `repeat(${n}, minmax(0, 1fr))`;
  return node;
}

/* How many columns of at least this width there are room for, and how wide they are. */
export function layout(width, least, most, gap = 20) {
  const n = Math.max(1, Math.min(most, Math.floor((width + gap) / (least + gap))));
  return { n, size: Math.floor((width - gap * (n - 1)) / n) };
}

export function table(heads, rows, words) {
  const kind = (_, column) => ({ class: column < words ? null : "number" });
  const head = heads.map((text, column) => element("th", kind(text, column), text));
  const body = rows.map(row => element("tr", {}, row.map((text, column) => element("td", kind(text, column), text))));
  const whole = element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, body));
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": heads[0] }, whole);
}

export function select(words, key, options) {
  const list = options.map(([value, text]) => element("option", { value, selected: value === state[key] }, text));
  const change = event => { state[key] = event.target.value; update(); };
  return element("label", {}, words, element("select", { "data-key": key, onchange: change }, list));
}

export function layerSelect(kind, key) {
  const names = layerNames(kind);
  if (!names.includes(state[key])) state[key] = "";
  return select("Layer", key, [["", "all layers"], ...names.map(name => [name, name])]);
}

export const pressed = (key, on, onclick, words) =>
  element("button", { type: "button", "data-key": key, "aria-pressed": String(on), onclick }, words);

export function choice(label, key, options) {
  const change = value => () => { state[key] = value; update(); };
  const buttons = options.map(([value, text]) => pressed(`${key}:${value}`, state[key] === value, change(value), text));
  return element("span", { class: "choice", role: "group", "aria-label": label }, buttons);
}

export function markOf(one, x, y, size) {
  const transform = `translate(${x} ${y}) scale(${size})`;
  return shape("path", { class: "mark", d: MARKS[one.slot], fill: one.color, transform });
}

export const strokeOf = (one, color = one.color, width = 2, dash = one.dash) =>
  ({ stroke: color, "stroke-width": width, "stroke-dasharray": dash || null });

export function swatch(one) {
  const icon = shape("svg", { width: 26, height: 12, "aria-hidden": "true" });
  const line = shape("path", { class: "line", d: "M0 6H26", ...strokeOf(one) });
  icon.append(line, markOf(one, 13, 6, 4));
  return icon;
}

/* The label of a family's weights in its color. */
export const keyOf = ({ labels, colors }, k, more = "") =>
  element("em", { class: "key", style: `--color: ${colors[k]}` }, labels[k] + more);

/* From a share of a range to a color between those of its ends, through one that is close to the page. */
export function ramp(value) {
  const end = value < 0.5 ? "var(--instance)" : "var(--batch)";
  return `color-mix(in oklab, ${end} ${Math.round(200 * Math.abs(value - 0.5))}%, var(--middle))`;
}

/** @returns {any} whatever element it is */
export const byId = id => document.getElementById(id);
/** @returns {any[]} */
export const all = selector => [...document.querySelectorAll(selector)];
/** @returns {any} */
export const focused = () => document.activeElement;

/* Where a value lies in its kind's range, from 0 to 1, and the color of it. */
const placeOf = ({ range: [low, high] }, value) => (value - low) / (high - low);
export const colorOf = (kind, value) => ramp(placeOf(kind, value));
