// Texts of models: shown as text alone. Control characters and marks that reorder a line appear as escapes.
import temml from "temml";
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";

import type { Piece } from "./diff";

// The ranges of src/rethink/printable.py.
const HIDDEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu;

function escape(letter: string): string {
  const code = letter.codePointAt(0) ?? 0;
  if (code < 0x100) return `\\x${code.toString(16).padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${code.toString(16).padStart(4, "0")}` : `\\U${code.toString(16).padStart(8, "0")}`;
}

/** Return the text on one line, with escapes for what does not show. */
export function plainLine(text: string, length = 300): string {
  return text.slice(0, length).replace(HIDDEN, escape).replace(/\s+/g, " ").trim();
}

/** Return the text as nodes, with each hidden character as a marked escape. */
export function visible(text: string): ComponentChildren {
  const shown = text.replaceAll("\r\n", "\n");
  if (shown.search(HIDDEN) < 0) return shown;
  const nodes: ComponentChildren[] = [];
  let end = 0;
  for (const match of shown.matchAll(HIDDEN)) {
    nodes.push(shown.slice(end, match.index), <span class="hidden-letter">{escape(match[0])}</span>);
    end = match.index + match[0].length;
  }
  nodes.push(shown.slice(end));
  return nodes;
}

export function DiffText({ pieces, kind }: { pieces: Piece[]; kind: "del" | "ins" }) {
  const Mark = kind;
  return (
    <>{pieces.map((piece) => (piece.changed ? <Mark>{visible(piece.text)}</Mark> : visible(piece.text)))}</>
  );
}

const LONGEST_FORMULA = 3000;
const MOST_FORMULAS = 400;
const MATH = new RegExp(
  [
    String.raw`\$\$([\s\S]{1,${LONGEST_FORMULA}}?)\$\$`,
    String.raw`\\\[([\s\S]{1,${LONGEST_FORMULA}}?)\\\]`,
    String.raw`\\\(([\s\S]{1,${LONGEST_FORMULA}}?)\\\)`,
    String.raw`(?<![\\$\w])\$(?![\s$])([^$\n]{1,${LONGEST_FORMULA}}?)(?<![\s\\])\$(?![\d$])`,
    String.raw`(\\boxed\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\}){0,500}\})`,
  ].join("|"),
  "g",
);

/** The text with its formulas as MathML. A formula that cannot be read stays text. */
export function MathText({ text }: { text: string }) {
  const nodes: ComponentChildren[] = [];
  let [end, n] = [0, 0];
  for (const match of text.matchAll(MATH)) {
    if (++n > MOST_FORMULAS) break;
    const tex = match.slice(1).find((group) => group !== undefined) ?? "";
    const display = match[1] !== undefined || match[2] !== undefined;
    nodes.push(visible(text.slice(end, match.index)));
    nodes.push(<Formula key={n} tex={tex} source={match[0]} display={display} />);
    end = match.index + match[0].length;
  }
  nodes.push(visible(text.slice(end)));
  return <>{nodes}</>;
}

function Formula({ tex, source, display }: { tex: string; source: string; display: boolean }) {
  const ref = useRef<HTMLSpanElement>(null);
  useLayoutEffect(() => {
    const element = ref.current;
    if (element === null) return;
    try {
      // It builds nodes, and without `trust` no links, images or styles.
      temml.render(tex, element, { displayMode: display, throwOnError: true, trust: false, maxExpand: 300, maxSize: [20, 20] });
    } catch {
      element.textContent = source.replace(HIDDEN, escape);
    }
  }, [tex, source, display]);
  return <span ref={ref} class={display ? "formula display" : "formula"} title={plainLine(source)} />;
}
