import { ascending, average, between, count, folded, plain, range, rounded, short, sum, whole } from "./numbers.js";
import { channelKinds, data, families, layersOf, networkOver, runs, runsWith, sections, weightOf } from "./values.js";
import { folds } from "./series.js";
import { byId, element, keyOf, table } from "./elements.js";

const namesOf = run => sections.flatMap(section => layersOf(run, section)).map(layer => layer.name);

const TITLES = {
  rho: "the gates rho of batch-instance normalization",
  switch: "the weights of switchable normalization",
};

export function lead() {
  const what = sections.map(({ name }) => TITLES[name] ?? name).join(" and ");
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
  for (const kind of channelKinds) {
    const { name, neutral, published } = kind, [low, high] = kind.limits.map(plain);
    const of = (part, form, third) => over(runsWith(kind), run => networkOver(kind, [run], Infinity, third)[part], form);
    const about = (...shares) => {
      if (!published) return `of ${name}`;
      return `about ${shares.map(rounded).join(" · ")} in ${published.subject} (${published.source})`;
    };
    const { network, first, last } = published?.shares ?? {};
    fact(`Mean ${name} at the end`, of("mean", short), neutral === null ? "" : `${plain(neutral)} when training began`);
    fact(`Gates below ${low}`, of("below", rounded), about(network?.below));
    fact(`Gates above ${high}`, of("above", rounded), about(network?.above));
    const thirds = ["first", "last"].map(part => of("below", rounded, part)).join(" · ");
    fact(`Below ${low}, lower · upper third`, thirds, about(first?.below, last?.below));
  }
  for (const family of families) {
    const mean = (run, m, k) => average(layersOf(run, family).map((_, l) => weightOf(family, run, Infinity, l, m, k)));
    const members = runsWith(family), words = family.words.map(moment => `of ${moment}`).join(" · ");
    family.labels.forEach((_, k) => {
      const each = family.words.map((_, m) => over(members, run => mean(run, m, k), short)).join(" · ");
      fact(keyOf(family, k, " weight"), each, `${words}, over all layers`);
    });
  }
}

const FEW = 8;
const folding = (words, content) => element("details", {}, element("summary", {}, words), content);

export function runTable() {
  const heads = ["Run", ...(folds ? ["Group"] : []), "Read from", "Layers", "Gates", "Steps"];
  const rows = runs.map((run, i) => {
    const gates = sum(channelKinds.flatMap(kind => layersOf(i, kind)).map(layer => layer.channels));
    const [first, last] = [run.steps[0], run.steps.at(-1)];
    const steps = first === last ? whole(last) : `${whole(first)} to ${whole(last)}, ${run.logged} logged`;
    const group = folds ? [data.groups[run.group]] : [], layers = whole(new Set(namesOf(i)).size);
    return [run.name, ...group, element("code", {}, run.source), layers, gates ? whole(gates) : "–", steps];
  });
  const list = table(heads, rows, folds ? 3 : 2);
  byId("runs").append(runs.length > FEW ? folding(`The ${runs.length} runs`, list) : list);
}

export function notes() {
  const items = data.notes.map(text => element("li", {}, text)), many = items.length > FEW;
  const folded = () => element("li", {}, folding(count(items.length, "further note"), element("ul", {}, items)));
  byId("notes-list").append(...(many ? [folded()] : items));
}
