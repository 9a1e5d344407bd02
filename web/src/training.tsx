// Training runs: headline numbers, alarms and charts. Several runs share the charts.
import { useMemo, useState } from "preact/hooks";

import { Chart, type ChartProps, type Line } from "./chart";
import { Flow, FlowList, countPairs } from "./flow";
import { percent } from "./format";
import { Gain, Rate, Tile, hasFresh } from "./rates";
import { toHash } from "./route";
import { visible } from "./text";
import type { Estimate, HeldOut, TrainingRun } from "./types";

export function Training({ runs }: { runs: TrainingRun[] }) {
  const [smoothing, setSmoothing] = useState(0.8);
  const groups = useMemo(() => chartGroups(runs), [runs]);
  const [only] = runs;
  if (only === undefined) return <p class="empty">No training run is selected.</p>;
  const isNoisy = runs.some((run) => (run.updates["update"]?.length ?? 0) > 16);
  return (
    <>
      {runs.length === 1 && <Headline run={only} />}
      {runs.map((run) => (
        <Alarms run={run} named={runs.length > 1} />
      ))}
      {groups.map(({ name, about, charts, noisy }) => (
        <section>
          <div class="section-head">
            <h2>{name}</h2>
            {about && <p class="dim">{about}</p>}
            {noisy && isNoisy && name === groups.find((group) => group.noisy)?.name && (
              <label class="smoothing">
                smoothing
                <input
                  type="range"
                  min="0"
                  max="0.98"
                  step="0.02"
                  value={smoothing}
                  onInput={(event) => setSmoothing(Number(event.currentTarget.value))}
                />
              </label>
            )}
          </div>
          <div class="charts">
            {charts.map((chart) => (
              <Chart key={chart.title} {...chart} smoothing={smoothing} />
            ))}
          </div>
          {name === HELD_OUT && runs.map((run) => <HeldOutTable run={run} named={runs.length > 1} />)}
        </section>
      ))}
    </>
  );
}

const HELD_OUT = "Held-out problems";

function Headline({ run }: { run: TrainingRun }) {
  const [first, last] = [run.evaluations[0], run.evaluations.at(-1)];
  if (first === undefined || last === undefined) return <p class="lead">{visible(run.trained)}.</p>;
  const since = (name: "solve" | "refined") => {
    const [from, to] = [first[name]?.value, last[name]?.value];
    if (first === last || from == null || to == null) return undefined;
    return `${percent(to - from, true)} since update ${first.update}`;
  };
  const fresh = (estimate: Estimate | undefined) =>
    estimate?.value == null ? undefined : `a fresh answer: ${percent(estimate.value)}`;
  return (
    <>
      <p class="lead">
        After {last.update} updates, on {last.n_problems?.toLocaleString("en") ?? "the"} held-out problems. <span class="dim">{visible(run.trained)}.</span>
      </p>
      <div class="tiles">
        <Tile name="Drafts right" of={last.solve} note={since("solve")} />
        <Tile name="Refined right" of={last.refined} note={since("refined")} />
        <Tile name="Gain from refinement" of={last.gain} sign />
        <Tile name="Fix rate: wrong drafts made right" of={last.fix} note={fresh(last.fix_fresh)} />
        <Tile name="Damage rate: right drafts made wrong" of={last.damage} note={fresh(last.damage_fresh)} />
      </div>
    </>
  );
}

function Alarms({ run, named }: { run: TrainingRun; named: boolean }) {
  if (run.alarms.length === 0) return null;
  return (
    <div class="alarms" role="status">
      <h2>{named ? `Alarms of ${run.name}` : "Alarms"}</h2>
      <ul>
        {run.alarms.map((alarm) => (
          <li>{visible(alarm.text)}</li>
        ))}
      </ul>
    </div>
  );
}

