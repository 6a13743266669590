import { channelKinds, data, keepsChannels, runsWith, sections } from "./values.js";
import { several, state, withKind } from "./series.js";
import { all, focused } from "./elements.js";
import { chosenPair } from "./differences.js";
import { drawSeries, drawStep, drawUnit } from "./controls.js";
import { nameShown, offerSaving } from "./saving.js";
import { hideTip } from "./reading.js";

export const entries = [];

/* Controls are made anew by a change: the one that had the focus gets it back. */
function keepFocus(change) {
  const key = focused()?.dataset.key;
  change();
  if (key && focused()?.dataset.key !== key) {
    const again = all("[data-key]").find(node => node.dataset.key === key);
    again?.focus({ preventScroll: true });
  }
}

function drawFigure(entry) {
  const { figure, spec } = entry, box = figure.querySelector(".panels"), width = Math.floor(figure.clientWidth);
  entry.stale = false;
  figure.querySelector(".options")?.replaceChildren(...(spec.options?.() ?? []));
  box.style.gridTemplateColumns = `repeat(${spec.columns?.(width) ?? 1}, minmax(0, 1fr))`;
  box.replaceChildren(...spec.draw(width));
  figure.querySelector(".finding").textContent = spec.finding();
  spec.after?.(figure);
  offerSaving(figure);
}

/* What is said on some condition; of a kind, if the condition names it. */
function conditions(kind) {
  const pair = chosenPair(), tested = pair !== null && Math.min(...pair.runs) > 1;
  const grouped = state.shown.some(one => one.members.length > 1);
  return {
    single: !several() && !grouped,
    many: several(),
    seeds: grouped,
    last: kind && runsWith(kind).some(run => !keepsChannels(kind, run)),
    tested: tested,
    uncertain: tested && !pair.paired,
    paired: tested && pair.paired,
    certain: pair !== null && !tested && data.groups.length > 1,
    within: data.groups.length === 1,
  };
}

export const isWanted = ({ figure, stale, near }, far) => stale && (near || far) && !figure.closest("[hidden]");

let requested = 0;

export function update() {
  entries.forEach(entry => { entry.stale = true; });
  requested ||= requestAnimationFrame(() => redraw());
}

export function redraw(everything = false) {
  requested = 0;
  hideTip();
  keepFocus(() => {
    drawUnit();
    drawSeries();
    drawStep();
    nameShown();
    for (const section of all("[data-section]")) {
      section.hidden = !withKind(sections.find(({ name }) => name === section.dataset.section)).length;
    }
    entries.filter(entry => isWanted(entry, everything)).forEach(drawFigure);
    for (const node of all("[data-when]")) {
      const [, when, name] = node.dataset.when.match(/(\w+) ?(.*)/);
      node.hidden = !conditions(channelKinds.find(kind => kind.name === name))[when];
    }
  });
}
