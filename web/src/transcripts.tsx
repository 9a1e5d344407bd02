// The transcript browser: filters, a list of replies, and one problem with draft and refinement side by side.
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";

import { wordDiff } from "./diff";
import { Glyph } from "./flow";
import { count, short } from "./format";
import { ImageBadge, TextWithImages, withoutMarks } from "./images";
import { isTaken, isTyping } from "./keys";
import { loadReplies } from "./load";
import { type Filter, NO_FILTER, type RepliesTable, type Reply, type Row, TRANSITIONS } from "./replies";
import { type Route, go, parseHash } from "./route";
import { DiffText, MathText, plainLine, visible } from "./text";
import type { Run } from "./types";

const ROW_HEIGHT = 54;

export function Transcripts({ run, route }: { run: Run; route: Route }) {
  const [table, setTable] = useState<RepliesTable | null>(null);
  const [fault, setFault] = useState("");
  useEffect(() => {
    let isCurrent = true;
    loadReplies(run.id, run.replies_stamp).then(
      (found) => isCurrent && setTable(found),
      (error) => isCurrent && setFault(String(error)),
    );
    return () => {
      isCurrent = false;
    };
  }, [run.id, run.replies_stamp]);
  if (fault !== "") return <p class="empty">The replies cannot be read: {fault}</p>;
  if (table === null) return <p class="empty">Reading the replies …</p>;
  if (table.n === 0) return <p class="empty">There are no replies yet.</p>;
  return <Browser run={run.id} table={table} route={route} />;
}

function Browser({ run, table, route }: { run: number; table: RepliesTable; route: Route }) {
  const filter = useMemo(() => readFilter(route.params), [route]);
  const shown = useMemo(() => table.filter(filter), [table, JSON.stringify(filter)]);
  const id = route.params["id"] ?? "";
  const selected = table.rowOf(id);
  const place = selected === undefined ? -1 : shown.indexOf(selected);
  const search = useRef<HTMLInputElement>(null);

  // From the address, not from `route`: the search field sets it a moment later.
  const set = (changed: Partial<Filter> & { id?: string }) =>
    go({ view: "transcripts", params: { ...parseHash(location.hash).params, ...changed } }, true);
  const select = (at: number | undefined) => {
    const row = at === undefined ? undefined : shown[at];
    if (row !== undefined) set({ id: table.data.rows.id[row] });
  };
  const disagreement = (step: 1 | -1) => select(table.nextDisagreement(shown, place, step));

  useLayoutEffect(() => {
    const press = (event: KeyboardEvent) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape") {
        if (isTyping(event)) (event.target as HTMLElement).blur();
        else if (!isTaken(event)) set({ id: "" });
      }
      if (isTaken(event)) return;
      const actions: Record<string, () => void> = {
        j: () => select(Math.min(place + 1, shown.length - 1)),
        ArrowDown: () => select(Math.min(place + 1, shown.length - 1)),
        k: () => select(Math.max(place - 1, 0)),
        ArrowUp: () => select(Math.max(place - 1, 0)),
        n: () => disagreement(1),
        N: () => disagreement(-1),
        p: () => disagreement(-1),
        "/": () => search.current?.focus(),
      };
      const action = actions[event.key];
      if (action === undefined) return;
      event.preventDefault();
      action();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  });

  const { n_records, n_total, n_images_left_out = 0 } = table.data;
  return (
    <div class={selected === undefined ? "browser" : "browser has-selection"}>
      <Filters table={table} filter={filter} set={set} search={search} />
      <p class="dim shown-count" role="status">
        {count(shown.length)} of {count(table.n)} replies
        {n_records < n_total && `; this page holds ${count(n_records)} of the ${count(n_total)} records of the run`}
        {n_images_left_out > 0 && `; ${count(n_images_left_out)} images are left out, as a page holds only so many`}
        <span class="keys">
          <kbd>j</kbd> <kbd>k</kbd> next, previous · <kbd>n</kbd> <kbd>p</kbd> next, previous disagreement · <kbd>/</kbd> search ·{" "}
          <kbd>d</kbd> view
        </span>
      </p>
      <div class="panes">
        <List table={table} shown={shown} place={place} select={select} />
        {selected === undefined ? (
          <div class="detail empty">Select a reply, or press n for the first one that refinement changed.</div>
        ) : (
          <Detail run={run} row={table.row(selected)} close={() => set({ id: "" })} step={(by) => select(place + by)} jump={disagreement} />
        )}
      </div>
    </div>
  );
}

