// Evaluations: a table of strategies by suite, what refinement changed, pass@k, and accuracy by tokens spent.
import { Chart } from "./chart";
import { Flow, FlowList } from "./flow";
import { count, short } from "./format";
import { Gain, Rate, hasFresh } from "./rates";
import { toHash } from "./route";
import { Scatter, type ScatterPoint } from "./scatter";
import { visible } from "./text";
import type { Estimate, EvaluationRun, Suite, Summary } from "./types";

export function Evaluation({ run }: { run: EvaluationRun }) {
  return (
    <>
      <p class="lead">
        {visible(run.model ?? "")}
        {!run.is_complete && <span class="dim"> The evaluation is not complete: these are the answers so far.</span>}
      </p>
      {Object.entries(run.suites).map(([name, suite]) => (
        <SuiteSection run={run} name={name} suite={suite} />
      ))}
      {run.notes.map((note) => (
        <p class="dim">{visible(note)}.</p>
      ))}
    </>
  );
}

function SuiteSection({ run, name, suite }: { run: EvaluationRun; name: string; suite: Suite }) {
  const rows = Object.values(suite.strategies);
  const baselines = Object.values(suite.baselines);
  const all = [...rows, ...baselines];
  const flows = rows.filter((row) => row.transitions !== null);
  const href = (row: Summary) => (transition: string) =>
    toHash({ view: "transcripts", params: { run: String(run.id), suite: name, strategy: row.strategy, transition } });
  const accuracy = all.map((row, place) => point(row, row.accuracy, place >= rows.length));
  const gains = rows.filter((row) => row.cost.gain !== null).map((row) => point(row, row.cost.gain, false));
  return (
    <section>
      <div class="section-head">
        <h2>{visible(name)}</h2>
        <p class="dim">{count(all[0]?.n_problems ?? 0)} problems. In percent, with 95% intervals over problems.</p>
      </div>
      <Table rows={rows} baselines={baselines} />
      {flows.length > 0 && (
        <>
          <h3>What refinement changed</h3>
          <div class="charts flows">
            {flows.map((row) => (
              <div class="flow-box">
                <h4>{visible(row.strategy)}</h4>
                <Flow of={row.transitions!} href={href(row)} />
                <FlowList of={row.transitions!} href={href(row)} />
              </div>
            ))}
          </div>
        </>
      )}
      <div class="charts">
        {rows.map((row) => (
          <PassAtK row={row} />
        ))}
        <Scatter title="Accuracy by sampled tokens per problem" points={accuracy} />
        <Scatter title="Gain over a baseline of equal cost, in points" points={gains} zero />
      </div>
    </section>
  );
}

function point(row: Summary, estimate: Estimate | null, isBaseline: boolean): ScatterPoint {
  return { name: row.strategy, x: row.cost.tokens.value, estimate, isBaseline };
}

function Table({ rows, baselines }: { rows: Summary[]; baselines: Summary[] }) {
  const fresh = hasFresh(rows);
  const revises = rows.some((row) => row.refined !== null);
  const equalCost = rows.some((row) => row.cost.gain !== null);
  const ungraded = rows.some((row) => row.n_not_graded > 0);
  return (
    <div class="scroll">
      <table class="numbers">
        <thead>
          <tr>
            <th>strategy</th>
            <th>accuracy</th>
            {revises && <th>drafts</th>}
            {revises && <th>gain</th>}
            {revises && <th>fix rate</th>}
            {fresh && <th>fresh</th>}
            {revises && <th>damage rate</th>}
            {fresh && <th>fresh</th>}
            <th>tokens</th>
            <th>calls</th>
            {equalCost && <th>gain at equal cost</th>}
            {equalCost && <th>over</th>}
            {ungraded && <th>not graded</th>}
          </tr>
        </thead>
        <tbody>
          {[...rows, ...baselines].map((row, place) => (
            <tr class={place >= rows.length ? "baseline" : ""}>
              <td>
                {visible(row.strategy)}
                {place >= rows.length && <span class="dim"> (baseline)</span>}
              </td>
              <td><Rate of={row.accuracy} /></td>
              {revises && <td>{row.refined && <Rate of={row.solve.accuracy} />}</td>}
              {revises && <td>{row.refined && <Gain of={row.gain} />}</td>}
              {revises && <td>{row.refined && <Rate of={row.fix} />}</td>}
              {fresh && <td>{row.refined && <Rate of={row.fix_fresh} />}</td>}
              {revises && <td>{row.refined && <Rate of={row.damage} />}</td>}
              {fresh && <td>{row.refined && <Rate of={row.damage_fresh} />}</td>}
              <td>{short(row.cost.tokens.value)}</td>
              <td>{short(row.cost.depth.value)}</td>
              {equalCost && <td>{row.cost.gain && <Gain of={row.cost.gain} />}</td>}
              {equalCost && <td>{baselineName(row)}</td>}
              {ungraded && <td>{row.n_not_graded > 0 && `${count(row.n_not_graded)} of ${count(row.n_replies)}`}</td>}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function baselineName({ cost }: Summary): string {
  if (cost.n_baseline === null) return "";
  const name = cost.baseline === "tries" ? `${short(cost.n_baseline)} tries` : `vote of ${short(cost.n_baseline)}`;
  return cost.baseline_is_cheaper ? `${name} (cheaper)` : name;
}

/** pass@k of first answers and of refinements; a single k makes no line. */
function PassAtK({ row }: { row: Summary }) {
  if (row.refined === null || Object.keys(row.pass_at_k).length < 2) return null;
  const line = (name: string, color: number, found: Record<string, Estimate>) => {
    const estimates = Object.values(found);
    return {
      name,
      color,
      x: Object.keys(found).map(Number),
      y: estimates.map((estimate) => estimate.value),
      low: estimates.map((estimate) => estimate.low),
      high: estimates.map((estimate) => estimate.high),
      points: true,
    };
  };
  const lines = [line("drafts", 4, row.solve.pass_at_k), line("refined", 0, row.pass_at_k)];
  return <Chart title={`pass@k, ${row.strategy}`} lines={lines} unit="percent" xName="k =" />;
}
