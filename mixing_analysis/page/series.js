import { ascending, range } from "./numbers.js";
import { architectures, data, layersOf, runs } from "./values.js";

/* What tells the runs or groups apart that are shown at once, besides their colors. */
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "12 4", "4 2"];
export const MARKS = [
  "M-1 0A1 1 0 1 1 1 0A1 1 0 1 1-1 0Z",
  "M-.9-.9H.9V.9H-.9Z",
  "M0-1.15L1.1.8H-1.1Z",
  "M0-1.3L1.15 0L0 1.3L-1.15 0Z",
  "M0 1.15L1.1-.8H-1.1Z",
  "M-.4-1.2H.4V-.4H1.2V.4H.4V1.2H-.4V.4H-1.2V-.4H-.4Z",
];

/* ---- What is shown: series, each a run or a group of runs ---- */

export const units = {
  group: data.groups.map((name, g) => ({ name, members: range(runs.length).filter(run => runs[run].group === g) })),
  run: runs.map((run, i) => ({ name: run.name, members: [i] })),
};
export const folds = units.group.length < units.run.length;
/** @type {import("./types").State} What is chosen; controls of a section keep their choice under a name of their own. */
export const state = { unit: "", shown: [], step: 0, search: "" };

export function show(series) {
  const slot = range(MARKS.length).find(free => state.shown.every(one => one.slot !== free));
  state.shown.push({ ...series, slot, color: `var(--run-${slot})`, dash: DASHES[slot] });
  const place = one => units[state.unit].findIndex(other => other.name === one.name);
  state.shown.sort((a, b) => place(a) - place(b));
}

export function choose(unit) {
  Object.assign(state, { unit, shown: [] });
  units[unit].slice(0, MARKS.length).forEach(show);
}

export const several = () => state.shown.length > 1;
export const whose = one => (several() ? ` in ${one.name}` : "");
export const named = one => (several() ? [[one.name]] : []);
export const withKind = kind => state.shown.filter(one => one.members.every(run => layersOf(run, kind).length));
export const ownLayers = (one, kind) => layersOf(one.members[0], kind);
export const layerIndex = (one, kind, name) => ownLayers(one, kind).findIndex(layer => layer.name === name);
export const shownSteps = () => ascending(state.shown.flatMap(one => one.members.flatMap(run => runs[run].steps)));

/* The steps of a series, as far as all of its runs have come. */
export function stepsOf({ members }) {
  const first = Math.max(...members.map(run => runs[run].steps[0]));
  const last = Math.min(...members.map(run => runs[run].steps.at(-1)));
  return ascending(members.flatMap(run => runs[run].steps)).filter(step => first <= step && step <= last);
}

/* Series that have the same layers, which can be drawn in the same rows. */
export function byArchitecture(kind) {
  const alike = Map.groupBy(withKind(kind), one => runs[one.members[0]].architecture);
  return [...alike].map(([architecture, series]) => ({ layers: architectures[architecture][kind.name], series }));
}

export const layerNames = kind => {
  const layers = byArchitecture(kind).flatMap(alike => alike.layers);
  return [...new Set(layers.map(layer => layer.name))];
};
