// A word diff of two texts: lines first, then words within the lines that differ.

export interface Piece {
  text: string;
  changed: boolean;
}

/** The most edits that are searched for; texts that differ more are shown as changed throughout. */
const MOST_EDITS = 1200;

export function wordDiff(before: string, after: string): { before: Piece[]; after: Piece[] } {
  const out = { before: [] as Piece[], after: [] as Piece[] };
  for (const hunk of hunks(before.split(/(?<=\n)/), after.split(/(?<=\n)/))) {
    if (hunk.same) {
      add(out.before, hunk.before, false);
      add(out.after, hunk.after, false);
      continue;
    }
    for (const part of merged(hunks(words(hunk.before.join("")), words(hunk.after.join(""))))) {
      add(out.before, part.before, !part.same);
      add(out.after, part.after, !part.same);
    }
  }
  return out;
}

/** Equal parts of at most this many letters between two changes only make the picture restless. */
const SHORT = 3;

function merged(parts: Hunk[]): Hunk[] {
  const found: Hunk[] = [];
  parts.forEach((part, place) => {
    const isBetween = place > 0 && place < parts.length - 1;
    const isShort = part.same && isBetween && part.before.join("").replace(/\s/g, "").length <= SHORT;
    const last = found.at(-1);
    if (last !== undefined && !last.same && (isShort || !part.same)) {
      last.before.push(...part.before);
      last.after.push(...part.after);
    } else {
      found.push({ same: part.same && !isShort, before: [...part.before], after: [...part.after] });
    }
  });
  return found;
}

function words(text: string): string[] {
  return text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];
}

function add(pieces: Piece[], parts: string[], changed: boolean): void {
  if (parts.length === 0) return;
  const text = parts.join("");
  const last = pieces.at(-1);
  if (last !== undefined && last.changed === changed) last.text += text;
  else pieces.push({ text, changed });
}

interface Hunk {
  same: boolean;
  before: string[];
  after: string[];
}

/** Return runs of equal and of different parts, in order. */
function hunks(a: string[], b: string[]): Hunk[] {
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const found: Hunk[] = [];
  if (start > 0) found.push({ same: true, before: a.slice(0, start), after: b.slice(0, start) });
  const [innerA, innerB] = [a.slice(start, a.length - end), b.slice(start, b.length - end)];
  found.push(...myers(innerA, innerB));
  if (end > 0) found.push({ same: true, before: a.slice(a.length - end), after: b.slice(b.length - end) });
  return found;
}

/** Myers (1986): the furthest x on each diagonal, for a rising number of edits; then back along the path. */
function myers(a: string[], b: string[]): Hunk[] {
  const [n, m] = [a.length, b.length];
  if (n === 0 && m === 0) return [];
  if (n === 0 || m === 0) return [{ same: false, before: a, after: b }];
  const most = Math.min(n + m, MOST_EDITS);
  const trace: Int32Array[] = [];
  let front = new Int32Array(2 * most + 3);
  for (let d = 0; d <= most; d++) {
    trace.push(front.slice(most - d, most + d + 3));
    for (let k = -d; k <= d; k += 2) {
      const down = k === -d || (k !== d && at(front, most, k - 1) < at(front, most, k + 1));
      let x = down ? at(front, most, k + 1) : at(front, most, k - 1) + 1;
      while (x < n && x - k < m && a[x] === b[x - k]) x++;
      front[most + 1 + k] = x;
      if (x >= n && x - k >= m) return backtrack(a, b, trace, d);
    }
  }
  return [{ same: false, before: a, after: b }];
}

function at(front: Int32Array, middle: number, k: number): number {
  return front[middle + 1 + k] ?? 0;
}

function backtrack(a: string[], b: string[], trace: Int32Array[], edits: number): Hunk[] {
  let [x, y] = [a.length, b.length];
  const reversed: Hunk[] = [];
  const prepend = (same: boolean, before: string | undefined, after: string | undefined) => {
    let last = reversed.at(-1);
    if (last === undefined || last.same !== same) reversed.push((last = { same, before: [], after: [] }));
    if (before !== undefined) last.before.push(before);
    if (after !== undefined) last.after.push(after);
  };
  for (let d = edits; d >= 0; d--) {
    const front = trace[d]!; // the diagonals from -d - 1 to d + 1
    const furthest = (k: number) => front[k + d + 1] ?? 0;
    const k = x - y;
    const down = k === -d || (k !== d && furthest(k - 1) < furthest(k + 1));
    const before = down ? k + 1 : k - 1;
    const startX = d === 0 ? 0 : furthest(before);
    const startY = d === 0 ? 0 : startX - before;
    while (x > startX && y > startY) prepend(true, a[--x], b[--y]);
    if (d === 0) break;
    if (down) prepend(false, undefined, b[--y]);
    else prepend(false, a[--x], undefined);
  }
  for (const hunk of reversed) {
    hunk.before.reverse();
    hunk.after.reverse();
  }
  return reversed.reverse();
}
