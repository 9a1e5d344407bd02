// Where the data comes from: the elements of a page on disk, or the server of `rethink view`.
import { RepliesTable } from "./replies";
import { type PageDocument, type RepliesData, SCHEMA } from "./types";

const POLL_MS = 2000;

async function unpack<T>(packed: Blob): Promise<T> {
  const stream = packed.stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text()) as T;
}

function embedded(id: string): Blob | null {
  const element = document.getElementById(id);
  if (element === null) return null;
  const letters = atob(element.textContent ?? "");
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return new Blob([bytes]);
}

async function get(path: string): Promise<Blob> {
  const response = await fetch(path, { cache: "no-store" });
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
  return response.blob();
}

export const isLive = document.getElementById("document") === null;

export async function loadDocument(): Promise<PageDocument> {
  const found = await unpack<PageDocument>(embedded("document") ?? (await get("api/document")));
  if (found.schema !== SCHEMA) throw new Error(`the data has schema ${found.schema}, this page reads ${SCHEMA}`);
  return found;
}

const known = new Map<number, { stamp: string; table: Promise<RepliesTable> }>();

/** Return the replies of a run. They are read once, and again when the run has new ones. */
export function loadReplies(run: number, stamp: string): Promise<RepliesTable> {
  const old = known.get(run);
  if (old !== undefined && old.stamp === stamp) return old.table;
  const read = async () => {
    const packed = embedded(`replies-${run}`) ?? (await get(`api/replies?run=${run}`));
    return new RepliesTable(await unpack<RepliesData>(packed));
  };
  const table = read();
  known.set(run, { stamp, table });
  return table;
}

/** Return the address of an image, or why this page does not have it. */
export function imageSource(run: number, name: string): { url: string } | { url?: undefined; note: string } {
  if (isLive) return { url: `api/image?run=${run}&name=${encodeURIComponent(name)}` };
  const element = document.getElementById(`image-${name}`);
  const type = element?.dataset["type"] ?? "";
  if (element === null || !IMAGE_TYPES.has(type)) return { note: element?.dataset["note"] ?? "this page does not hold it" };
  return { url: `data:${type};base64,${element.textContent}` };
}

/** The types that the Python side encodes (src/rethink/report/images.py). */
const IMAGE_TYPES = new Set(["image/png", "image/jpeg"]);

/** Return why an image could not be loaded: the server says so. */
export async function whyNoImage(url: string): Promise<string> {
  if (!isLive) return "it cannot be decoded";
  try {
    await get(url);
  } catch (error) {
    return String(error).replace(/^Error: \d+ /, "");
  }
  return "it cannot be decoded";
}

/** Call `changed` with a new document whenever the server has one, and `lost` when it does not answer. */
export function follow(changed: (found: PageDocument) => void, lost: (is: boolean) => void): void {
  let stamp = "";
  const poll = async () => {
    try {
      const now = await (await get("api/stamp")).text();
      if (now !== stamp) {
        changed(await loadDocument());
        stamp = now;
      }
      lost(false);
    } catch {
      lost(true);
    }
    setTimeout(poll, POLL_MS);
  };
  setTimeout(poll, POLL_MS);
}
