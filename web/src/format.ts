// Numbers as text.
import type { Estimate } from "./types";

export function percent(value: number | null | undefined, sign = false): string {
  if (value == null) return "–";
  const shown = (100 * value).toFixed(1);
  return sign && value > 0 ? `+${shown}` : shown.replace("-", "−");
}

export function interval(estimate: Estimate | null | undefined, sign = false): string {
  if (estimate == null || estimate.low == null || estimate.high == null) return "";
  return `[${percent(estimate.low, sign)}, ${percent(estimate.high, sign)}]`;
}

export function bounds(estimate: Estimate | null | undefined): string {
  if (estimate == null || estimate.at_least == null || estimate.at_most == null) return "";
  return `(${percent(estimate.at_least)} to ${percent(estimate.at_most)})`;
}

export function short(value: number | null | undefined): string {
  if (value == null) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(1).replace("-", "−").replace("e−", "e−");
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(3))).replace("-", "−");
}

export function count(n: number): string {
  return n.toLocaleString("en");
}
