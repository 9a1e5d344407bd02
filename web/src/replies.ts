// The replies of one run: columns of numbers that refer to texts, and filters over them.
import type { RepliesData } from "./types";

export const NONE = -1;

export interface Filter {
  q: string;
  source: string;
  suite: string;
  problem: string;
  strategy: string;
  phase: string;
  update: string;
  transition: string;
  verdict: string;
  min: string;
  max: string;
}

export const NO_FILTER: Filter = {
  q: "",
  source: "",
  suite: "",
  problem: "",
  strategy: "",
  phase: "",
  update: "",
  transition: "",
  verdict: "",
  min: "",
  max: "",
};

export const TRANSITIONS = ["fixed", "damaged", "kept right", "still wrong"] as const;

/** Columns with one of few texts, which a menu can offer. */
const BY_TEXT = ["source", "suite", "problem", "strategy", "phase", "transition"] as const;

export interface Reply {
  phase: string;
  text: string;
  verdict: string;
  extracted: string | null;
  reason: string;
  stop: string | null;
  nTokens: number | null;
  prompt: { role: string; text: string; images: string[] }[];
}

export interface Row {
  id: string;
  source: string;
  suite: string;
  problem: string;
  question: string;
  gold: string;
  strategy: string;
  phase: string;
  update: number | null;
  repeat: number | null;
  transition: string;
  reward: number | null;
  terms: Record<string, number | null>;
  draft: Reply | null;
  final: Reply;
  steps: Reply[];
  images: string[];
}

export class RepliesTable {
  readonly n: number;
  private readonly lowered: string[];
  private readonly numbers = new Map<string, number>();
  private readonly places = new Map<string, number>();
  /** The order in which rows are shown: the newest weights first. */
  private readonly order: Int32Array;

  constructor(readonly data: RepliesData) {
    this.n = data.rows.id.length;
    this.lowered = data.texts.map((text) => text.toLowerCase());
    data.texts.forEach((text, number) => this.numbers.set(text, number));
    data.rows.id.forEach((id, row) => this.places.set(id, row));
    const update = data.rows.update;
    this.order = Int32Array.from({ length: this.n }, (_, row) => row);
    this.order.sort((a, b) => (update[b] ?? 0) - (update[a] ?? 0) || a - b);
  }

  text(number: number | undefined): string {
    return number === undefined || number === NONE ? "" : (this.data.texts[number] ?? "");
  }

  rowOf(id: string): number | undefined {
    return this.places.get(id);
  }

  transition(row: number): string {
    return this.text(this.data.rows.transition[row]);
  }

  verdict(row: number): string {
    return this.text(this.data.replies.verdict[this.data.rows.final[row] ?? NONE]);
  }

  /** Return the rows that pass the filter, in the order in which they are shown. */
  filter(filter: Filter): number[] {
    const { rows, replies } = this.data;
    const tests: ((row: number) => boolean)[] = [];
    for (const name of BY_TEXT) {
      if (filter[name] === "") continue;
      const wanted = this.numbers.get(filter[name]) ?? -2;
      const column = rows[name];
      tests.push((row) => column[row] === wanted);
    }
    if (filter.verdict !== "") {
      const wanted = this.numbers.get(filter.verdict) ?? -2;
      tests.push((row) => replies.verdict[rows.final[row] ?? NONE] === wanted);
    }
    if (filter.update !== "") {
      const wanted = Number(filter.update);
      tests.push((row) => rows.update[row] === wanted);
    }
    if (filter.min !== "" || filter.max !== "") {
      const low = filter.min === "" ? -Infinity : Number(filter.min);
      const high = filter.max === "" ? Infinity : Number(filter.max);
      tests.push((row) => {
        const length = replies.n_tokens[rows.final[row] ?? NONE];
        return length != null && length >= low && length <= high;
      });
    }
    if (filter.q.trim() !== "") tests.push(this.searcher(filter.q.trim().toLowerCase()));
    const found: number[] = [];
    for (const row of this.order) if (tests.every((test) => test(row))) found.push(row);
    return found;
  }

