// The page: reads its data, and shows the view that the address names.
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";

import "uplot/dist/uPlot.min.css";
import "./style.css";

import { Evaluation } from "./evaluation";
import { isTaken } from "./keys";
import { follow, isLive, loadDocument, loadReplies } from "./load";
import { type Route, toHash, useRoute } from "./route";
import { Runs } from "./runs";
import { visible } from "./text";
import { Training } from "./training";
import { Transcripts } from "./transcripts";
import type { PageDocument, Run, TrainingRun } from "./types";

const VIEWS: Record<string, string> = { runs: "Runs", training: "Training", evaluation: "Evaluation", transcripts: "Transcripts", settings: "Settings" };

function App({ first }: { first: PageDocument }) {
  const [page, setPage] = useState(first);
  const [isLost, setLost] = useState(false);
  const [hidden, setHidden] = useState<Set<number>>(new Set());
  const route = useRoute();
  useEffect(() => {
    if (isLive) follow(setPage, setLost);
  }, []);
  const { runs } = page;
  const run = runs.find((one) => String(one.id) === route.params["run"]) ?? (runs.length === 1 ? runs[0] : undefined);
  const trainings = runs.filter((one): one is TrainingRun => one.kind === "training");
  const view = currentView(route, runs, run);
  const inCharts = run?.kind === "training" && route.params["run"] !== undefined ? [run] : trainings.filter((one) => !hidden.has(one.id));
  const choose = (id: number, is: boolean) => {
    const next = new Set(hidden);
    if (is) next.delete(id);
    else next.add(id);
    setHidden(next);
  };
  useKeys(tabs(runs));
  return (
    <>
      <header class="top">
        <a class="brand" href={toHash({ view: runs.length > 1 ? "runs" : "", params: {} })}>rethink</a>
        <h1>{run === undefined ? `${runs.length} runs` : visible(run.name)}</h1>
        {run !== undefined && <State run={run} />}
        {isLive && <span class={isLost ? "live lost" : "live"}>{isLost ? "no answer from rethink view" : "live"}</span>}
        <nav>
          {tabs(runs).map((name) => (
            <a href={toHash({ view: name, params: keepRun(name, run, runs) })} aria-current={view === name ? "page" : undefined}>
              {VIEWS[name]}
            </a>
          ))}
        </nav>
      </header>
      <main class={view}>
        {runs.length > 1 && view !== "runs" && <RunMenu runs={runs} run={run} view={view} />}
        {runs.length === 0 && <p class="empty">No run has begun yet. The page waits for the first record.</p>}
        {view === "runs" && <Runs runs={runs} chosen={new Set(inCharts.map((one) => one.id))} choose={choose} />}
        {view === "training" && <Training runs={inCharts} />}
        {view === "evaluation" && run?.kind === "evaluation" && <Evaluation run={run} />}
        {view === "transcripts" && run !== undefined && <Transcripts key={run.id} run={run} route={route} />}
        {view === "settings" && run !== undefined && <pre class="text settings">{visible(run.settings)}</pre>}
      </main>
    </>
  );
}

/** Return the views that these runs have. */
function tabs(runs: Run[]): string[] {
  if (runs.length === 0) return [];
  const kinds = new Set(runs.map((run) => run.kind));
  return Object.keys(VIEWS).filter((name) => {
    if (name === "runs") return runs.length > 1;
    return (name !== "training" && name !== "evaluation") || kinds.has(name);
  });
}

function currentView(route: Route, runs: Run[], run: Run | undefined): string {
  const usual = runs.length === 1 ? runs[0]!.kind : "runs";
  if (!(route.view in VIEWS)) return usual;
  if (run === undefined && route.view !== "training") return "runs";
  return route.view;
}

/** A tab of one run keeps it; views of one run fall back to the first that has them. */
function keepRun(view: string, run: Run | undefined, runs: Run[]): Record<string, string> {
  if (runs.length < 2 || view === "runs" || (view === "training" && run?.kind !== "training")) return {};
  const fits = (one: Run) => (view !== "training" && view !== "evaluation") || one.kind === view;
  const kept = run !== undefined && fits(run) ? run : runs.find(fits);
  return kept === undefined ? {} : { run: String(kept.id) };
}

function RunMenu({ runs, run, view }: { runs: Run[]; run: Run | undefined; view: string }) {
  const fitting = runs.filter((one) => (view !== "training" && view !== "evaluation") || one.kind === view);
  return (
    <label class="run-menu">
      run{" "}
      <select
        value={run === undefined ? "" : String(run.id)}
        onChange={(event) => (location.hash = toHash({ view, params: { run: event.currentTarget.value } }))}
      >
        {view === "training" && <option value="">all ticked runs</option>}
        {fitting.map((one) => (
          <option value={String(one.id)}>{one.name}</option>
        ))}
      </select>
    </label>
  );
}

function State({ run }: { run: Run }) {
  if (run.kind === "evaluation") return <span class="state">{run.is_complete ? "evaluation" : "evaluation, not complete"}</span>;
  const method = run.method === null ? "" : `${run.method}, `;
  const of = run.n_wanted === null ? "" : ` of ${run.n_wanted}`;
  return <span class="state">{`${method}${run.n_updates}${of} updates`}</span>;
}

/** 1, 2, ... open the tabs. */
function useKeys(names: string[]): void {
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (isTaken(event)) return;
      const link = document.querySelectorAll<HTMLAnchorElement>("nav a")[Number(event.key) - 1];
      if (/^[1-9]$/.test(event.key)) link?.click();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, [names.length]);
}

async function start(): Promise<void> {
  const root = document.getElementById("page");
  if (root === null) return;
  try {
    const page = await loadDocument();
    render(<App first={page} />, root);
    // Once the numbers are on the screen, so that the transcripts open at once.
    if (page.runs.length === 1) setTimeout(() => void loadReplies(0, page.runs[0]!.replies_stamp), 50);
  } catch (error) {
    root.textContent = `This page cannot be shown: ${error}`;
  }
}

void start();
