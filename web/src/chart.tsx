// A line chart over updates: lines with optional intervals, values at the pointer, and zoom by dragging.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";

import { percent, short } from "./format";

export interface Line {
  name: string;
  /** The number of a color in the palette, or "dim". */
  color: number | "dim";
  x: number[];
  y: (number | null)[];
  low?: (number | null)[];
  high?: (number | null)[];
  dash?: boolean;
  points?: boolean;
  /** Whether the line is noisy and may be smoothed. */
  noisy?: boolean;
}

export interface ChartProps {
  title: string;
  about?: string;
  lines: Line[];
  unit?: "percent" | "number";
  /** What stands before a value of x. */
  xName?: string;
  /** A value above which there is an alarm. */
  limit?: number;
  smoothing?: number;
}

const HEIGHT = 190;

function css(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function colorOf(color: Line["color"]): string {
  return css(color === "dim" ? "--dim" : `--series-${color % 8}`);
}

/** An exponential moving average without the pull of its start; gaps stay gaps. */
export function smooth(values: (number | null)[], weight: number): (number | null)[] {
  let [sum, norm] = [0, 0];
  return values.map((value) => {
    if (value == null) return null;
    sum = weight * sum + (1 - weight) * value;
    norm = weight * norm + (1 - weight);
    return sum / norm;
  });
}

/** Redraw when the system switches between light and dark. */
function useScheme(): boolean {
  const query = matchMedia("(prefers-color-scheme: dark)");
  const [dark, setDark] = useState(query.matches);
  useEffect(() => {
    const change = () => setDark(query.matches);
    query.addEventListener("change", change);
    return () => query.removeEventListener("change", change);
  }, []);
  return dark;
}

interface Built {
  options: Omit<uPlot.Options, "width" | "height">;
  data: uPlot.AlignedData;
  /** The place in `data` of the value that the legend shows, by line. */
  shown: number[];
}

function build(props: ChartProps): Built {
  const format = props.unit === "percent" ? (value: number) => percent(value) : short;
  const tables: uPlot.AlignedData[] = [];
  const series: uPlot.Series[] = [{}];
  const bands: uPlot.Band[] = [];
  const shown: number[] = [];
  for (const line of props.lines) {
    const stroke = colorOf(line.color);
    const columns: (number | null)[][] = [line.x, line.y];
    const smoothed = line.noisy && props.smoothing && line.y.length > 8;
    const main = { stroke, width: 1.75, spanGaps: true, dash: line.dash ? [5, 4] : undefined };
    const dots = { show: line.points ?? line.y.length < 2, size: 6, fill: stroke };
    if (smoothed) {
      series.push({ stroke, width: 1, alpha: 0.28, spanGaps: true, points: { show: false } });
      columns.push(smooth(line.y, props.smoothing ?? 0));
    }
    series.push({ ...main, points: dots });
    shown.push(series.length - 1);
    if (line.low && line.high) {
      columns.push(line.high, line.low);
      const edge = { stroke: "transparent", width: 0, spanGaps: true, points: { show: false } };
      series.push(edge, { ...edge });
      bands.push({ series: [series.length - 2, series.length - 1], fill: `${stroke}2e` });
    }
    tables.push(columns as uPlot.AlignedData);
  }
  const data = tables.length === 1 ? tables[0]! : uPlot.join(tables);
  const axis: uPlot.Axis = {
    stroke: css("--dim"),
    grid: { stroke: css("--grid"), width: 1 },
    ticks: { show: false },
    font: "11px system-ui, sans-serif",
  };
  const values = (_: uPlot, ticks: number[]) => tickLabels(ticks.map((tick) => (props.unit === "percent" ? 100 * tick : tick)));
  return {
    shown,
    data,
    options: {
      series,
      bands,
      legend: { show: false },
      cursor: { sync: { key: "updates", setSeries: false }, points: { size: 7 }, drag: { x: true, y: false }, y: false },
      scales: { x: { time: false }, y: { range: (_u, low, high) => span(low, high, props) } },
      axes: [
        { ...axis, size: 30, space: 60, values: (_u, ticks) => ticks.map((t) => (Number.isInteger(t) ? short(t) : "")) },
        { ...axis, size: 48, space: 34, values },
      ],
      hooks: props.limit === undefined ? {} : { draw: [(u) => drawLimit(u, props.limit ?? 0)] },
      padding: [8, 12, 0, 0],
    },
  };

  function span(low: number | null, high: number | null, { unit, limit }: ChartProps): [number, number] {
    let [from, to] = [low ?? 0, high ?? 1];
    if (from >= 0 && from < 0.5 * to) from = 0;
    if (limit !== undefined && to > 0.3 * limit) to = Math.max(to, limit * 1.05);
    if (to <= from) to = from + (from === 0 ? 1 : Math.abs(from) * 0.1);
    const margin = 0.06 * (to - from);
    const top = unit === "percent" && high !== null && high <= 1 ? Math.min(1, to + margin) : to + margin;
    return [from === 0 ? 0 : from - margin, top];
  }

  function drawLimit(u: uPlot, limit: number): void {
    const y = u.valToPos(limit, "y", true);
    if (y < u.bbox.top || y > u.bbox.top + u.bbox.height) return;
    const { ctx } = u;
    ctx.save();
    ctx.strokeStyle = css("--wrong");
    ctx.setLineDash([3, 3]);
    ctx.beginPath();
    ctx.moveTo(u.bbox.left, y);
    ctx.lineTo(u.bbox.left + u.bbox.width, y);
    ctx.stroke();
    ctx.fillStyle = css("--wrong");
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.textAlign = "right";
    ctx.fillText(`alarm above ${format(limit)}`, u.bbox.left + u.bbox.width - 4, y - 6 * devicePixelRatio);
    ctx.restore();
  }
}

/** Return labels with as many digits as it takes to tell them apart. */
function tickLabels(ticks: number[]): string[] {
  const step = ticks.length > 1 ? Math.abs(ticks[1]! - ticks[0]!) : Math.abs(ticks[0] ?? 1);
  const largest = Math.max(...ticks.map(Math.abs));
  if (step < 1e-5 || largest >= 1e6) return ticks.map((tick) => (tick === 0 ? "0" : tick.toExponential(1).replaceAll("-", "−")));
  const digits = Math.min(7, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
  return ticks.map((tick) => tick.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace("-", "−"));
}

/** Return the place of the value that is nearest to a place and not missing. */
function nearest(values: ArrayLike<number | null | undefined>, place: number): number | null {
  for (let away = 0; away < values.length; away++) {
    for (const at of [place - away, place + away]) if (values[at] != null) return at;
  }
  return null;
}

export function Chart(props: ChartProps) {
  const lines = props.lines.filter((line) => line.y.some((value) => value != null));
  if (lines.length === 0) return null;
  return <Drawn {...props} lines={lines} />;
}

function Drawn(props: ChartProps) {
  const holder = useRef<HTMLDivElement>(null);
  const values = useRef<(HTMLElement | null)[]>([]);
  const place = useRef<HTMLElement>(null);
  const dark = useScheme();
  const format = props.unit === "percent" ? (value: number) => percent(value) : short;

  useLayoutEffect(() => {
    const element = holder.current;
    if (element === null) return;
    const built = build(props);
    const show = (u: uPlot) => {
      const hovered = u.cursor.idx;
      const x = hovered == null ? undefined : built.data[0][hovered];
      if (place.current) place.current.textContent = x === undefined ? "" : `${props.xName ?? "update"} ${x}`;
      built.shown.forEach((column, number) => {
        const element = values.current[number];
        if (!element) return;
        const found = built.data[column] ?? [];
        const at = nearest(found, hovered ?? found.length - 1);
        element.textContent = at === null ? "" : format(found[at] ?? 0);
      });
    };
    const options = { ...built.options, hooks: { ...built.options.hooks, setCursor: [show] } };
    const plot = new uPlot({ ...options, width: element.clientWidth || 320, height: HEIGHT }, built.data, element);
    show(plot);
    const resized = new ResizeObserver(() => {
      if (element.clientWidth > 0) plot.setSize({ width: element.clientWidth, height: HEIGHT });
    });
    resized.observe(element);
    return () => {
      resized.disconnect();
      plot.destroy();
    };
  }, [props.lines, props.smoothing, dark]);

  return (
    <figure class="chart">
      <figcaption>
        <span class="chart-title">{props.title}</span>
        <span class="chart-place" ref={place} />
        {props.about && <span class="chart-about">{props.about}</span>}
      </figcaption>
      <div class="legend">
        {props.lines.map((line, number) => (
          <span class="legend-item">
            <i class={line.dash ? "swatch dashed" : "swatch"} style={`--swatch: ${colorOf(line.color)}`} />
            {line.name} <b ref={(element: HTMLElement | null) => void (values.current[number] = element)} />
          </span>
        ))}
      </div>
      <div ref={holder} class="plot" role="img" aria-label={`${props.title}: ${props.lines.map((l) => l.name).join(", ")}`} />
    </figure>
  );
}
