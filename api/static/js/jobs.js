/** Tables of jobs: those that wait, those that run, those that ended lately. */

import { el, keyed, setAttribute, setCss, setData, setText } from "./dom.js";
import { jobPath } from "./router.js";
import { ago, bytes, count, DASH, ENDED, isNumber, many, rate, seconds, shortId, soon, STATUS_WORDS } from "./words.js";

const CLASSES = [
  ["interactive", "Interactive", "somebody waits for it"],
  ["standard", "Standard", "the usual"],
  ["batch", "Batch", "when nothing more urgent wants the memory"],
];

/** A model's name without whose it is: that is the same all the way down, and in the title. */
const shortModel = (model) => String(model ?? "").split("/").at(-1);

/** The cell that names a job and leads to its page. */
function jobCell(job) {
  const link = el("a", { href: jobPath(job.id), "aria-label": `Job ${shortId(job.id)}`, title: job.id, text: shortId(job.id) });
  return el("th", { scope: "row" }, link, el("span", { class: "model", title: job.model, text: shortModel(job.model) }));
}

/** Cells by name, with the words above them where a narrow screen makes a row a card. */
function cellsOf(names) {
  const cells = Object.fromEntries(names.map(([name, word]) => [name, el("td", { data: { cell: name, word } })]));
  return { cells, all: Object.values(cells) };
}

function tableOf(kind, caption, columns, makeRow) {
  const body = el("tbody");
  const table = el(
    "table",
    { class: "jobs", data: { table: kind } },
    el("caption", { class: "visually-hidden", text: caption }),
    el("thead", {}, el("tr", {}, el("th", { scope: "col", text: "Job" }), columns.map(([, word]) => el("th", { scope: "col", text: word })))),
    body,
  );
  return { table, show: keyed(body, (job) => job.id, (job) => makeRow(job)) };
}

const empty = (kind, words) => el("p", { class: "empty", data: { empty: kind }, text: words });

/** What a job needs beside its model's weights, which its estimate counts; all of it where these are not known. */
function ownNeed({ model, memory }, weights) {
  const all = memory?.estimated_bytes;
  return isNumber(all) ? Math.max(0, all - (weights.get(model) ?? 0)) : all;
}

/** The queue: a lane for each class. */
export function makeQueue() {
  const lanes = CLASSES.map(([name, word, why]) => {
    const columns = [["position", "Place"], ["need", "Needs"], ["eta", "Starts in"]];
    const { table, show } = tableOf(`queue-${name}`, `Waiting jobs of class ${name}, first to start first`, columns, (job) => waitingRow(job, columns));
    const number = el("span", { class: "lane-count" });
    const facts = el("p", { class: "facts" });
    const nothing = empty("queue", "Nothing waits.");
    const more = el("p", { class: "facts" });
    const node = el("section", { class: "lane", data: { class: name }, "aria-label": `${word} queue` },
      el("h3", { title: why }, el("span", { text: word }), number), facts, nothing, table, more);
    return { name, node, number, facts, nothing, table, show, more };
  });
  return {
    node: el("div", { class: "lanes" }, lanes.map((lane) => lane.node)),
    /** What waits; without a worker nobody knows until when. */
    update(queue, weights, anyWorker) {
      for (const lane of lanes) {
        const { jobs, tokens, oldest_seconds: oldest, head } = queue[lane.name];
        setData(lane.node, { jobs });
        setText(lane.number, count(jobs));
        setText(lane.facts, jobs ? `${many(tokens, "token")} of work${isNumber(oldest) ? `, the oldest for ${seconds(oldest)}` : ""}` : "");
        lane.nothing.hidden = jobs > 0;
        lane.table.hidden = head.length === 0;
        setText(lane.more, jobs > head.length && head.length > 0 ? `and ${count(jobs - head.length)} more` : "");
        lane.show(head.map((job) => ({ ...job, need: ownNeed(job, weights), anyWorker })));
      }
    },
  };
}

function waitingRow(first, columns) {
  const { cells, all } = cellsOf(columns);
  const node = el("tr", { data: { job: first.id } }, jobCell(first), all);
  return {
    node,
    update(job) {
      setData(node, { status: job.status });
      setText(cells.position, count(job.queue?.position));
      setText(cells.need, bytes(job.need));
      setText(cells.eta, job.anyWorker ? soon(job.queue?.eta_seconds) : "when a worker is there");
    },
  };
}

