import { average, range, sum } from "./numbers.js";

export const data = JSON.parse(document.getElementById("data").textContent);
export const { runs, architectures, published: PUBLISHED, statistics: STATISTICS, bins: BINS, largest: LARGEST } = data;
export const MOMENTS = ["means", "variances"];
export const PARTS = { network: "Whole network", first: "Lower third", middle: "Middle third", last: "Upper third" };
function unpack(text) {
  const characters = atob(text), bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return new Uint16Array(bytes.buffer);
}

export const rho = data.rho && Object.fromEntries(Object.entries(data.rho).map(([name, text]) => [name, unpack(text)]));
export const weights = data.switch && unpack(data.switch);

const share = (packed, i) => (packed[i] > LARGEST ? NaN : packed[i] / LARGEST);
export const layersOf = (run, kind) => architectures[runs[run].architecture][kind];
export const runsWith = kind => range(runs.length).filter(run => layersOf(run, kind).length);

/* The last step that a run has values of, up to the given one. */
function stepIndex(run, step) {
  const later = runs[run].steps.findIndex(own => own > step);
  return later < 0 ? runs[run].steps.length - 1 : Math.max(0, later - 1);
}

const cellOf = (run, kind, step, layer) =>
  runs[run][kind] + stepIndex(run, step) * layersOf(run, kind).length + layer;

export function weightOf(run, step, layer, moment, statistic) {
  const cell = cellOf(run, "switch", step, layer);
  return share(weights, (cell * MOMENTS.length + moment) * STATISTICS.length + statistic);
}

export function gatesOf(run, step, layer) {
  const cell = cellOf(run, "rho", step, layer), names = ["mean", "below", "above", "lower", "upper"];
  const numbers = Object.fromEntries(names.map(name => [name, share(rho[name], cell)]));
  return { ...numbers, counts: rho.histogram.subarray(cell * BINS, (cell + 1) * BINS) };
}

export const hasChannels = one => one.members.some(run => runs[run].channels !== null);
export const keepsChannels = run => runs[run].channelSteps === runs[run].steps.length;

/* The single channels of a layer: of the given step, or of the last one if no others are kept. */
export function channelsOf(run, step, layer) {
  if (runs[run].channels === null) return [];
  const layers = layersOf(run, "rho"), shown = layers.map(one => one.shown);
  const row = keepsChannels(run) ? stepIndex(run, step) : 0;
  const start = runs[run].channels + row * sum(shown) + sum(shown.slice(0, layer));
  const channel = i => Math.floor((i * layers[layer].channels) / shown[layer]);
  const all = range(shown[layer]).map(i => ({ channel: channel(i), value: share(rho.channels, start + i) }));
  return all.filter(one => Number.isFinite(one.value));
}

/* The gates of a layer over the runs of a series: `means` are those of the runs. */
export function layerOver(members, step, layer) {
  const gates = members.map(run => gatesOf(run, step, layer)), of = name => gates.map(one => one[name]);
  const [lower, upper, below, above] = ["lower", "upper", "below", "above"].map(name => average(of(name)));
  return { mean: average(of("mean")), means: of("mean"), lower, upper, below, above };
}

/* The gates of a network, or of a third of it, over the runs of a series. Every channel counts the same. */
export function networkOver(members, step, part = "network") {
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
