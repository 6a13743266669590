import { byId, element, focused } from "./elements.js";
import { PLOTS } from "./plots.js";

export function hideTip() {
  byId("tip").hidden = true;
  document.querySelectorAll(".ring").forEach(ring => ring.remove());
}

function showTip(plot, index, aloud) {
  const { x, y, title, rows } = plot.probes[index], tip = byId("tip"), page = document.documentElement;
  hideTip();
  plot.at = index;
  plot.add("circle", { class: "ring", cx: x, cy: y, r: 7 });
  const lines = rows.map(row => element("span", {}, row.map(part => element("span", {}, String(part)))));
  tip.replaceChildren(element("b", {}, title), ...lines);
  tip.hidden = false;
  const { left, top } = plot.node.getBoundingClientRect();
  const across = Math.min(Math.max(left + x - tip.offsetWidth / 2, 6), page.clientWidth - tip.offsetWidth - 6);
  const above = top + y - tip.offsetHeight - 14, down = above > 6 ? above : top + y + 16;
  tip.style.transform = `translate(${across + scrollX}px, ${down + scrollY}px)`;
  if (aloud) byId("say").textContent = [title, ...rows.map(row => row.join(" "))].join(", ");
}

function nearest(plot, cost, limit) {
  let best = -1, least = limit;
  plot.probes.forEach(({ x, y }, i) => {
    const value = cost(x, y);
    if (value < least) [best, least] = [i, value];
  });
  return best;
}

export function point(event) {
  const plot = PLOTS.get(event.target.closest?.("svg.plot"));
  if (!plot) return hideTip();
  const { left, top } = plot.node.getBoundingClientRect(), [x, y] = [event.clientX - left, event.clientY - top];
  const index = nearest(plot, (ofX, ofY) => Math.hypot(ofX - x, ofY - y), 40);
  return index < 0 ? hideTip() : showTip(plot, index, false);
}

const WAYS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };

/* From value to value by the arrow keys: to the nearest in that direction. */
export function walk(event) {
  const plot = PLOTS.get(focused()), way = WAYS[event.key];
  if (event.key === "Escape") hideTip();
  if (!plot?.probes.length || !way) return;
  event.preventDefault();
  const from = plot.probes[plot.at];
  if (!from) return showTip(plot, 0, true);
  const next = nearest(plot, (x, y) => {
    const [dx, dy] = [x - from.x, y - from.y], ahead = dx * way[0] + dy * way[1];
    return ahead > 0.4 ? ahead + 3 * Math.abs(dx * way[1] + dy * way[0]) : Infinity;
  }, Infinity);
  return showTip(plot, next < 0 ? plot.at : next, true);
}
