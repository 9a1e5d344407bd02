// Points with whiskers over a logarithmic axis of tokens: what a strategy costs, and what it gains.
import { interval, percent, short } from "./format";
import type { Estimate } from "./types";

export interface ScatterPoint {
  name: string;
  x: number | null;
  estimate: Estimate | null;
  isBaseline: boolean;
}

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [520, 260, 44, 16, 14, 34];

export function Scatter({ title, points, zero = false }: { title: string; points: ScatterPoint[]; zero?: boolean }) {
  const known = points.flatMap(({ name, x, estimate, isBaseline }) =>
    x !== null && x > 0 && estimate?.value != null
      ? [{ name, x, y: estimate.value, low: estimate.low ?? estimate.value, high: estimate.high ?? estimate.value, estimate, isBaseline }]
      : [],
  );
  if (known.length < 2) return null;
  const [lowX, highX] = [Math.min(...known.map((p) => p.x)) / 1.25, Math.max(...known.map((p) => p.x)) * 1.6];
  let [lowY, highY] = [Math.min(...known.map((p) => p.low)), Math.max(...known.map((p) => p.high))];
  if (zero) [lowY, highY] = [Math.min(lowY, 0), Math.max(highY, 0)];
  const margin = 0.05 * (highY - lowY || 1);
  [lowY, highY] = [lowY - margin, highY + margin];
  const px = (x: number) => LEFT + (Math.log(x / lowX) / Math.log(highX / lowX)) * (WIDTH - LEFT - RIGHT);
  const py = (y: number) => HEIGHT - BOTTOM - ((y - lowY) / (highY - lowY)) * (HEIGHT - TOP - BOTTOM);
  const labels = place(known.map((p) => ({ x: px(p.x), y: py(p.y), name: p.name })));
  return (
    <figure class="chart">
      <figcaption>
        <span class="chart-title">{title}</span>
      </figcaption>
      <svg class="scatter" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={title}>
        {ticks(lowY, highY).map((y) => (
          <g>
            <line class="grid" x1={LEFT} x2={WIDTH - RIGHT} y1={py(y)} y2={py(y)} />
            <text class="dim" x={LEFT - 6} y={py(y) + 4} text-anchor="end">
              {Number((100 * y).toPrecision(3))}
            </text>
          </g>
        ))}
        {logTicks(lowX, highX).map((x) => (
          <text class="dim" x={px(x)} y={HEIGHT - 18} text-anchor="middle">
            {short(x)}
          </text>
        ))}
        <text class="dim" x={(LEFT + WIDTH - RIGHT) / 2} y={HEIGHT - 3} text-anchor="middle">
          sampled tokens per problem
        </text>
        {zero && <line class="axis" x1={LEFT} x2={WIDTH - RIGHT} y1={py(0)} y2={py(0)} />}
        {known.map((p, number) => (
          <g class={p.isBaseline ? "point baseline" : "point"}>
            <title>{`${p.name}: ${percent(p.y, zero)} ${interval(p.estimate, zero)} at ${short(p.x)} tokens`}</title>
            <line x1={px(p.x)} x2={px(p.x)} y1={py(p.low)} y2={py(p.high)} />
            <circle cx={px(p.x)} cy={py(p.y)} r="4.5" />
            <text x={px(p.x) + 8} y={labels[number]}>
              {p.name}
            </text>
          </g>
        ))}
      </svg>
    </figure>
  );
}

/** Return the heights of labels, moved apart where they would overlap. */
function place(points: { x: number; y: number; name: string }[]): number[] {
  const found = points.map((point) => point.y + 4);
  const order = points.map((_, number) => number).sort((a, b) => points[a]!.y - points[b]!.y);
  const done: number[] = [];
  for (const number of order) {
    const own = points[number]!;
    for (const other of done) {
      const near = points[other]!;
      const overlaps = Math.abs(own.x - near.x) < 8 + 6.2 * Math.max(own.name.length, near.name.length);
      if (overlaps && found[number]! - found[other]! < 13) found[number] = found[other]! + 13;
    }
    done.push(number);
  }
  return found;
}

function ticks(low: number, high: number): number[] {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough) ?? rough;
  const found: number[] = [];
  for (let y = Math.ceil(low / step) * step; y <= high; y += step) found.push(Math.abs(y) < step / 1e6 ? 0 : y);
  return found;
}

function logTicks(low: number, high: number): number[] {
  const found: number[] = [];
  for (let power = 10 ** Math.floor(Math.log10(low)); power <= high; power *= 10) {
    for (const n of high / low > 30 ? [1, 3] : [1, 2, 5]) {
      if (n * power >= low && n * power <= high) found.push(n * power);
    }
  }
  return found;
}
