import { fixed, folded, percent, plain, tenth, whole } from "./numbers.js";
import { channelsOf, gatesOf, keepsChannels, layerOver, networkOver, runs, runsWith } from "./values.js";
import { layerIndex, layerNames, named, ownLayers, several, state, stepsOf, withKind } from "./series.js";
import { colorOf, element, grid, layerSelect, layout, panel, pressed, strokeOf, title } from "./elements.js";
import { Plot, ticks } from "./plots.js";
import { tells } from "./preference.js";
import { MOST_DOTS, SIDES } from "./channels.js";
import { update } from "./drawing.js";

function trainingSpan(series) {
  const steps = series.flatMap(one => one.members.flatMap(run => runs[run].steps));
  return [Math.min(...steps), Math.max(...steps)];
}

/* Large plots of the chosen layer, over a small one of each layer, by which it is chosen. */
export function trainingPanels(kind, key, width, large, small) {
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

export function overSteps(label, { width, height, span, large }, y = [0, 1]) {
  const [first, last] = span, x = first === last ? [first - 1, last + 1] : span;
  const room = large ? { left: 34 } : { left: 1, right: 1, top: 3, bottom: 3 };
  const plot = new Plot(label, { width, height, x, y, ...room });
  if (large) plot.xAxis(ticks(x, width / 90), whole);
  if (large) plot.yAxis(ticks(y, 5), tenth);
  else y.forEach(value => plot.horizontal(value));
  plot.vertical(Math.min(last, Math.max(first, state.step)), "cursor");
  return plot;
}

export const strokeWidth = large => (large ? 2.3 : 1.6);

export const gateTrainingFigure = kind => ({
  exists: () => runsWith(kind).some(run => runs[run].steps.length > 1),
  options: () => [layerSelect(kind, `${kind.name}-layer`)],
  draw: width => trainingPanels(kind, `${kind.name}-layer`, width, (series, frame) => {
    const name = state[`${kind.name}-layer`], note = name || "all layers";
    const sides = SIDES.map(({ side, statistic }, s) => element("em", { class: statistic }, `${side} ${plain(kind.limits[s])}`));
    const gates = element("h4", {}, "Gates", sides, element("small", {}, note));
    const shares = panel(gates, sharesOverSteps(kind, series, name, frame));
    return [panel(title(`${kind.name} `, note), gatesOverSteps(kind, series, name, frame)), shares];
  }, (series, name, frame) => gatesOverSteps(kind, series, name, frame)),
  finding() {
    const [one] = withKind(kind), steps = stepsOf(one), [first, last] = [steps[0], steps.at(-1)];
    if (steps.length < 2) return `Of ${one.name} there are no two steps that could be compared.`;
    const [before, after] = [first, last].map(step => networkOver(kind, one.members, step).mean);
    const subject = several() ? `mean ${kind.name} of ${one.name}` : `mean ${kind.name}`;
    const verb = tells(kind, after - before) ? "goes" : "has hardly moved:";
    return `The ${subject} ${verb} from ${fixed(before)} at step ${whole(first)} to ${fixed(after)} at step ${whole(last)}.`;
  },
});

function gatesOverSteps(kind, series, name, frame) {
  const plot = overSteps(`${kind.name} over the training, ${name || "all layers"}`, frame, kind.range);
  for (const one of series) {
    const l = layerIndex(one, kind, name);
    if (name && l < 0) continue;
    const at = step => (l < 0 ? networkOver(kind, one.members, step) : layerOver(kind, one.members, step, l));
    const track = stepsOf(one).map(step => ({ lower: NaN, upper: NaN, ...at(step), step }));
    if (l >= 0) plot.band(track.map(({ step, lower, upper }) => [step, lower, upper]), { fill: one.color });
    const fine = frame.large ? fineTracks(kind, one, l, track) : [];
    fine.forEach(([points, stroke]) => plot.line(points, { class: "fine", stroke }));
    const stroke = strokeOf(one, one.color, strokeWidth(frame.large), frame.large && one.dash);
    plot.line(track.map(({ step, mean }) => [step, mean]), stroke);
    for (const { step, mean, means, lower, upper } of track) {
      const half = l < 0 ? [] : [["middle half", `${fixed(lower)} to ${fixed(upper)}`]];
      const rows = [...named(one), [`mean ${kind.name}`, folded(means, fixed)], ...half];
      plot.probe(plot.X(step), plot.Y(mean), `step ${whole(step)}`, ...rows);
    }
  }
  return plot.node;
}

/* What a mean is of: the runs of a group, else the layers of a network, else the channels of a layer. */
function fineTracks(kind, one, l, track) {
  const [run] = one.members, layers = ownLayers(one, kind);
  const over = value => track.map((each, i) => [each.step, value(each, i)]);
  if (one.members.length > 1) {
    const at = (run, step) => (l < 0 ? networkOver(kind, [run], step) : layerOver(kind, [run], step, l)).mean;
    return one.members.map(run => [runs[run].steps.map(step => [step, at(run, step)]), one.color]);
  }
  if (several()) return [];
  if (l < 0) return layers.map((_, k) => [over(({ step }) => gatesOf(kind, run, step, k).mean), "var(--soft)"]);
  if (!keepsChannels(kind, run) || layers[l].channels > MOST_DOTS) return [];
  const values = track.map(({ step }) => channelsOf(kind, run, step, l));
  return values.at(-1).map((last, c) => [over((_, i) => values[i][c]?.value), colorOf(kind, last.value)]);
}

function sharesOverSteps(kind, series, name, frame) {
  const plot = overSteps(`Shares of gates over the training, ${name || "all layers"}`, frame);
  for (const one of series) {
    const l = layerIndex(one, kind, name);
    if (name && l < 0) continue;
    const at = step => (l < 0 ? networkOver(kind, one.members, step) : layerOver(kind, one.members, step, l));
    const track = stepsOf(one).map(step => ({ step, ...at(step) }));
    for (const [s, { side, statistic }] of SIDES.entries()) {
      const words = `${side} ${plain(kind.limits[s])}`;
      plot.line(track.map(each => [each.step, each[side]]), strokeOf(one, `var(--${statistic})`, strokeWidth(true)));
      for (const each of track) {
        const [x, y] = [plot.X(each.step), plot.Y(each[side])];
        plot.probe(x, y, `step ${whole(each.step)}`, ...named(one), [words, percent(each[side])]);
      }
    }
  }
  return plot.node;
}