  private searcher(query: string): (row: number) => boolean {
    const { rows, replies } = this.data;
    const has = new Uint8Array(this.lowered.length);
    this.lowered.forEach((text, number) => {
      if (text.includes(query)) has[number] = 1;
    });
    const inReply = (reply: number | undefined) =>
      reply !== undefined &&
      reply !== NONE &&
      (has[replies.text[reply] ?? NONE] || has[replies.extracted[reply] ?? NONE] || has[replies.reason[reply] ?? NONE]);
    return (row) =>
      !!(
        has[rows.problem[row] ?? NONE] ||
        has[rows.question[row] ?? NONE] ||
        has[rows.gold[row] ?? NONE] ||
        rows.id[row] === query ||
        inReply(rows.final[row]) ||
        inReply(rows.draft[row]) ||
        rows.steps[row]?.some(inReply)
      );
  }

  /** Return the texts of a column with their numbers of rows, for a menu. */
  choices(name: (typeof BY_TEXT)[number]): [string, number][] {
    return this.count(this.order, (row) => this.text(this.data.rows[name][row]));
  }

  verdicts(): [string, number][] {
    return this.count(this.order, (row) => this.verdict(row));
  }

  updates(): [string, number][] {
    const found = this.count(this.order, (row) => String(this.data.rows.update[row] ?? ""));
    return found.sort((a, b) => Number(b[0]) - Number(a[0]));
  }

  count(some: Iterable<number>, of: (row: number) => string): [string, number][] {
    const counts = new Map<string, number>();
    for (const row of some) {
      const value = of(row);
      if (value !== "") counts.set(value, (counts.get(value) ?? 0) + 1);
    }
    return [...counts];
  }

  private names(images: number[]): string[] {
    return images.map((number) => this.data.images[number] ?? "");
  }

  nImages(row: number): number {
    return this.data.rows.images[row]?.length ?? 0;
  }

  private reply(number: number): Reply {
    const { replies } = this.data;
    const optional = (text: number | undefined) => (text === undefined || text === NONE ? null : this.text(text));
    return {
      phase: this.text(replies.phase[number]),
      text: this.text(replies.text[number]),
      verdict: this.text(replies.verdict[number]),
      extracted: optional(replies.extracted[number]),
      reason: this.text(replies.reason[number]),
      stop: optional(replies.stop[number]),
      nTokens: replies.n_tokens[number] ?? null,
      prompt: (replies.prompt[number] ?? []).map(([role, text, ...images]) => ({ role, text: this.text(text), images: this.names(images) })),
    };
  }

  row(place: number): Row {
    const { rows } = this.data;
    const draft = rows.draft[place] ?? NONE;
    return {
      id: rows.id[place] ?? "",
      source: this.text(rows.source[place]),
      suite: this.text(rows.suite[place]),
      problem: this.text(rows.problem[place]),
      question: this.text(rows.question[place]),
      gold: this.text(rows.gold[place]),
      strategy: this.text(rows.strategy[place]),
      phase: this.text(rows.phase[place]),
      update: rows.update[place] ?? null,
      repeat: rows.repeat[place] ?? null,
      transition: this.transition(place),
      reward: rows.reward[place] ?? null,
      terms: rows.terms[place] ?? {},
      draft: draft === NONE ? null : this.reply(draft),
      final: this.reply(rows.final[place] ?? NONE),
      steps: (rows.steps[place] ?? []).map((number) => this.reply(number)),
      images: this.names(rows.images[place] ?? []),
    };
  }

  /** Return the place of the next row (or, with step -1, of the one before) where refinement changed the verdict. */
  nextDisagreement(shown: number[], from: number, step: 1 | -1): number | undefined {
    for (let place = from + step; place >= 0 && place < shown.length; place += step) {
      const transition = this.transition(shown[place] ?? NONE);
      if (transition === "fixed" || transition === "damaged") return place;
    }
    return undefined;
  }
}