function readFilter(params: Record<string, string>): Filter {
  const filter = { ...NO_FILTER };
  for (const name of Object.keys(filter) as (keyof Filter)[]) filter[name] = params[name] ?? "";
  return filter;
}

interface FiltersProps {
  table: RepliesTable;
  filter: Filter;
  set: (changed: Partial<Filter>) => void;
  search: { current: HTMLInputElement | null };
}

function Filters({ table, filter, set, search }: FiltersProps) {
  const menus = useMemo(
    () => ({
      source: table.choices("source"),
      suite: table.choices("suite"),
      strategy: table.choices("strategy"),
      phase: table.choices("phase"),
      update: table.updates(),
      verdict: table.verdicts(),
    }),
    [table],
  );
  const problems = useMemo(() => table.choices("problem").map(([name]) => name), [table]);
  const counts = useMemo(() => {
    const others = table.filter({ ...filter, transition: "" });
    return new Map(table.count(others, (row) => table.transition(row)));
  }, [table, JSON.stringify(filter)]);
  const [query, setQuery] = useState(filter.q);
  useEffect(() => {
    const wait = setTimeout(() => set({ q: query }), 120);
    return () => clearTimeout(wait);
  }, [query]);
  const isFiltered = JSON.stringify(filter) !== JSON.stringify(NO_FILTER);
  return (
    <form class="filters" onSubmit={(event) => event.preventDefault()}>
      <div class="chips" role="group" aria-label="What refinement did">
        {TRANSITIONS.filter((name) => counts.has(name) || filter.transition === name).map((name) => (
          <button
            type="button"
            class={`chip ${name.replace(" ", "-")}`}
            aria-pressed={filter.transition === name}
            onClick={() => set({ transition: filter.transition === name ? "" : name })}
          >
            <Glyph transition={name} /> {name} <b>{count(counts.get(name) ?? 0)}</b>
          </button>
        ))}
      </div>
      <input
        ref={search}
        type="search"
        placeholder="Search texts, answers, ids"
        aria-label="Search"
        value={query}
        onInput={(event) => setQuery(event.currentTarget.value)}
      />
      {(Object.keys(menus) as (keyof typeof menus)[]).map((name) => (
        <Menu name={name} choices={menus[name]} value={filter[name]} set={(value) => set({ [name]: value })} />
      ))}
      <input
        class="problem"
        list="problems"
        placeholder="problem"
        aria-label="Problem"
        value={filter.problem}
        onChange={(event) => set({ problem: event.currentTarget.value.trim() })}
      />
      <datalist id="problems">
        {problems.slice(0, 2000).map((name) => (
          <option value={name} />
        ))}
      </datalist>
      <span class="range">
        <Limit name="min" value={filter.min} set={set} />–<Limit name="max" value={filter.max} set={set} /> tokens
      </span>
      {isFiltered && (
        <button type="button" class="link" onClick={() => (setQuery(""), set(NO_FILTER))}>
          clear
        </button>
      )}
    </form>
  );
}

function Limit({ name, value, set }: { name: "min" | "max"; value: string; set: FiltersProps["set"] }) {
  return (
    <input
      type="number"
      min="0"
      placeholder={name}
      aria-label={`${name}. tokens`}
      value={value}
      onInput={(event) => set({ [name]: event.currentTarget.value })}
    />
  );
}

interface MenuProps {
  name: string;
  choices: [string, number][];
  value: string;
  set: (value: string) => void;
}

/** A menu of a column's values. A column with one value needs none. */
function Menu({ name, choices, value, set }: MenuProps) {
  if (choices.length < 2 && value === "") return null;
  return (
    <select aria-label={name} class={value === "" ? "" : "active"} value={value} onChange={(event) => set(event.currentTarget.value)}>
      <option value="">{name}: all</option>
      {choices.map(([choice, n]) => (
        <option value={choice}>
          {name === "update" ? `update ${choice}` : plainLine(choice, 60)} ({count(n)})
        </option>
      ))}
    </select>
  );
}

interface ListProps {
  table: RepliesTable;
  shown: number[];
  place: number;
  select: (place: number) => void;
}

