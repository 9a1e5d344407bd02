// What is shown, as the hash of the address: #view?name=value. So every state of the page is a link.
import { useEffect, useState } from "preact/hooks";

export interface Route {
  view: string;
  params: Record<string, string>;
}

export function parseHash(hash: string): Route {
  const [view = "", query = ""] = hash.replace(/^#/, "").split("?", 2);
  return { view, params: Object.fromEntries(new URLSearchParams(query)) };
}

export function toHash(route: Route): string {
  const kept = Object.entries(route.params).filter(([, value]) => value !== "");
  const query = new URLSearchParams(kept).toString();
  return `#${route.view}${query && `?${query}`}`;
}

/** Go to a route. With `replace`, without an entry in the history. */
export function go(route: Route, replace = false): void {
  const hash = toHash(route);
  if (hash === location.hash) return;
  if (replace) {
    history.replaceState(null, "", hash);
    dispatchEvent(new HashChangeEvent("hashchange"));
  } else {
    location.hash = hash;
  }
}

export function useRoute(): Route {
  const [route, setRoute] = useState(() => parseHash(location.hash));
  useEffect(() => {
    const change = () => setRoute(parseHash(location.hash));
    addEventListener("hashchange", change);
    return () => removeEventListener("hashchange", change);
  }, []);
  return route;
}