/** Jobs that run. */
export function makeRunning(now) {
  const columns = [["status", "Status"], ["tokens", "Tokens"], ["rate", "Speed"], ["memory", "Reserved / need"], ["since", "For"]];
  const { table, show } = tableOf("running", "Running jobs", columns, (first) => {
    const { cells, all } = cellsOf(columns);
    const badge = el("span", { class: "badge" });
    const bar = memoryBar();
    const words = el("span");
    cells.status.append(badge);
    cells.memory.append(words, bar.node);
    const node = el("tr", { data: { job: first.id } }, jobCell(first), all);
    return {
      node,
      update(job) {
        const { progress, memory } = job;
        setData(node, { status: job.status });
        setData(badge, { status: job.status });
        setText(badge, runningWords(job));
        setText(cells.tokens, isNumber(progress?.completion_tokens) ? count(progress.completion_tokens) : DASH);
        setText(cells.rate, rate(progress?.tokens_per_second));
        setText(words, `${bytes(memory?.reserved_bytes)} / ${bytes(job.need)}`);
        bar.update(memory?.reserved_bytes, job.need, memory?.peak_bytes);
        setText(cells.since, isNumber(job.started_at) ? seconds(Math.max(0, now() - job.started_at)) : DASH);
      },
    };
  });
  const nothing = el("div", { class: "empty", data: { empty: "running" } },
    el("p", { text: "Nothing runs. Try a prompt on this page, or from a terminal:" }),
    el("pre", { class: "command" }, el("code", { text: 'tidegate submit "What makes the tide?" --stream' })));
  return listOf(nothing, table, show);
}

/** What a running job does: it reads its prompt, or writes. */
export function runningWords({ status, progress }) {
  if (status !== "in_progress" || !progress) return STATUS_WORDS[status] ?? status;
  const { prompt_tokens: prompt, prompt_tokens_computed: computed, completion_tokens: written } = progress;
  if (written > 0) return "writing";
  return computed > 0 && prompt > computed ? `reading, ${count((100 * computed) / prompt)} %` : "reading";
}

/** Jobs that ended lately. */
export function makeEnded(now) {
  const columns = [["status", "How"], ["tokens", "Tokens"], ["memory", "Peak / need"], ["took", "Took"], ["ago", "When"]];
  const { table, show } = tableOf("ended", "Jobs that ended lately, newest first", columns, (first) => {
    const { cells, all } = cellsOf(columns);
    const badge = el("span", { class: "badge" });
    cells.status.append(badge);
    const node = el("tr", { data: { job: first.id } }, jobCell(first), all);
    return {
      node,
      update(job) {
        setData(node, { status: job.status, code: job.error?.code });
        setData(badge, { status: job.status });
        setText(badge, job.error && job.status === "failed" ? job.error.code.replaceAll("_", " ") : (STATUS_WORDS[job.status] ?? job.status));
        setText(cells.tokens, count(job.progress?.completion_tokens ?? job.result?.usage?.completion_tokens));
        setText(cells.memory, `${bytes(job.memory?.peak_bytes)} / ${bytes(job.need)}`);
        const took = job.completed_at - (job.started_at ?? job.created_at);
        setText(cells.took, isNumber(took) && job.started_at ? seconds(took) : DASH);
        setText(cells.ago, ago(job.completed_at, now()));
      },
    };
  });
  return listOf(empty("ended", "No job has ended yet, or their time to be kept is over."), table, show);
}

function listOf(nothing, table, show) {
  return {
    node: el("div", {}, nothing, table),
    update(jobs, weights) {
      nothing.hidden = jobs.length > 0;
      table.hidden = jobs.length === 0;
      show(jobs.map((job) => ({ ...job, need: ownNeed(job, weights) })));
    },
  };
}

/** A small bar: a part of a whole, and a tick at a third number. */
export function memoryBar() {
  const tick = el("span", { class: "bar-tick" });
  const node = el("span", { class: "bar", "aria-hidden": "true" }, el("span", { class: "bar-fill" }), tick);
  return {
    node,
    update(part, whole, peak) {
      const most = Math.max(1, whole ?? 0, part ?? 0, peak ?? 0);
      setCss(node, { "--part": ((part ?? 0) / most).toFixed(3), "--tick": ((peak ?? 0) / most).toFixed(3) });
      setAttribute(tick, "hidden", !peak);
    },
  };
}

export const isEnded = (job) => ENDED.has(job.status);
