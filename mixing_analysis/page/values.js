import { average, range, sum } from "./numbers.js";

/** @type {import("./types").Contents} */
export const data = JSON.parse(document.getElementById("data").textContent);
export const { runs, architectures, bins: BINS, largest: LARGEST } = data;
export const PARTS = { network: "Whole network", first: "Lower third", middle: "Middle third", last: "Upper third" };

function unpack(text) {
  const characters = atob(text), bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return new Uint16Array(bytes.buffer);
}

/** @returns {import("./types").Gates} */
export function gates([name, kind]) {
  const packed = Object.fromEntries(Object.entries(kind.packed).map(([part, text]) => [part, unpack(text)]));
  return { ...kind, name, packed, gamma: data.gamma[name] };
}

const OWN = ["instance", "layer", "batch"];

/** @returns {import("./types").Weights} */
export function weights([name, family]) {
  const statistics = family.labels.every(label => OWN.includes(label));
  const names = statistics ? family.labels : [...OWN, ...range(5).map(i => `run-${i + 1}`)];
  const colors = family.labels.map((_, k) => `var(--${names[k % names.length]})`);
  return { ...family, name, packed: unpack(family.packed), statistics, colors };
}

/* What is shown in a section each: kinds with a value in every channel, and families of kinds with labels. */
export const channelKinds = Object.entries(data.channels).map(gates);
export const families = Object.entries(data.weights).map(weights);
/** @type {import("./types").Section[]} */
export const sections = [...channelKinds, ...families];

export const share = (packed, i) => (packed[i] > LARGEST ? NaN : packed[i] / LARGEST);
export const scaled = ({ range: [low, high] }, part) => low + part * (high - low);
export const layersOf = (run, { name }) => architectures[runs[run].architecture][name];
export const runsWith = kind => range(runs.length).filter(run => layersOf(run, kind).length);

/* The last step that a run has values of, up to the given one. */
function stepIndex(run, step) {
  const later = runs[run].steps.findIndex(own => own > step);
  return later < 0 ? runs[run].steps.length - 1 : Math.max(0, later - 1);
}

const cellOf = (kind, run, step, layer) =>
  runs[run].cells[kind.name] + stepIndex(run, step) * layersOf(run, kind).length + layer;

/**
 * @param {import("./types").Weights} family
 * @param {number} member which of its kinds
 * @param {number} label which of its labels
 */
export function weightOf(family, run, step, layer, member, label) {
  const cell = cellOf(family, run, step, layer);
  return scaled(family, share(family.packed, (cell * family.words.length + member) * family.labels.length + label));
}

/** @param {import("./types").Gates} kind */
export function gatesOf(kind, run, step, layer) {
  const cell = cellOf(kind, run, step, layer), { packed } = kind;
  const [below, above] = [packed.below, packed.above].map(part => share(part, cell));
  const [mean, lower, upper] = [packed.mean, packed.lower, packed.upper].map(part => scaled(kind, share(part, cell)));
  return { mean, below, above, lower, upper, counts: packed.histogram.subarray(cell * BINS, (cell + 1) * BINS) };
}

export const hasChannels = (kind, one) => one.members.some(run => (runs[run].channels[kind.name]?.start ?? null) !== null);
export const keepsChannels = (kind, run) => runs[run].channels[kind.name]?.steps === runs[run].steps.length;

/* The single channels of a layer: of the given step, or of the last one if no others are kept. */
export function channelsOf(kind, run, step, layer) {
  const first = runs[run].channels[kind.name]?.start ?? null;
  if (first === null) return [];
  const layers = layersOf(run, kind), shown = layers.map(one => one.shown);
  const row = keepsChannels(kind, run) ? stepIndex(run, step) : 0;
  const start = first + row * sum(shown) + sum(shown.slice(0, layer));
  const channel = i => Math.floor((i * layers[layer].channels) / shown[layer]);
  const value = i => scaled(kind, share(kind.packed.channels, start + i));
  const all = range(shown[layer]).map(i => ({ channel: channel(i), value: value(i) }));
  return all.filter(one => Number.isFinite(one.value));
}

/* The gates of a layer over the runs of a series: `means` are those of the runs. */
export function layerOver(kind, members, step, layer) {
  const gates = members.map(run => gatesOf(kind, run, step, layer)), of = name => gates.map(one => one[name]);
  const [lower, upper, below, above] = ["lower", "upper", "below", "above"].map(name => average(of(name)));
  return { mean: average(of("mean")), means: of("mean"), lower, upper, below, above };
}

/* The gates of a network, or of a third of it, over the runs of a series. Every channel counts the same. */
export function networkOver(kind, members, step, part = "network") {
  const each = members.map(run => {
    const layers = layersOf(run, kind).map((layer, l) => ({ ...gatesOf(kind, run, step, l), ...layer }));
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
