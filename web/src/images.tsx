// Images of questions: small where their marks stand, and large in a dialog.
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

import { imageSource, whyNoImage } from "./load";
import { plainLine } from "./text";

/** Stands for an image in a text (src/rethink/images.py). In a text without images it is a word. */
export const MARK = "<image>";

/**
 * Return a text's pieces and the places of its images, in order. Images without marks come first: those of the turns before a
 * question, or all.
 */
export function arrange(text: string, n: number): (string | number)[] {
  const pieces = text.split(MARK);
  const nMarks = pieces.length - 1;
  const found: (string | number)[] = Array.from({ length: nMarks > n ? n : n - nMarks }, (_, place) => place);
  if (nMarks > n) return [...found, text];
  pieces.forEach((piece, at) => {
    if (at > 0) found.push(n - nMarks + at - 1);
    if (piece !== "") found.push(piece);
  });
  return found;
}

/** Return a question on one line, with words in place of its images. */
export function withoutMarks(text: string, n: number): string {
  return n > 0 ? text.replaceAll(MARK, "(image)") : text;
}

interface TextProps {
  run: number;
  text: string;
  images: string[];
  show: (text: string) => ComponentChildren;
}

/** A text of the user with its images. `show` shows the text around them. */
export function TextWithImages({ run, text, images, show }: TextProps) {
  const [large, setLarge] = useState(-1);
  if (images.length === 0) return <>{show(text)}</>;
  return (
    <>
      {arrange(text, images.length).map((piece) =>
        typeof piece === "string" ? show(piece) : <Small key={piece} run={run} images={images} place={piece} open={() => setLarge(piece)} />,
      )}
      {large >= 0 && <Large run={run} images={images} place={large} go={setLarge} />}
    </>
  );
}

function label(images: string[], place: number): string {
  return images.length === 1 ? "image" : `image ${place + 1} of ${images.length}`;
}

interface ImageProps {
  run: number;
  images: string[];
  place: number;
}

function Small({ open, ...props }: ImageProps & { open: () => void }) {
  const [fault, setFault] = useState("");
  const { run, images, place } = props;
  const name = images[place] ?? "";
  const source = imageSource(run, name);
  const why = source.url === undefined ? source.note : fault;
  if (why !== "") {
    return (
      <span class="no-image" title={plainLine(name)}>
        {label(images, place)} is not shown: {plainLine(why)}
      </span>
    );
  }
  return (
    <button type="button" class="image" title="Enlarge (Enter)" onClick={open}>
      <img alt={label(images, place)} src={source.url} onError={() => void whyNoImage(source.url ?? "").then(setFault)} />
    </button>
  );
}

/** An image as large as fits, in a dialog: arrow keys lead to the others, Escape and a click close it. */
function Large({ go, ...props }: ImageProps & { go: (place: number) => void }) {
  const { run, images, place } = props;
  const dialog = useRef<HTMLDialogElement>(null);
  const [natural, setNatural] = useState(0);
  useLayoutEffect(() => dialog.current?.showModal(), []);
  const name = images[place] ?? "";
  const source = imageSource(run, name);
  const step = (by: number) => go((place + by + images.length) % images.length);
  const press = (event: KeyboardEvent) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    step(by);
  };
  return (
    <dialog
      ref={dialog}
      class="large"
      aria-label={label(images, place)}
      onClose={() => go(-1)}
      onKeyDown={press}
      onClick={(event) => event.target instanceof HTMLElement && event.target.closest("button") === null && dialog.current?.close()}
    >
      <div class="large-image">
        {source.url === undefined ? (
          <span class="no-image">{plainLine(source.note)}</span>
        ) : (
          <img
            alt={label(images, place)}
            src={source.url}
            // Up to four times as large as it is: a small one can be seen, and its pixels as well.
            style={natural > 0 ? { width: `${Math.max(natural, Math.min(4 * natural, 640))}px` } : {}}
            class={natural > 0 && natural < 320 ? "pixels" : ""}
            onLoad={(event) => setNatural(event.currentTarget.naturalWidth)}
          />
        )}
      </div>
      <p>
        {images.length > 1 && <button type="button" onClick={() => step(-1)} aria-label="Previous image">←</button>}
        <span>
          {label(images, place)} · <code>{plainLine(name)}</code>
        </span>
        {images.length > 1 && <button type="button" onClick={() => step(1)} aria-label="Next image">→</button>}
        <button type="button" class="close" onClick={() => dialog.current?.close()}>close</button>
      </p>
    </dialog>
  );
}

/** The mark of a row with images in a list. */
export function ImageBadge({ n }: { n: number }) {
  if (n === 0) return null;
  const words = n === 1 ? "1 image" : `${n} images`;
  return (
    <span class="image-badge" title={words}>
      <svg viewBox="0 0 16 16" role="img" aria-label={words}>
        <path d="M1.5 2.5h13v11h-13zM1.5 11l4-4 3.5 3.5 2-2 3.5 3.5" />
        <circle cx="11" cy="5.5" r="1.2" />
      </svg>
      {n > 1 && n}
    </span>
  );
}
