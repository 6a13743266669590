import { fixed, significant } from "./numbers.js";
import { data } from "./values.js";
import { table } from "./elements.js";

const plus = (value, text) => (value > 0 ? `+${text}` : text);
const interval = ({ low, high }) => (low === null ? "–" : `${plus(low, significant(low, 3))} to ${plus(high, significant(high, 3))}`);

export const metricsFigure = {
  exists: () => data.metrics.rows.length > 0,
  draw() {
    const rows = data.metrics.rows.map(row => [
      row.metric, `${row.second} minus ${row.first}`,
      significant(row.mean_first, 4), significant(row.mean_second, 4), plus(row.difference, significant(row.difference, 3)),
      interval(row), row.g === null ? "–" : plus(row.g, fixed(row.g, 1)), row.p_holm === null ? "–" : significant(row.p_holm, 2),
    ]);
    return [table(["Metric", "Groups", "first", "second", "difference", "95 %", "g", "p"], rows, 2)];
  },
  finding: () => data.metrics.finding,
};
