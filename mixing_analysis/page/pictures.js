import { fixed, plain, range, short, signed, significant, whole } from "./numbers.js";
import { data, runs } from "./values.js";
import { several, state } from "./series.js";
import { byId, choice, element, panel, select, seriesTitle, shape, table } from "./elements.js";

const WORDS = { learned: "as learned", binarized: "binarized" };
const wordsOf = name => WORDS[name] ?? `all ${name}`;

/** @returns {import("./types").Pictures | undefined} those of the first run of a series that has any */
const picturesOf = one => data.pictures.find(({ run }) => one.members.some(member => runs[member].name === run));
const withPictures = () => state.shown.filter(picturesOf);

/* The score that stands below the pictures. */
const metricOf = own => ("val/loss" in own.versions[0].scores ? "val/loss" : Object.keys(own.versions[0].scores)[0]);

const bold = words => element("b", {}, words);
const heading = one => (several() ? seriesTitle(one) : null);
const options = (...children) => element("div", { class: "options" }, ...children);

function enlarge(picture, words) {
  const copy = picture.cloneNode(true);
  copy.setAttribute("aria-hidden", "true");
  byId("large").replaceChildren(copy, element("p", {}, words));
  byId("large").showModal();
}

/* One picture of a sheet, which a click shows as large as the window. */
function tile(sheet, row, column, words, ...lines) {
  const { data: href, width, height, gap, whole: [fullHeight, fullWidth] } = sheet;
  const viewBox = `${column * (width + gap)} ${row * (height + gap)} ${width} ${height}`;
  const picture = shape("svg", { viewBox, role: "img", "aria-label": words, width, height });
  picture.append(shape("image", { href, width: fullWidth, height: fullHeight }));
  const button = element("button", { type: "button", onclick: () => enlarge(picture, words) }, picture);
  return element("div", { class: "tile" }, button, ...lines.map(line => element("span", {}, line)));
}

function versionTiles(own, one) {
  const { sheet, versions, rows, generated } = own, metric = metricOf(own), key = `style-${own.run}`;
  state[key] ??= rows[0];
  const row = rows.indexOf(state[key]), styled = rows[row] ? `, in the style ${rows[row]}` : "";
  const what = generated ? "Images of the generator" : "The held-out image as the network paints it";
  const given = own.given ? [tile(sheet, row, 0, `The held-out image as it is${styled}`, bold("given"))] : [];
  const made = versions.map(({ name, scores, changes }, i) => {
    const score = `${metric} ${significant(scores[metric], 4)}`, change = signed(scores[metric] - versions[0].scores[metric]);
    const lines = i ? [`${score}, ${change}`, `pixels differ by ${fixed(changes[row])}`] : [score];
    const words = `${what}, ${[wordsOf(name) + styled, ...lines].join(", ")}`;
    return tile(sheet, row, given.length + i, words, bold(wordsOf(name)), ...lines);
  });
  const styles = rows.length > 1 ? options(choice("Style", key, rows.map(name => [name, name]))) : null;
  const shown = styles && element("p", { class: "printed" }, `in the style ${rows[row]}`);
  return panel(heading(one), styles, shown, element("div", { class: "tiles" }, ...given, ...made));
}

function versionTable(own, one) {
  const { versions } = own, metric = metricOf(own), metrics = Object.keys(versions[0].scores);
  const rows = versions.map(({ name, scores }, i) => {
    const change = i ? signed(scores[metric] - versions[0].scores[metric]) : "–";
    return [wordsOf(name), ...metrics.map(each => significant(scores[each], 4)), change];
  });
  return panel(heading(one), table(["Version", ...metrics, `change of ${metric}`], rows, 1));
}

/* Figures are drawn anew at every step; pictures that are the same stay, since they would flicker. */
function kept(draw) {
  let known = "", panels = [];
  return () => {
    const now = JSON.stringify([state.shown, Object.entries(state).filter(([key]) => /^(style|channel)-/.test(key))]);
    if (now !== known) [known, panels] = [now, withPictures().map(one => draw(picturesOf(one), one)).filter(Boolean)];
    return panels.length ? panels : [element("p", {}, "There are no pictures of what is shown.")];
  };
}

export const versionsFigure = {
  exists: () => data.pictures.length > 0,
  draw: kept((own, one) => (own.sheet ? versionTiles : versionTable)(own, one)),
  finding() {
    const found = withPictures().slice(0, 3).map(one => {
      const own = picturesOf(one), metric = metricOf(own), [{ scores }, ...others] = own.versions;
      const changes = others.map(each => `${wordsOf(each.name)} ${signed(each.scores[metric] - scores[metric])}`);
      const images = `${whole(own.count)} ${own.generated ? "generated" : "held-out"} image${own.count === 1 ? "" : "s"}`;
      const learned = `${metric} on ${images} is ${significant(scores[metric], 4)} as learned`;
      return `${several() ? `${one.name}: ` : ""}${learned}; ${changes.join(", ")}.`;
    });
    return found.join(" ");
  },
};

const nameOf = ({ layer, channel }) => `channel ${channel} of ${layer}`;

function chosenChannel({ run, channels }) {
  state[`channel-${run}`] ??= nameOf(channels[0]);
  return channels.find(each => nameOf(each) === state[`channel-${run}`]);
}

function learnedWords({ learned }) {
  const shares = values => Object.entries(values).map(([label, value]) => `${label} ${short(value)}`).join(", ");
  const each = ([kind, value]) => (typeof value === "number" ? `${kind} ${short(value)}` : `${kind}: ${shares(value)}`);
  return Object.entries(learned).map(each).join("; ");
}

function channelTiles(own, one) {
  if (!own.channels.length) return null;
  const found = chosenChannel(own), { sheet, ways, means, images, compared } = found;
  const row = i => {
    const place = `image ${images[i] + 1} of ${compared}`, name = `${own.generated ? "generated" : "held-out"} ${place}`;
    const maps = ways.map((way, w) => {
      const mean = `mean ${fixed(means[w][i])}`, words = `Activations in ${nameOf(found)} on ${name}, ${way}: ${mean}`;
      return tile(sheet, i, w + 1, words, bold(way), mean);
    });
    return element("div", { class: "tiles row" }, tile(sheet, i, 0, `The ${name}`, bold(place)), ...maps);
  };
  const names = own.channels.map(each => [nameOf(each), nameOf(each)]), limit = plain(found.limit);
  const scale = element("span", {}, "−", limit, element("i", {}), "+", limit);
  const rows = element("div", { class: "rows", style: `--columns: ${ways.length + 1}` }, range(images.length).map(row));
  const chooser = options(select("Show", `channel-${own.run}`, names));
  const shown = element("p", { class: "printed" }, nameOf(found));
  return panel(heading(one), chooser, shown, element("p", { class: "scale" }, learnedWords(found), scale), rows);
}

export const activationsFigure = {
  exists: () => data.pictures.some(({ channels }) => channels.length),
  draw: kept(channelTiles),
  finding() {
    const found = withPictures().map(picturesOf).filter(({ channels }) => channels.length).slice(0, 3).map(own => {
      const channel = chosenChannel(own), [first, ...others] = channel.means.map(([strongest]) => fixed(strongest));
      const forced = others.map((mean, i) => `${mean} with ${channel.ways[i + 1]}`).join(", ");
      const name = `C${nameOf(channel).slice(1)}${several() ? ` in ${own.run}` : ""}`;
      return `${name} is ${first} on average on the image that excites it most; it would be ${forced}.`;
    });
    return found.join(" ");
  },
};

export const listenToPictures = () => byId("large").addEventListener("click", () => byId("large").close());
