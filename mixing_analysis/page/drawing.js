import { data, keepsChannels, runsWith } from "./values.js";
import { several, state, withKind } from "./series.js";
import { compared } from "./differences.js";
import { drawSeries, drawStep, drawUnit } from "./controls.js";
import { hideTip } from "./reading.js";

export const entries = [];

/* Controls are made anew by a change: the one that had the focus gets it back. */
function keepFocus(change) {
  const { key } = document.activeElement?.dataset ?? {};
  change();
  if (key && document.activeElement?.dataset.key !== key) {
    const again = [...document.querySelectorAll("[data-key]")].find(node => node.dataset.key === key);
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
}

function conditions() {
  const grouped = state.shown.some(one => one.members.length > 1);
  const sides = [state.first, state.second].map(i => compared[i]?.members.length ?? 0);
  return {
    single: !several() && !grouped,
    many: several(),
    seeds: grouped,
    last: runsWith("rho").some(run => !keepsChannels(run)),
    uncertain: Math.min(...sides) > 1,
    certain: Math.min(...sides) < 2 && data.groups.length > 1,
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
    for (const kind of ["rho", "switch"]) {
      const section = document.querySelector(`section[data-needs=${kind}]`);
      if (section) section.hidden = !withKind(kind).length;
    }
    entries.filter(entry => isWanted(entry, everything)).forEach(drawFigure);
    const now = conditions();
    document.querySelectorAll("[data-when]").forEach(node => { node.hidden = !now[node.dataset.when]; });
  });
}
