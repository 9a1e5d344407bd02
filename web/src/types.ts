// The document that the Python side writes (src/rethink/report/document.py, docs/page.md).

export const SCHEMA = 1;

export interface Estimate {
  value: number | null;
  low: number | null;
  high: number | null;
  n: number;
  at_least?: number | null;
  at_most?: number | null;
}

export interface Difference extends Estimate {
  p: number | null;
}

export interface Transitions {
  right_right: number;
  right_wrong: number;
  wrong_right: number;
  wrong_wrong: number;
}

export interface HeldOut {
  update: number;
  solve: Estimate;
  refined: Estimate;
  gain?: Difference;
  fix: Estimate;
  damage: Estimate;
  fix_fresh?: Estimate;
  damage_fresh?: Estimate;
  transitions?: Transitions;
  n_problems?: number;
  n_not_graded?: number;
  strategies?: Record<string, Estimate>;
  [name: string]: unknown;
}

export type Columns = Record<string, (number | string | null)[]>;

interface Common {
  id: number;
  name: string;
  settings: string;
  model: string | null;
  notes: string[];
  replies_stamp: string;
}

export interface TrainingRun extends Common {
  kind: "training";
  method: string | null;
  n_updates: number;
  n_wanted: number | null;
  trained: string;
  alarms: { kind: string; text: string; updates: number[] }[];
  updates: Columns;
  evaluations: HeldOut[];
}

export interface ReplyStats {
  accuracy: Estimate;
  pass_at_k: Record<string, Estimate>;
  truncated: Estimate;
  no_answer: Estimate;
  tokens: Estimate;
}

export interface Summary {
  strategy: string;
  accuracy: Estimate;
  pass_at_k: Record<string, Estimate>;
  solve: ReplyStats;
  refined: ReplyStats | null;
  gain: Difference | null;
  fix: Estimate | null;
  damage: Estimate | null;
  fix_fresh: Estimate | null;
  damage_fresh: Estimate | null;
  transitions: Transitions | null;
  cost: {
    tokens: Estimate;
    depth: Estimate;
    baseline: string;
    n_baseline: number | null;
    baseline_is_cheaper: boolean;
    gain: Difference | null;
  };
  n_problems: number;
  n_replies: number;
  n_not_graded: number;
}

export interface Suite {
  strategies: Record<string, Summary>;
  baselines: Record<string, Summary>;
}

export interface EvaluationRun extends Common {
  kind: "evaluation";
  is_complete: boolean;
  suites: Record<string, Suite>;
  seconds: number | null;
}

export type Run = TrainingRun | EvaluationRun;

export interface PageDocument {
  schema: number;
  rethink: string;
  runs: Run[];
}

export interface RepliesData {
  n_records: number;
  n_total: number;
  n_images_left_out?: number;
  texts: string[];
  images: string[];
  replies: {
    phase: number[];
    text: number[];
    verdict: number[];
    extracted: number[];
    reason: number[];
    stop: number[];
    n_tokens: (number | null)[];
    /** Role, text, and the images. */
    prompt: [string, number, ...number[]][][];
  };
  rows: {
    id: string[];
    source: number[];
    suite: number[];
    problem: number[];
    question: number[];
    gold: number[];
    strategy: number[];
    phase: number[];
    update: (number | null)[];
    repeat: (number | null)[];
    draft: number[];
    final: number[];
    transition: number[];
    reward: (number | null)[];
    terms: (Record<string, number | null> | null)[];
    steps: (number[] | null)[];
    images: (number[] | null)[];
  };
}