/** Only the rows in view are in the page. */
function List({ table, shown, place, select }: ListProps) {
  const holder = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(600);
  useEffect(() => {
    const element = holder.current;
    if (element === null) return;
    const resized = new ResizeObserver(() => setHeight(element.clientHeight));
    resized.observe(element);
    return () => resized.disconnect();
  }, []);
  useEffect(() => {
    const element = holder.current;
    if (element === null || place < 0) return;
    const y = place * ROW_HEIGHT;
    if (y < element.scrollTop) element.scrollTop = y;
    else if (y + ROW_HEIGHT > element.scrollTop + element.clientHeight) element.scrollTop = y + ROW_HEIGHT - element.clientHeight;
  }, [place, shown]);
  const first = Math.max(0, Math.floor(top / ROW_HEIGHT) - 6);
  const last = Math.min(shown.length, Math.ceil((top + height) / ROW_HEIGHT) + 6);
  const rows = [];
  for (let at = first; at < last; at++) {
    rows.push(<ListRow key={shown[at]} table={table} row={shown[at] ?? 0} at={at} chosen={at === place} select={select} />);
  }
  return (
    <div class="list" ref={holder} onScroll={(event) => setTop(event.currentTarget.scrollTop)}>
      <div class="list-inner" role="listbox" aria-label="Replies" style={{ height: `${shown.length * ROW_HEIGHT}px` }}>
        {rows}
      </div>
      {shown.length === 0 && <p class="empty">No reply passes these filters.</p>}
    </div>
  );
}

interface ListRowProps {
  table: RepliesTable;
  row: number;
  at: number;
  chosen: boolean;
  select: (place: number) => void;
}

function ListRow({ table, row, at, chosen, select }: ListRowProps) {
  const { rows, replies } = table.data;
  const final = rows.final[row] ?? 0;
  const update = rows.update[row];
  const words = [
    table.text(rows.strategy[row]) || table.text(rows.phase[row]),
    update == null ? "" : `update ${update}`,
    replies.n_tokens[final] == null ? "" : `${short(replies.n_tokens[final])} tokens`,
  ];
  return (
    <div
      class={chosen ? "list-row chosen" : "list-row"}
      role="option"
      aria-selected={chosen}
      style={{ top: `${at * ROW_HEIGHT}px`, height: `${ROW_HEIGHT}px` }}
      onClick={() => select(at)}
    >
      <Glyph transition={table.transition(row)} verdict={table.verdict(row)} />
      <span class="list-text">{plainLine(withoutMarks(table.text(rows.question[row]), table.nImages(row)), 140)}</span>
      <span class="list-words">
        <ImageBadge n={table.nImages(row)} />
        {words.filter(Boolean).join(" · ")}
      </span>
    </div>
  );
}

// One reply

type View = "diff" | "math" | "plain";
const VIEWS: Record<View, string> = { diff: "Word diff", math: "Formulas", plain: "Plain text" };

interface DetailProps {
  run: number;
  row: Row;
  close: () => void;
  step: (by: 1 | -1) => void;
  jump: (by: 1 | -1) => void;
}

