import { average, plain, range } from "./numbers.js";
import { data, gatesOf, weightOf } from "./values.js";
import { ownLayers, several, state, withKind } from "./series.js";

/**
 * Whether values of a range that are so far apart may be told from each other.
 * @param {{ range: number[] }} kind what has the range
 * @param {number} difference
 */
export const tells = ({ range: [low, high] }, difference) => Math.abs(difference) >= data.noise * (high - low);
export const NOISE_SHARE = data.noise;

/* Whether the gates of a series are still where training began: the means and middle halves of all layers. */
function isOpen(kind, one) {
  const near = value => !Number.isFinite(value) || !tells(kind, value - kind.neutral);
  const layer = (run, l) => {
    const { mean, lower, upper } = gatesOf(kind, run, state.step, l);
    return [mean, lower, upper].every(near);
  };
  return kind.neutral !== null && one.members.every(run => ownLayers(one, kind).every((_, l) => layer(run, l)));
}

/* The shown series whose gates have left the start, and a sentence on those that have not. */
export function preferences(kind) {
  const series = withKind(kind), open = series.filter(one => isOpen(kind, one));
  if (!open.length) return { series, words: "" };
  const within = plain(data.noise * (kind.range[1] - kind.range[0]));
  const whom = several() ? ` in ${open.slice(0, 3).map(one => one.name).join(", ")}` : "";
  const words = `No preference yet${whom}: the middle half of the gates of every layer is within ${within} of ` +
    `${plain(kind.neutral)}, where training began.`;
  return { series: series.filter(one => !open.includes(one)), words };
}

/* The label whose weight leads those of the others, over the layers and in every run; none if that may be noise. */
export function leading(family, one, moment) {
  const layers = range(ownLayers(one, family).length);
  const each = one.members.map(run => family.labels.map((_, k) =>
    average(layers.map(l => weightOf(family, run, state.step, l, moment, k)))));
  const means = family.labels.map((_, k) => average(each.map(run => run[k])));
  const first = values => values.indexOf(Math.max(...values));
  const k = first(means), rest = means.filter((_, other) => other !== k);
  const agreed = each.every(run => first(run) === k);
  return agreed && tells(family, means[k] - Math.max(...rest)) ? { label: family.labels[k], mean: means[k] } : null;
}

/* Whether any weight of a layer has left the part that all began with. */
export function hasSpread(family, one, moment) {
  const begun = family.neutral ?? 1 / family.labels.length;
  return ownLayers(one, family).some((_, l) => family.labels.some((_, k) =>
    tells(family, average(one.members.map(run => weightOf(family, run, state.step, l, moment, k))) - begun)));
}
