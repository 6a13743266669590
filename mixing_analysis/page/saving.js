import { range } from "./numbers.js";
import { several, state } from "./series.js";
import { all, element, ramp, shape, swatch } from "./elements.js";

/* ---- A figure as a file that needs neither this page nor its style ---- */

const DRAWN = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "opacity"];
const USUAL = { "fill-opacity": "1", "stroke": "none", "stroke-width": "1", "stroke-opacity": "1", "stroke-dasharray": "none",
  "stroke-linecap": "butt", "stroke-linejoin": "miter", "opacity": "1" };
const FONT = ["font-family", "font-size", "font-weight"];

const canvas = (width, height) => Object.assign(element("canvas"), { width, height });
const sampled = canvas(1, 1).getContext("2d", { willReadFrequently: true });
/** @type {Map<string, string>} */
const hexes = new Map([["none", "none"]]);

/* A color as every program knows it: in a page it may be mixed of others. */
function hexOf(color) {
  if (!hexes.has(color)) {
    sampled.clearRect(0, 0, 1, 1);
    sampled.fillStyle = color;
    sampled.fillRect(0, 0, 1, 1);
    const digits = [...sampled.getImageData(0, 0, 1, 1).data.slice(0, 3)].map(value => value.toString(16).padStart(2, "0"));
    hexes.set(color, `#${digits.join("")}`);
  }
  return hexes.get(color);
}

/* A copy of a shape with all that the page's style says of it. */
function drawn(node) {
  const style = getComputedStyle(node), copy = node.cloneNode(false);
  ["class", "style", "tabindex", "role", "aria-label"].forEach(name => copy.removeAttribute(name));
  for (const name of [...DRAWN, ...(node.tagName === "text" ? FONT : [])]) {
    const value = style.getPropertyValue(name).replace(/px\b/g, "");
    if (value === USUAL[name]) copy.removeAttribute(name);
    else copy.setAttribute(name, ["fill", "stroke"].includes(name) ? hexOf(value) : value);
  }
  if (style.getPropertyValue("vector-effect") === "non-scaling-stroke") {  // which few programs know
    const scale = node.getCTM().a / node.parentNode.getCTM().a;
    copy.setAttribute("stroke-width", String(parseFloat(style.strokeWidth) / scale));
  }
  for (const child of node.childNodes) copy.append(child.nodeType === Node.ELEMENT_NODE ? drawn(child) : child.cloneNode());
  return copy;
}

/* The shapes of a plot, or of a small mark in a text, where they stand. */
function placed(svg, { left, top }) {
  const box = svg.getBoundingClientRect(), group = shape("g", { transform: `translate(${box.left - left} ${box.top - top})` });
  group.append(...[...svg.children].map(drawn));
  return group;
}

/* The words of an element that is no plot, and the colored square before those of a label. */
function* writtenIn(node, { left, top }) {
  const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT), span = document.createRange();
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement, text = walker.currentNode.textContent;
    if (parent.closest("svg") || !text.trim()) continue;
    span.setStart(walker.currentNode, text.search(/\S/));
    span.setEnd(walker.currentNode, text.trimEnd().length);
    const [line] = span.getClientRects(), style = getComputedStyle(parent), size = parseFloat(style.fontSize);
    if (!line) continue;
    const y = line.top - top + (line.height + 0.7 * size) / 2, fonts = Object.fromEntries(FONT.map(name => [name, style.getPropertyValue(name).replace(/px\b/g, "")]));
    yield shape("text", { x: line.left - left, y, fill: hexOf(style.color), ...fonts }, text.trim());
    const square = getComputedStyle(parent, "::before"), side = 0.62 * size;
    if (square.content === '""') yield shape("rect", { x: parent.getBoundingClientRect().left - left, y: y - side, width: side, height: side, rx: 2, fill: hexOf(square.backgroundColor) });
  }
}

const shownSeries = () =>
  (several() ? state.shown.map(one => element("span", {}, swatch(one), ` ${one.name}`)) : []);

/* On paper, where nothing can be chosen, a legend also names what is shown. */
export function nameShown() {
  for (const legend of all(".legend")) {
    legend.querySelector(".shown")?.remove();
    legend.append(element("span", { class: "shown" }, shownSeries()));
  }
}

/* What the colors stand for: the ends of a range, labels, and what is shown. */
function legendOf(figure) {
  const legend = figure.closest("section").querySelector(".legend")?.cloneNode(true), bar = legend?.querySelector(".ramp");
  legend?.querySelector(".shown")?.remove();
  if (bar) {
    const scale = shape("svg", { width: 84, height: 10 });
    scale.append(...range(14).map(i => shape("rect", { x: 6 * i, width: 6, height: 10, fill: ramp((i + 0.5) / 14) })));
    bar.replaceWith(" ", scale, " ");
  }
  return element("div", { class: "legend" }, legend ? [...legend.childNodes] : [], shownSeries());
}

/* The shown figure as the text of a file. */
export function standalone(figure) {
  const panels = figure.querySelector(".panels"), legend = legendOf(figure);
  legend.style.marginTop = "12px";
  panels.after(legend);
  const box = panels.getBoundingClientRect(), end = legend.getBoundingClientRect(), margin = 12;
  const corner = { left: box.left - margin, top: box.top - margin };
  const [width, height] = [box.width + 2 * margin, end.bottom - box.top + 2 * margin].map(Math.ceil);
  const whole = shape("svg", { xmlns: "http://www.w3.org/2000/svg", width, height, viewBox: `0 0 ${width} ${height}` });
  whole.append(shape("rect", { width, height, fill: hexOf(getComputedStyle(document.body).getPropertyValue("--paper")) }));
  for (const part of [panels, legend]) {
    part.querySelectorAll("svg").forEach(svg => whole.append(placed(svg, corner)));
    const texts = part === legend ? part.children : part.querySelectorAll("h4, .rank, .mini > span");
    [...texts].forEach(node => whole.append(...writtenIn(node, corner)));
  }
  legend.remove();
  return new XMLSerializer().serializeToString(whole);
}

function download(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const saveDrawing = figure => download(new Blob([standalone(figure)], { type: "image/svg+xml" }), `${figure.id}.svg`);

async function savePicture(figure) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(standalone(figure))}`;
  await image.decode();
  const picture = canvas(2 * image.width, 2 * image.height);
  picture.getContext("2d").drawImage(image, 0, 0, picture.width, picture.height);
  picture.toBlob(blob => download(blob, `${figure.id}.png`));
}

/* Buttons that save a figure, below it if it has a plot. */
export function offerSaving(figure) {
  let place = figure.querySelector(".save");
  if (!place) {
    const button = (words, save) => element("button", { type: "button", onclick: () => save(figure) }, words);
    place = element("p", { class: "save" }, button("Save SVG", saveDrawing), " ", button("Save PNG", savePicture));
    figure.append(place);
  }
  place.hidden = !figure.querySelector(".panels svg.plot");
}
