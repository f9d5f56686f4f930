/** What became of a job, in the order in which it happened: accepted, started, put back and why, ended. */

import { el, keyed, setText } from "./dom.js";
import { reasonWords } from "./explain.js";
import { clock, isNumber, seconds, workerName } from "./words.js";

const ENDS = {
  completed: "Completed",
  incomplete: "Cut: it reached the most tokens that it may write",
  failed: "Failed",
  cancelled: "Cancelled",
};

function wordsOf({ kind, data, last }) {
  if (kind === "queued") return ["Accepted", `it ${last ? "waits" : "waited"} for its turn, and for memory`];
  if (kind === "started") return ["Started", `attempt ${data.attempt} on ${workerName(data.worker)}`];
  if (kind === "first_token") return ["First token", "its prompt was read"];
  if (kind === "requeued") return ["Put back to wait", `${reasonWords(data.reason)}; it keeps the tokens that it has`];
  if (kind === "failed") return [ENDS.failed, data.error?.code?.replaceAll("_", " ") ?? ""];
  return [ENDS[kind] ?? kind, ""];
}

export function makeTimeline() {
  const list = el("ol", { class: "timeline", data: { timeline: true } });
  const show = keyed(list, (event) => event.key, () => {
    const title = el("strong");
    const why = el("span");
    const time = el("time");
    const after = el("span", { class: "facts" });
    const node = el("li", {}, el("div", { class: "timeline-when" }, time, after), el("div", {}, title, why));
    return {
      node,
      update(event) {
        const [word, more] = wordsOf(event);
        node.dataset.event = event.kind;
        setText(title, word);
        setText(why, more);
        setText(time, clock(event.at));
        if (isNumber(event.at)) time.setAttribute("datetime", new Date(event.at * 1000).toISOString());
        setText(after, isNumber(event.since) ? `+ ${seconds(event.since)}` : "");
      },
    };
  });
  const node = el("section", { class: "card", "aria-labelledby": "timeline-title" }, el("h2", { id: "timeline-title", text: "Timeline" }), list);
  return {
    node,
    /** @param {{kind: string, data: object, at: number|null, key: string}[]} events in order */
    update(events) {
      show(events.map((event, at) => ({ ...event, since: at > 0 ? event.at - events[at - 1].at : null, last: at === events.length - 1 })));
    },
  };
}
