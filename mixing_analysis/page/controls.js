import { whole } from "./numbers.js";
import { runs } from "./values.js";
import { MARKS, choose, folds, several, show, shownSteps, state, units } from "./series.js";
import { byId, element, pressed, swatch } from "./elements.js";
import { update } from "./drawing.js";

function chip(series) {
  const shown = state.shown.find(one => one.name === series.name), full = state.shown.length === MARKS.length;
  const toggle = () => {
    if (shown) state.shown.splice(state.shown.indexOf(shown), 1);
    else show(series);
    update();
  };
  // One is always left; and no more are shown than can be told apart.
  const disabled = shown ? !several() : full;
  const words = series.members.length > 1 ? `${series.name} (${series.members.length} runs)` : series.name;
  const box = { type: "checkbox", "data-key": `show:${series.name}`, checked: Boolean(shown), disabled };
  const hint = !shown && full ? `${MARKS.length} at most are shown at once` : null, icon = shown ? swatch(shown) : null;
  return element("label", { class: "chip", title: hint }, element("input", { ...box, onchange: toggle }), icon, words);
}

export function drawSeries() {
  const series = units[state.unit], few = series.length <= MARKS.length, picker = byId("picker");
  byId("series-line").hidden = runs.length < 2;
  byId("chips").replaceChildren(...(few ? series : state.shown).map(chip));
  picker.hidden = few;
  if (few) return;
  picker.querySelector("summary").textContent = `Choose of ${series.length} ${state.unit}s`;
  const found = series.filter(one => one.name.toLowerCase().includes(state.search.toLowerCase()));
  picker.querySelector(".found").replaceChildren(...found.slice(0, 300).map(chip));
}

export function drawUnit() {
  const change = unit => () => { choose(unit); update(); };
  byId("unit").hidden = !folds;
  const button = unit => pressed(`unit:${unit}`, state.unit === unit, change(unit), `${unit}s`);
  byId("unit").replaceChildren(...Object.keys(units).map(button));
}

export function drawStep() {
  const steps = shownSteps(), slider = byId("step");
  state.step = steps.findLast(step => step <= state.step) ?? steps[0];
  slider.max = steps.length - 1;
  slider.value = steps.indexOf(state.step);
  byId("step-text").value = `step ${whole(state.step)} of ${whole(steps.at(-1))}`;
  slider.setAttribute("aria-valuetext", byId("step-text").value);
  byId("step-line").hidden = steps.length < 2;
  byId("controls").hidden = steps.length < 2 && runs.length < 2;
}

export let playing = 0;

export function play(on) {
  clearInterval(playing);
  playing = 0;
  byId("play").textContent = on ? "Pause" : "Play";
  if (!on) return;
  const steps = shownSteps(), stride = Math.max(1, Math.round(steps.length / 60));
  let at = state.step === steps.at(-1) ? -stride : steps.indexOf(state.step);
  playing = setInterval(() => {
    at = Math.min(steps.length - 1, at + stride);
    state.step = steps[at];
    if (at === steps.length - 1) play(false);
    update();
  }, 160);
}