function HeldOutTable({ run, named }: { run: TrainingRun; named: boolean }) {
  const [chosen, choose] = useState<number | null>(null);
  const records = run.evaluations;
  const shown = records.find((record) => record.update === chosen) ?? records.at(-1);
  if (shown === undefined) return null;
  const fresh = hasFresh(records);
  const strategies = [...new Set(records.flatMap((record) => Object.keys(record.strategies ?? {})))];
  const href = (transition: string) =>
    toHash({ view: "transcripts", params: { run: String(run.id), source: "held-out", update: String(shown.update), transition } });
  return (
    <div class="table-and-flow">
      <div class="scroll">
        <table class="numbers">
          <caption>{named && `${run.name}. `}In percent, with 95% intervals over problems. A row shows its flow.</caption>
          <thead>
            <tr>
              <th>update</th>
              <th>drafts</th>
              <th>refined</th>
              <th>gain</th>
              <th>fix rate</th>
              {fresh && <th>fresh</th>}
              <th>damage rate</th>
              {fresh && <th>fresh</th>}
              {strategies.map((name) => (
                <th>{visible(name)}</th>
              ))}
            </tr>
          </thead>
          <tbody>
            {records.map((record) => (
              <tr class={record === shown ? "chosen" : ""} onClick={() => choose(record.update)}>
                <td>
                  <button type="button" class="link" onClick={() => choose(record.update)}>
                    {record.update}
                  </button>
                </td>
                <td><Rate of={record.solve} /></td>
                <td><Rate of={record.refined} /></td>
                <td><Gain of={record.gain} /></td>
                <td><Rate of={record.fix} /></td>
                {fresh && <td><Rate of={record.fix_fresh} /></td>}
                <td><Rate of={record.damage} /></td>
                {fresh && <td><Rate of={record.damage_fresh} /></td>}
                {strategies.map((name) => (
                  <td><Rate of={record.strategies?.[name]} /></td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
        {run.notes.map((note) => (
          <p class="dim">{visible(note)}.</p>
        ))}
      </div>
      {shown.transitions && countPairs(shown.transitions) > 0 && (
        <div class="flow-box">
          <h3>After {shown.update} updates</h3>
          <Flow of={shown.transitions} href={href} />
          <FlowList of={shown.transitions} href={href} />
        </div>
      )}
    </div>
  );
}

// Charts

interface Group {
  name: string;
  about?: string;
  charts: ChartProps[];
  noisy?: boolean;
}

function chartGroups(runs: TrainingRun[]): Group[] {
  const charts = new ChartMaker(runs);
  const groups: Group[] = [
    {
      name: HELD_OUT,
      about: "Bands are 95% intervals. “Fresh” is what another first answer would do in place of the refinement.",
      charts: [
        charts.heldOut("Accuracy", [["drafts", "solve"], ["refined", "refined"]]),
        charts.heldOut("Gain from refinement, in points", [["refined minus drafts", "gain"]]),
        charts.heldOut("Fix rate: wrong drafts made right", [["refinement", "fix"], ["fresh", "fix_fresh"]]),
        charts.heldOut("Damage rate: right drafts made wrong", [["refinement", "damage"], ["fresh", "damage_fresh"]]),
      ],
    },
    {
      name: "Training batches",
      noisy: true,
      charts: [
        charts.updates("reward", "Reward"),
        ...charts.all("reward/", "Reward term: "),
        charts.updates("accuracy", "Accuracy", "percent"),
        charts.updates("fix", "Fix rate in training", "percent"),
        charts.updates("damage", "Damage rate in training", "percent"),
        charts.updates("length_tokens", "Reply length, tokens"),
        charts.updates("truncated_frac", "Replies cut at the token limit", "percent"),
        charts.updates("zero_std_groups_frac", "Groups with equal rewards (zero std)", "percent"),
        charts.updates("n_not_graded", "Replies that were not graded"),
        charts.updates("entropy_nats", "Entropy, nats per token"),
        ...charts.all("method/", "Method: "),
      ],
    },
    {
      name: "Optimizer, and agreement of sampler and trainer",
      noisy: true,
      charts: [
        charts.updates("mismatch/prob_gap", "Gap of token probabilities", "number", 0.01),
        charts.updates("mismatch/kl", "KL, nats per token", "number", 0.001),
        charts.updates("mismatch/exp_log_prob_gap", "Mean of exp |log-prob gap|", "number", 1.05),
        charts.updates("grad_norm", "Gradient norm before clipping"),
        charts.updates("ratio", "Mean importance ratio"),
        charts.updates("clip_high_frac", "Tokens clipped from above", "percent"),
        charts.updates("clip_low_frac", "Tokens clipped from below", "percent"),
        charts.updates("nll_nats", "Negative log-likelihood, nats per token"),
        charts.updates("loss", "Loss"),
        exact(charts.updates("lr", "Learning rate")),
      ],
    },
    { name: "Time", charts: [...charts.time(), charts.speed()], noisy: true },
  ];
  const full = groups.map((group) => ({ ...group, charts: group.charts.filter(hasValues) }));
  return full.filter((group) => group.charts.length > 0);
}

/** A quantity without noise is not smoothed. */
function exact(chart: ChartProps): ChartProps {
  return { ...chart, lines: chart.lines.map((line) => ({ ...line, noisy: false })) };
}

function hasValues(chart: ChartProps): boolean {
  // A count that is 0 throughout, such as that of ungraded replies, needs no chart.
  const skipsZero = chart.title.startsWith("Replies that were not") || chart.title.startsWith("Reward term");
  return chart.lines.some((line) => line.y.some((value) => value != null && !(skipsZero && value === 0)));
}

/** Makes charts of one run with a color per phase, or of several with a color per run. */
class ChartMaker {
  constructor(private readonly runs: TrainingRun[]) {}

  private get several(): boolean {
    return this.runs.length > 1;
  }

  heldOut(title: string, fields: [string, keyof HeldOut & string][]): ChartProps {
    const lines: Line[] = [];
    this.runs.forEach((run) => {
      fields.forEach(([name, field], number) => {
        const estimates = run.evaluations.map((record) => record[field] as Estimate | undefined);
        const isFresh = field.endsWith("_fresh");
        lines.push({
          name: this.several ? `${run.name}, ${name}` : name,
          color: this.several ? run.id : isFresh ? "dim" : number === 0 && fields.length > 1 && field === "solve" ? 4 : 0,
          dash: isFresh || (this.several && field === "solve"),
          x: run.evaluations.map((record) => record.update),
          y: estimates.map((estimate) => estimate?.value ?? null),
          low: this.several ? undefined : estimates.map((estimate) => estimate?.low ?? null),
          high: this.several ? undefined : estimates.map((estimate) => estimate?.high ?? null),
          points: true,
        });
      });
    });
    return { title, lines, unit: "percent" };
  }

  updates(name: string, title: string, unit: "percent" | "number" = "number", limit?: number): ChartProps {
    const lines: Line[] = [];
    for (const run of this.runs) {
      const values = run.updates[name];
      if (values === undefined) continue;
      const phases = run.updates["phase"] ?? [];
      const kinds = [...new Set(phases)];
      kinds.forEach((phase, number) => {
        const line = this.line(run, values, (place) => phases[place] === phase);
        line.name = [this.several && run.name, kinds.length > 1 && String(phase)].filter(Boolean).join(", ") || String(phase);
        line.color = this.several ? run.id : phaseColor(String(phase), number);
        line.dash = this.several && number > 0;
        lines.push(line);
      });
    }
    return { title, lines, unit, limit };
  }

  all(prefix: string, title: string): ChartProps[] {
    const names = new Set(this.runs.flatMap((run) => Object.keys(run.updates)));
    return [...names].filter((name) => name.startsWith(prefix)).map((name) => this.updates(name, title + name.slice(prefix.length)));
  }

  time(): ChartProps[] {
    const stages = [["sample_s", "sampling"], ["grade_s", "grading"], ["update_s", "training"]] as const;
    if (this.several) return stages.map(([name, stage]) => this.updates(name, `Seconds of ${stage} per update`));
    const lines: Line[] = [];
    for (const run of this.runs) {
      stages.forEach(([name, stage], number) => {
        const values = run.updates[name];
        if (values !== undefined) lines.push({ ...this.line(run, values), name: stage, color: number === 1 ? 3 : number });
      });
    }
    return [{ title: "Seconds per update, by stage", lines }];
  }

  speed(): ChartProps {
    const lines: Line[] = [];
    this.runs.forEach((run) => {
      const [tokens, seconds] = [run.updates["n_sampled_tokens"], run.updates["sample_s"]];
      if (tokens === undefined || seconds === undefined) return;
      const speed = tokens.map((n, place) => {
        const s = Number(seconds[place]);
        return n !== null && Number(n) > 0 && s > 0 ? Number(n) / s : null;
      });
      lines.push({ ...this.line(run, speed), name: this.several ? run.name : "tokens per second", color: this.several ? run.id : 0 });
    });
    return { title: "Sampled tokens per second of sampling", lines };
  }

  private line(run: TrainingRun, values: (number | string | null)[], wanted: (place: number) => boolean = () => true): Line {
    const [x, y]: [number[], (number | null)[]] = [[], []];
    (run.updates["update"] ?? []).forEach((update, place) => {
      if (!wanted(place)) return;
      x.push(Number(update));
      const value = values[place];
      y.push(typeof value === "number" ? value : null);
    });
    return { name: "", color: run.id, x, y, noisy: true };
  }
}

/** Drafts and refinements have the colors that they have in the held-out charts. */
function phaseColor(phase: string, number: number): number {
  if (phase === "solve") return 4;
  return phase === "refine" ? 0 : [1, 2, 3, 5, 6, 7][number % 6]!;
}
