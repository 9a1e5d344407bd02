// Right and wrong before -> right and wrong after, as ribbons. A ribbon leads to its transcripts.
import { count } from "./format";
import type { Transitions } from "./types";

const [WIDTH, HEIGHT, BAR, GAP] = [520, 190, 12, 14];
const [LEFT, RIGHT] = [104, WIDTH - 104];

interface Ribbon {
  name: string;
  n: number;
  from: 0 | 1;
  to: 0 | 1;
}

/** The graded pairs of a draft and its refinement; there are none without refinement. */
export function countPairs(of: Transitions): number {
  return of.right_right + of.right_wrong + of.wrong_right + of.wrong_wrong;
}

export function Flow({ of, href }: { of: Transitions; href: (transition: string) => string }) {
  const ribbons: Ribbon[] = [
    { name: "kept right", n: of.right_right, from: 0, to: 0 },
    { name: "damaged", n: of.right_wrong, from: 0, to: 1 },
    { name: "fixed", n: of.wrong_right, from: 1, to: 0 },
    { name: "still wrong", n: of.wrong_wrong, from: 1, to: 1 },
  ];
  const total = countPairs(of);
  if (total === 0) return null;
  const scale = (HEIGHT - GAP) / total;
  const before = [of.right_right + of.right_wrong, of.wrong_right + of.wrong_wrong];
  const after = [of.right_right + of.wrong_right, of.right_wrong + of.wrong_wrong];
  const top = (sizes: number[], side: 0 | 1) => (side === 0 ? 0 : (sizes[0] ?? 0) * scale + GAP);
  const [outY, inY] = [
    [top(before, 0), top(before, 1)],
    [top(after, 0), top(after, 1)],
  ];
  const shapes = ribbons.map((ribbon) => {
    const size = ribbon.n * scale;
    const [y0, y1] = [outY[ribbon.from] ?? 0, inY[ribbon.to] ?? 0];
    outY[ribbon.from] = y0 + size;
    inY[ribbon.to] = y1 + size;
    const middle = (LEFT + RIGHT) / 2;
    const path =
      `M${LEFT + BAR} ${y0}C${middle} ${y0} ${middle} ${y1} ${RIGHT - BAR} ${y1}` +
      `v${size}C${middle} ${y1 + size} ${middle} ${y0 + size} ${LEFT + BAR} ${y0 + size}Z`;
    return { ribbon, path };
  });
  const bars = [
    { x: LEFT, sizes: before, anchor: "end", at: LEFT - 8 },
    { x: RIGHT - BAR, sizes: after, anchor: "start", at: RIGHT + 8 },
  ] as const;
  return (
    <svg class="flow" viewBox={`0 -4 ${WIDTH} ${HEIGHT + 8}`} role="group" aria-label="Verdicts before and after refinement">
      {shapes.map(({ ribbon, path }) => (
        <a href={href(ribbon.name)} class={`ribbon ${ribbon.name.replace(" ", "-")}`}>
          <path d={path}>
            <title>{`${ribbon.name}: ${count(ribbon.n)} of ${count(total)}`}</title>
          </path>
        </a>
      ))}
      {bars.map(({ x, sizes, anchor, at }, place) =>
        ([0, 1] as const).map((side) => {
          const [y, size] = [top([...sizes], side), (sizes[side] ?? 0) * scale];
          const word = side === 0 ? "right" : "wrong";
          const middle = Math.min(Math.max(y + size / 2, 12), HEIGHT - 12); // of the text, which stays in the picture
          return (
            <>
              <rect class={word} x={x} y={y} width={BAR} height={size} />
              <text x={at} y={middle - 2} text-anchor={anchor}>
                {`${word} ${place === 0 ? "before" : "after"}`}
              </text>
              <text class="dim" x={at} y={middle + 13} text-anchor={anchor}>
                {`${count(sizes[side] ?? 0)} (${((100 * (sizes[side] ?? 0)) / total).toFixed(0)}%)`}
              </text>
            </>
          );
        }),
      )}
    </svg>
  );
}

/** The four numbers in words, for those who do not see the picture. */
export function FlowList({ of, href }: { of: Transitions; href: (transition: string) => string }) {
  const rows = [
    ["fixed", "wrong → right", of.wrong_right],
    ["damaged", "right → wrong", of.right_wrong],
    ["kept right", "right → right", of.right_right],
    ["still wrong", "wrong → wrong", of.wrong_wrong],
  ] as const;
  return (
    <ul class="flow-list">
      {rows.map(([name, change, n]) => (
        <li>
          <a href={href(name)}>
            <Glyph transition={name} /> {name}
          </a>
          <span class="dim">{change}</span>
          <b>{count(n)}</b>
        </li>
      ))}
    </ul>
  );
}

const GLYPHS: Record<string, string> = { fixed: "▲", damaged: "▼", "kept right": "✓", "still wrong": "✗" };

export function Glyph({ transition, verdict = "" }: { transition: string; verdict?: string }) {
  const word = transition || verdict || "not graded";
  const shown = GLYPHS[transition] ?? (verdict === "right" ? "✓" : verdict === "wrong" ? "✗" : "·");
  return (
    <span class={`glyph ${word.replace(" ", "-")}`} title={word} aria-label={word}>
      {shown}
    </span>
  );
}
