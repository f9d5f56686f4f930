/** Server-sent events read from a fetched body, since an EventSource cannot send a key (WHATWG HTML, 9.2.6). */

/** Nothing came for so long that the connection is taken for dead; a server says something every ten seconds. */
const SILENCE_MS = 25_000;

/** What lines come to: feeds on text in any pieces, and yields events. */
export class EventLines {
  #rest = "";
  #id = null;
  #kind = "";
  #data = [];

  /** @returns {{id: string|null, kind: string, data: string}[]} the events that these pieces complete */
  feed(text) {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    return lines.map((line) => this.#line(line)).filter(Boolean);
  }

  #line(line) {
    if (line === "") return this.#event();
    if (line.startsWith(":")) return null;
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "id" && !value.includes("\0")) this.#id = value;
    else if (field === "event") this.#kind = value;
    else if (field === "data") this.#data.push(value);
    return null;
  }

  #event() {
    const event = { id: this.#id, kind: this.#kind || "message", data: this.#data.join("\n") };
    const empty = this.#data.length === 0;
    this.#kind = "";
    this.#data = [];
    return empty ? null : event;
  }
}

/**
 * Read a response's events until it ends.
 * @param {Response} response whose body is a stream of events
 * @param {(event: {id: string|null, kind: string, data: string}) => void} onEvent
 * @throws {Error} it fell silent, or broke
 */
export async function readEvents(response, onEvent) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  const lines = new EventLines();
  let timer;
  const silence = () =>
    new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error("the stream fell silent")), SILENCE_MS);
    });
  try {
    for (;;) {
      const { done, value } = await Promise.race([reader.read(), silence()]).finally(() => clearTimeout(timer));
      if (done) return;
      for (const event of lines.feed(decoder.decode(value, { stream: true }))) onEvent(event);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
