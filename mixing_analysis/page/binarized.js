import { average, deviation, significant } from "./numbers.js";
import { data, runs } from "./values.js";
import { several, state } from "./series.js";
import { table } from "./elements.js";

const EXPLAINED = {
  rms_change: "the root mean square by which binarizing changes the images, whose values lie in [0, 1]",
  rms_between: "the same between images of different latent vectors, for comparison",
  d_fake: "the mean score that the discriminator gives to generated images",
};

function measured(values, digits) {
  const spread = deviation(values), words = significant(average(values), digits);
  return Number.isFinite(spread) ? `${words} ± ${significant(spread, 2)}` : words;
}

export const binarizedFigure = {
  exists: () => data.binarized !== null,
  draw() {
    const rows = state.shown.flatMap(one => {
      const names = one.members.map(run => runs[run].name), own = data.binarized.filter(row => names.includes(row.run));
      const alike = Map.groupBy(own, row => `${row.metric}\n${row.statistics}`);
      return [...alike.values()].map((group, i) => {
        const { metric, statistics } = group[0];
        const before = group.map(row => row.learned), after = group.map(row => row.binarized);
        const change = group.map(row => row.binarized - row.learned), sign = average(change) > 0 ? "+" : "";
        const numbers = [measured(before, 4), measured(after, 4), sign + measured(change, 2)];
        return [...(several() ? [i ? "" : one.name] : []), metric, statistics, ...numbers];
      });
    });
    const heads = [...(several() ? [state.unit] : []), "Metric", "Running statistics", "learned", "binarized", "change"];
    return [table(heads, rows, several() ? 3 : 2)];
  },
  finding() {
    const metrics = Object.keys(EXPLAINED).filter(metric => data.binarized.some(row => row.metric === metric));
    return metrics.map(metric => `${metric} is ${EXPLAINED[metric]}.`).join(" ");
  },
};
