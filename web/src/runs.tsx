// Many runs: a table that can be sorted, and compared with one of its rows. Ticked runs share the charts.
import { useState } from "preact/hooks";

import { percent, short } from "./format";
import { Rate } from "./rates";
import { toHash } from "./route";
import { visible } from "./text";
import type { Estimate, Run } from "./types";

interface Entry {
  run: Run;
  name: string;
  what: string;
  updates: number | null;
  tokens: number | null;
  rates: Record<string, Estimate | null | undefined>;
}

const RATES = { solve: "drafts", refined: "refined", gain: "gain", fix: "fix rate", fix_fresh: "fresh", damage: "damage rate", damage_fresh: "fresh" };

function entriesOf(run: Run): Entry[] {
  if (run.kind === "training") {
    const last = run.evaluations.at(-1);
    const rates = last === undefined ? {} : { solve: last.solve, refined: last.refined, gain: last.gain, fix: last.fix, fix_fresh: last.fix_fresh, damage: last.damage, damage_fresh: last.damage_fresh };
    const tokens = Number(last?.["solve_tokens"] ?? NaN) + Number(last?.["refine_tokens"] ?? 0);
    return [{ run, name: run.name, what: run.method ?? "", updates: run.n_updates, tokens: Number.isFinite(tokens) ? tokens : null, rates }];
  }
  return Object.entries(run.suites).flatMap(([suite, found]) =>
    Object.values(found.strategies).map((row) => ({
      run,
      name: run.name,
      what: `${suite}, ${row.strategy}`,
      updates: null,
      tokens: row.cost.tokens.value,
      rates: { solve: row.solve.accuracy, refined: row.accuracy, gain: row.gain, fix: row.fix, fix_fresh: row.fix_fresh, damage: row.damage, damage_fresh: row.damage_fresh },
    })),
  );
}

interface RunsProps {
  runs: Run[];
  chosen: Set<number>;
  choose: (run: number, is: boolean) => void;
}

export function Runs({ runs, chosen, choose }: RunsProps) {
  const [sortBy, setSort] = useState("refined");
  const [rising, setRising] = useState(false);
  const [base, setBase] = useState<string | null>(null);
  const entries = runs.flatMap(entriesOf).map((entry, number) => ({ ...entry, key: `${entry.run.id}/${entry.what}`, number }));
  const value = (entry: (typeof entries)[number]): number | string => {
    if (sortBy === "name") return entry.name;
    if (sortBy === "what") return entry.what;
    const found = sortBy === "updates" || sortBy === "tokens" ? entry[sortBy] : entry.rates[sortBy]?.value;
    return found ?? -Infinity;
  };
  entries.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    const order = x < y ? -1 : x > y ? 1 : 0;
    return (rising ? order : -order) || a.number - b.number;
  });
  const compared = entries.find((entry) => entry.key === base);
  const head = (name: string, title: string) => (
    <th aria-sort={sortBy === name ? (rising ? "ascending" : "descending") : undefined}>
      <button type="button" class="link" onClick={() => (sortBy === name ? setRising(!rising) : (setSort(name), setRising(name === "name")))}>
        {title}
        {sortBy === name ? (rising ? " ↑" : " ↓") : ""}
      </button>
    </th>
  );
  return (
    <section>
      <div class="section-head">
        <h2>Runs</h2>
        <p class="dim">
          In percent, with 95% intervals; the last evaluation of a training run. Ticked runs share the charts.
          {compared && " Differences are not paired: rethink compare gives their intervals."}
        </p>
      </div>
      <div class="scroll">
        <table class="numbers runs">
          <thead>
            <tr>
              <th aria-label="in the charts" />
              {head("name", "run")}
              {head("what", "method or strategy")}
              {head("updates", "updates")}
              {Object.entries(RATES).map(([name, title]) => head(name, title))}
              {head("tokens", "tokens")}
              <th />
            </tr>
          </thead>
          <tbody>
            {entries.map((entry) => (
              <tr key={entry.key} class={entry.key === base ? "chosen" : ""}>
                <td>
                  {entry.run.kind === "training" && (
                    <input
                      type="checkbox"
                      aria-label={`${entry.name} in the charts`}
                      checked={chosen.has(entry.run.id)}
                      style={`accent-color: var(--series-${entry.run.id % 8})`}
                      onChange={(event) => choose(entry.run.id, event.currentTarget.checked)}
                    />
                  )}
                </td>
                <td>
                  <i class="swatch" style={`--swatch: var(--series-${entry.run.id % 8})`} />
                  <a href={toHash({ view: entry.run.kind, params: { run: String(entry.run.id) } })}>{visible(entry.name)}</a>
                </td>
                <td class="words">{visible(entry.what)}</td>
                <td>{entry.updates ?? ""}</td>
                {Object.keys(RATES).map((name) => (
                  <td>
                    <Rate of={entry.rates[name]} sign={name === "gain"} />
                    <Delta of={entry.rates[name]} to={entry === compared ? undefined : compared?.rates[name]} />
                  </td>
                ))}
                <td>{short(entry.tokens)}</td>
                <td>
                  <button type="button" class="link" onClick={() => setBase(entry.key === base ? null : entry.key)}>
                    {entry.key === base ? "stop comparing" : "compare"}
                  </button>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function Delta({ of, to }: { of: Estimate | null | undefined; to: Estimate | null | undefined }) {
  if (of?.value == null || to?.value == null) return null;
  return <div class="dim delta">{percent(of.value - to.value, true)}</div>;
}
