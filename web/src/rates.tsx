// Estimates with their intervals: cells of tables, and the large numbers at the top.
import { bounds, interval, percent } from "./format";
import type { Difference, Estimate } from "./types";

export function Rate({ of, sign = false }: { of: Estimate | null | undefined; sign?: boolean }) {
  if (of == null || of.n === 0 || of.value == null) return <span class="dim">–</span>;
  return (
    <span class="rate">
      <b>{percent(of.value, sign)}</b> <small>{interval(of, sign)}</small>
      {bounds(of) && <small> {bounds(of)}</small>}
    </span>
  );
}

/** A difference; it is marked if its interval does not contain 0. */
export function Gain({ of }: { of: Difference | null | undefined }) {
  if (of == null || of.value == null) return <span class="dim">–</span>;
  const clear = of.low != null && of.high != null && (of.low > 0 || of.high < 0);
  return (
    <span class={clear ? (of.value > 0 ? "gain up" : "gain down") : "gain"}>
      <Rate of={of} sign />
    </span>
  );
}

export interface TileProps {
  name: string;
  of: Estimate | null | undefined;
  sign?: boolean;
  note?: string;
}

export function Tile({ name, of, sign, note }: TileProps) {
  if (of == null || of.value == null) return null;
  return (
    <div class="tile">
      <div class="tile-name">{name}</div>
      <div class="tile-value">
        {percent(of.value, sign)}
        <small>%</small>
      </div>
      <div class="tile-note">{interval(of, sign)}</div>
      {note && <div class="tile-note">{note}</div>}
    </div>
  );
}

export function hasFresh(records: { fix_fresh?: Estimate | null; damage_fresh?: Estimate | null }[]): boolean {
  return records.some((record) => (record.fix_fresh?.n ?? 0) > 0 || (record.damage_fresh?.n ?? 0) > 0);
}
