import { fixed, plain, range, signed, significant, whole } from "./numbers.js";
import { data, runs } from "./values.js";
import { several, state } from "./series.js";
import { all, byId, choice, element, panel, select, seriesTitle, shape, table, title } from "./elements.js";

const WORDS = { learned: "as learned", binarized: "binarized" };
const wordsOf = name => WORDS[name] ?? `all ${name}`;

/** @returns {import("./types").Pictures | undefined} those of the first run of a series that has any */
const picturesOf = one => data.pictures.find(({ run }) => one.members.some(member => runs[member].name === run));
const withPictures = () => state.shown.filter(picturesOf);

/* The score that stands below the pictures. */
const metricOf = ({ versions: [{ scores }] }) => ("val/loss" in scores ? "val/loss" : Object.keys(scores)[0]);

function enlarge(picture, words) {
  const large = byId("large"), copy = picture.cloneNode(true);
  copy.removeAttribute("aria-label");
  large.replaceChildren(copy, element("p", {}, words));
  large.showModal();
}

/* One picture of a sheet, which a click shows as large as the window. */
function tile(sheet, row, column, words, ...lines) {
  const { width, height, gap, whole: [fullHeight, fullWidth] } = sheet;
  const viewBox = `${column * (width + gap)} ${row * (height + gap)} ${width} ${height}`;
  const picture = shape("svg", { viewBox, role: "img", "aria-label": words, width, height });
  picture.append(shape("image", { href: sheet.data, width: fullWidth, height: fullHeight }));
  const button = element("button", { type: "button", onclick: () => enlarge(picture, words) }, picture);
  return element("div", { class: "tile" }, button, ...lines.map(line => element("span", {}, line)));
}

const heading = (one, words, note) => (several() ? seriesTitle(one, words) : title(words, note));

function versionTiles(own, one) {
  const { sheet, versions, rows } = own, metric = metricOf(own), key = `style-${own.run}`, [learned] = versions;
  const row = Math.max(0, rows.indexOf(state[key]));
  const styled = rows[row] ? `, in the style ${rows[row]}` : "";
  state[key] ??= rows[0];
  const given = own.given ? [tile(sheet, row, 0, `What is given: a held-out image${styled}`, element("b", {}, "given"))] : [];
  const made = versions.map((version, i) => {
    const words = wordsOf(version.name), score = version.scores[metric], change = score - learned.scores[metric];
    const scored = `${metric} ${significant(score, 4)}`, by = `${scored}, ${signed(change)}`;
    const moved = version.changes[own.generated ? 0 : row], pixels = `pixels differ by ${fixed(moved)}`;
    const lines = i ? [by, pixels] : [scored];
    const label = `${own.generated ? "Images of the generator" : "The image as the network paints it"}, ${[words + styled, ...lines].join(", ")}`;
    return tile(sheet, row, given.length + i, label, element("b", {}, words), ...lines);
  });
  const styles = rows.length > 1 ? element("div", { class: "options" }, choice("Style", key, rows.map(name => [name, name]))) : null;
  return panel(heading(one, ""), styles, element("div", { class: "tiles" }, ...given, ...made));
}

function versionTable(own, one) {
  const metrics = Object.keys(own.versions[0].scores), metric = metricOf(own), [learned] = own.versions;
  const rows = own.versions.map(({ name, scores }, i) => [
    wordsOf(name), ...metrics.map(each => significant(scores[each], 4)), i ? signed(scores[metric] - learned.scores[metric]) : "–",
  ]);
  return panel(heading(one, ""), table(["Version", ...metrics, `change of ${metric}`], rows, 1));
}

/* Figures are drawn anew at every step; pictures that are the same stay, since they would flicker. */
function kept(draw) {
  let known = "", panels = [];
  return width => {
    const choices = Object.entries(state).filter(([key]) => /^(style|channel)-/.test(key));
    const now = JSON.stringify([state.shown, choices, width < 560]);
    if (now !== known) [known, panels] = [now, withPictures().map(one => draw(picturesOf(one), one, width)).filter(Boolean)];
    return panels.length ? panels : [element("p", {}, "Of what is shown there are no pictures.")];
  };
}

export const versionsFigure = {
  exists: () => data.pictures.length > 0,
  draw: kept((own, one) => (own.sheet ? versionTiles(own, one) : versionTable(own, one))),
  finding() {
    const found = withPictures().slice(0, 3).map(one => {
      const own = picturesOf(one), metric = metricOf(own), [{ scores }, ...others] = own.versions;
      const changes = others.map(each => `${wordsOf(each.name)} ${signed(each.scores[metric] - scores[metric])}`);
      const on = `${whole(own.count)} ${own.generated ? "generated" : "held-out"} image${own.count === 1 ? "" : "s"}`;
      return `${several() ? `${one.name}: ` : ""}${metric} on ${on} is ${significant(scores[metric], 4)} as learned; ${changes.join(", ")}`;
    });
    return found.length ? `${found.join(". ")}.` : "";
  },
};

const learnedWords = ({ learned }) => Object.entries(learned).map(([name, value]) => `${name} ${fixed(value, 2)}`).join(", ");
const nameOf = ({ layer, channel }) => `${layer}, channel ${channel}`;

function chosenChannel(own) {
  const key = `channel-${own.run}`, { channels } = own;
  state[key] ??= nameOf(channels[0]);
  return channels.find(each => nameOf(each) === state[key]);
}

function channelTiles(own, one) {
  if (!own.channels.length) return null;
  const found = chosenChannel(own), { sheet, ways, means, images, compared, limit } = found;
  const what = own.generated ? "generated" : "held-out", options = own.channels.map(each => [nameOf(each), nameOf(each)]);
  const row = image => {
    const place = `image ${images[image] + 1} of ${compared}`, name = `${what} ${place}`;
    const maps = ways.map((way, i) => {
      const mean = `mean ${fixed(means[i][image])}`;
      return tile(sheet, image, i + 1, `Activations of ${nameOf(found)} on ${name}, ${way}: ${mean}`, element("b", {}, way), mean);
    });
    return element("div", { class: "tiles row" }, tile(sheet, image, 0, `The ${name}`, element("b", {}, place)), ...maps);
  };
  const rows = element("div", { class: "rows", style: `--columns: ${ways.length + 1}` }, range(images.length).map(row));
  const scale = element("p", { class: "scale" }, "−", plain(limit), element("i", {}), "+", plain(limit));
  const chooser = element("div", { class: "options" }, select("Channel", `channel-${own.run}`, options));
  return panel(heading(one, ""), chooser, title(nameOf(found), learnedWords(found)), scale, rows);
}

export const activationsFigure = {
  exists: () => data.pictures.some(({ channels }) => channels.length),
  draw: kept(channelTiles),
  finding() {
    const found = withPictures().map(picturesOf).filter(({ channels }) => channels.length).slice(0, 3).map(own => {
      const channel = chosenChannel(own), { ways, means } = channel, [first, ...others] = means.map(([strongest]) => fixed(strongest));
      const forced = others.map((mean, i) => `${mean} at ${ways[i + 1]}`).join(", ");
      return `${nameOf(channel)}${several() ? ` of ${own.run}` : ""}, is ${first} on average on the image that excites it most, and would be ${forced}`;
    });
    return found.length ? `${found.join(". ")}.` : "";
  },
};

export function listenToPictures() {
  byId("large").addEventListener("click", () => byId("large").close());
  all("dialog").forEach(dialog => dialog.addEventListener("close", () => dialog.replaceChildren()));
}