function Detail({ run, row, close, step, jump }: DetailProps) {
  const [wanted, setView] = useState<View>("diff");
  const [copied, setCopied] = useState(false);
  const holder = useRef<HTMLDivElement>(null);
  const canDiff = row.draft !== null;
  const view = wanted === "diff" && !canDiff ? "math" : wanted;
  const views = (Object.keys(VIEWS) as View[]).filter((name) => canDiff || name !== "diff");
  useEffect(() => {
    holder.current?.scrollTo(0, 0);
    setCopied(false);
  }, [row.id]);
  useLayoutEffect(() => {
    const press = (event: KeyboardEvent) => {
      if (event.key === "d" && !isTaken(event)) setView(views[(views.indexOf(view) + 1) % views.length]!);
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  });
  const diff = useMemo(
    () => (view === "diff" && row.draft ? wordDiff(row.draft.text, row.final.text) : null),
    [row.id, view],
  );
  const copy = () => {
    void navigator.clipboard?.writeText(location.href).then(() => setCopied(true));
  };
  const facts = [
    row.source,
    row.suite,
    row.strategy,
    row.update === null ? "" : `after update ${row.update}`,
    row.repeat === null ? "" : `sample ${row.repeat + 1}`,
  ];
  return (
    <article class="detail" ref={holder} aria-label="Reply">
      <header class="detail-head">
        <button type="button" class="back" onClick={close} aria-label="Back to the list">←</button>
        <div class="detail-title">
          <h2>{visible(row.problem)}</h2>
          <p class="dim">{visible(facts.filter(Boolean).join(" · "))}</p>
        </div>
        {row.transition && (
          <span class={`badge ${row.transition.replace(" ", "-")}`}>
            <Glyph transition={row.transition} /> {row.transition}
          </span>
        )}
        <div class="buttons">
          <button type="button" onClick={() => step(-1)} aria-label="Previous reply">↑</button>
          <button type="button" onClick={() => step(1)} aria-label="Next reply">↓</button>
          <button type="button" onClick={() => jump(1)} title="Next reply that refinement changed (n)">next change</button>
          <button type="button" onClick={copy}>{copied ? "copied" : "copy link"}</button>
        </div>
      </header>
      <div class="problem-box">
        <div class="text question">
          <TextWithImages
            key={row.id}
            run={run}
            text={row.question}
            images={row.images}
            show={(text) => (view === "plain" ? visible(text) : <MathText text={text} />)}
          />
        </div>
        <div class="gold">
          <span class="label">gold answer</span> <code>{visible(row.gold)}</code>
        </div>
      </div>
      <div class="views" role="group" aria-label="View">
        {views.map((name) => (
          <button type="button" aria-pressed={view === name} onClick={() => setView(name)}>
            {VIEWS[name]}
          </button>
        ))}
      </div>
      <div class={row.draft === null ? "replies one" : "replies"}>
        {row.draft !== null && (
          <ReplyBox name="Draft" reply={row.draft} view={view}>
            {diff && <DiffText pieces={diff.before} kind="del" />}
          </ReplyBox>
        )}
        <ReplyBox name={row.draft === null ? phaseName(row) : row.phase === "solve" ? "Kept as it is" : "Refinement"} reply={row.final} view={view}>
          {diff && <DiffText pieces={diff.after} kind="ins" />}
        </ReplyBox>
      </div>
      <Rewards row={row} />
      <More run={run} row={row} view={view} />
    </article>
  );
}

function phaseName(row: Row): string {
  const name = row.strategy && row.strategy !== row.phase ? `${row.phase} (${row.strategy})` : row.phase;
  return name === "solve" ? "Answer" : name;
}

interface ReplyBoxProps {
  name: string;
  reply: Reply;
  view: View;
  children?: preact.ComponentChildren;
}

function ReplyBox({ name, reply, view, children }: ReplyBoxProps) {
  const kind = reply.verdict === "right" || reply.verdict === "wrong" ? reply.verdict : "open";
  const facts = [reply.nTokens === null ? "" : `${short(reply.nTokens)} tokens`, reply.stop === "length" ? "cut at the limit" : ""];
  return (
    <section class={`reply ${kind}`}>
      <header>
        <h3>{visible(name)}</h3>
        <span class={`verdict ${kind}`}>
          <Glyph transition="" verdict={reply.verdict} /> {visible(reply.verdict || "no verdict")}
        </span>
        <span class="dim">{facts.filter(Boolean).join(" · ")}</span>
      </header>
      {(reply.extracted || reply.reason) && (
        <p class="why">
          {reply.extracted && (
            <>
              <span class="label">read as</span> <code>{visible(reply.extracted)}</code>{" "}
            </>
          )}
          {reply.reason && <span>{visible(reply.reason)}</span>}
        </p>
      )}
      <div class="text">
        {view === "diff" ? children : view === "math" ? <MathText text={reply.text} /> : visible(reply.text)}
        {reply.text === "" && <span class="dim">(empty)</span>}
      </div>
    </section>
  );
}

function Rewards({ row }: { row: Row }) {
  const terms = Object.entries(row.terms);
  if (row.reward === null && terms.length === 0) return null;
  return (
    <p class="rewards">
      <span class="label">reward</span> <b>{short(row.reward)}</b>
      {terms.map(([name, value]) => (
        <span>
          {visible(name)} <b>{short(value)}</b>
        </span>
      ))}
    </p>
  );
}

function More({ run, row, view }: { run: number; row: Row; view: View }) {
  return (
    <>
      {row.steps.length > 0 && (
        <details>
          <summary>All {row.steps.length} replies of this attempt</summary>
          {row.steps.map((step) => (
            <ReplyBox name={step.phase} reply={step} view={view === "diff" ? "math" : view} />
          ))}
        </details>
      )}
      {row.final.prompt.length > 0 && (
        <details>
          <summary>What the model was shown</summary>
          {row.final.prompt.map(({ role, text, images }) => (
            <div class="turn">
              <span class="label">{visible(role)}</span>
              <div class="text">
                <TextWithImages key={row.id} run={run} text={text} images={images} show={visible} />
              </div>
            </div>
          ))}
        </details>
      )}
    </>
  );
}
