export const range = n => [...Array(n).keys()];
export const sum = values => values.reduce((a, b) => a + b, 0);
export const average = values => sum(values) / values.length;
export const known = values => values.filter(Number.isFinite);
export const ascending = values => [...new Set(values)].sort((a, b) => a - b);

export function deviation(values) {
  if (values.length < 2) return NaN;
  const center = average(values);
  return Math.sqrt(sum(values.map(value => (value - center) ** 2)) / (values.length - 1));
}

const orDash = (value, form) => (Number.isFinite(value) ? form(value).replace("-", "−") : "–");
export const fixed = (value, digits = 3) => orDash(value, () => value.toFixed(digits));
export const short = value => fixed(value, 2);
export const tenth = value => fixed(value, 1);
export const significant = (value, digits) => orDash(value, () => value.toPrecision(digits));
export const signed = (value, digits = 3) => (value > 0 ? "+" : "") + fixed(value, digits);
export const percent = (value, digits = 1) => orDash(value, () => `${(100 * value).toFixed(digits)}\u00a0%`);
export const rounded = value => percent(value, 0);
/* As short as a limit or an end of a range can be said. */
export const plain = value => String(Number(value.toPrecision(3))).replace("-", "−");
export const whole = value => String(value).replace(/\B(?=(\d{3})+$)/g, "\u2009");
export const count = (n, word) => `${whole(n)} ${word}${n === 1 ? "" : "s"}`;
const withSpread = (value, spread, form) => form(value) + (Number.isFinite(spread) ? ` ± ${form(spread)}` : "");
export const folded = (values, form) => withSpread(average(values), deviation(values), form);
export const between = (values, form) =>
  [...new Set([Math.min(...values), Math.max(...values)].map(value => form(value)))].join(" to ");
