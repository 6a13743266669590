import { ascending, average, between, count, folded, range, rounded, short, sum, whole } from "./numbers.js";
import { PUBLISHED, STATISTICS, data, layersOf, networkOver, rho, runs, runsWith, weightOf, weights } from "./values.js";
import { folds } from "./series.js";
import { byId, element, table } from "./elements.js";

const namesOf = run => [...layersOf(run, "rho"), ...layersOf(run, "switch")].map(layer => layer.name);

export function lead() {
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
export function over(members, value, form) {
  const values = members.map(value), alike = new Set(members.map(run => runs[run].group)).size === 1;
  return alike ? folded(values, form) : between(values, form);
}

export function facts() {
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

export function runTable() {
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

export function notes() {
  const items = data.notes.map(text => element("li", {}, text)), many = items.length > FEW;
  const list = many ? [element("li", {}, folding(count(items.length, "further note"), element("ul", {}, items)))] : items;
  byId("notes-list").append(...list);
}
