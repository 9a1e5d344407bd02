// Keys of the page.

/** Return whether a key is meant for a field or for an open dialog. */
export function isTaken(event: KeyboardEvent): boolean {
  return isTyping(event) || document.querySelector("dialog[open]") !== null;
}

export function isTyping(event: KeyboardEvent): boolean {
  return event.target instanceof HTMLElement && event.target.closest("input, select, textarea") !== null;
}
