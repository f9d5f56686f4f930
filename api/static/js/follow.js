/** A stream that is followed for as long as it is wanted: broken, it is taken up again behind the last event seen. */

import { Away, Refusal, send } from "./http.js";
import { readEvents } from "./sse.js";

const FIRST_MS = 500;
const MOST_MS = 15_000;
const EVENTS = "text/event-stream";
const FINAL = { 401: "key", 403: "forbidden", 404: "missing", 400: "error", 405: "error" };

/**
 * Follow a stream.
 * @param {string} path where it is
 * @param {(event: {kind: string, data: any, id: string|null}) => boolean|void} onEvent true: that was the last
 * @param {(link: string, told: {error?: object, retryAt?: number}) => void} onLink `live`, `reconnecting`, `trouble`,
 *   or one that ends it: `over`, `key`, `forbidden`, `missing`, `error`
 * @returns {{stop: () => void}}
 */
export function follow(path, onEvent, onLink) {
  const stopped = new AbortController();
  let cursor = null;
  let failures = 0;
  let wake = () => {};

  const hurry = () => wake();
  const seen = () => document.visibilityState === "visible" && wake();
  window.addEventListener("online", hurry);
  document.addEventListener("visibilitychange", seen);

  async function once() {
    const headers = { Accept: EVENTS };
    if (cursor !== null) headers["Last-Event-ID"] = cursor;
    const response = await send(path, { headers, signal: stopped.signal });
    if (!response.headers.get("Content-Type")?.startsWith(EVENTS)) {
      response.body?.cancel().catch(() => {});
      throw new Away("somebody else answered than the API");
    }
    let over = false;
    onLink("live", {});
    await readEvents(response, (event) => {
      failures = 0;
      if (over) return;
      over = event.data === "[DONE]" || onEvent({ ...event, data: parsed(event.data) }) === true;
      if (event.id !== null) cursor = event.id;
    });
    return over;
  }

  async function run() {
    while (!stopped.signal.aborted) {
      try {
        if (await once()) {
          onLink("over", {});
          return;
        }
        const ms = waitMs(null); // without an event since the last time, longer each time
        onLink("reconnecting", { retryAt: Date.now() + ms });
        await pause(ms);
      } catch (error) {
        if (stopped.signal.aborted) return;
        const final = error instanceof Refusal && error.own ? FINAL[error.status] : undefined;
        if (final) {
          onLink(final, { error: error.error });
          return;
        }
        const ms = waitMs(error);
        const trouble = error instanceof Refusal && error.code === "store_unavailable";
        onLink(trouble ? "trouble" : "reconnecting", { error: error.error, retryAt: Date.now() + ms });
        await pause(ms);
      }
    }
  }

  function waitMs(error) {
    const told = error instanceof Refusal && error.retryAfter ? error.retryAfter * 1000 : 0;
    const backoff = Math.min(MOST_MS, FIRST_MS * 2 ** failures);
    failures += 1;
    return Math.max(told, backoff * (0.75 + Math.random() / 2));
  }

  const pause = (ms) =>
    new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });

  run().finally(() => {
    window.removeEventListener("online", hurry);
    document.removeEventListener("visibilitychange", seen);
  });
  return {
    stop() {
      stopped.abort();
      wake();
    },
  };
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    return null; // not ours
  }
}
