/** A worker: its name and state, its tide gauge with the numbers, its chart. */

import { announce } from "./announce.js";
import { makeChart } from "./chart.js";
import { el, setData, setText } from "./dom.js";
import { makeGauge } from "./gauge.js";
import { stateOf } from "./picture.js";
import { ago, bytes, count, many, rate, seconds, workerName } from "./words.js";

const HEALTH = { engine_deaths: ["engine death", "engine deaths"], out_of_memory: ["time out of memory", "times out of memory"] };

/** Make a worker's card; `update` takes the worker of a picture, and the server's time. */
export function makeWorker({ name }) {
  const gauge = makeGauge(name);
  const chart = makeChart(name);
  const badge = el("span", { class: "badge" });
  const facts = el("p", { class: "facts" });
  const note = el("p", { class: "note", hidden: true });
  const node = el(
    "article",
    { class: "card worker", data: { worker: name }, "aria-label": `Worker ${workerName(name)}` },
    el("header", {}, el("h3", { title: name, text: workerName(name) }), badge, facts),
    note,
    el("div", { class: "worker-body" }, el("div", { class: "worker-gauge" }, gauge.vessel, gauge.legend), chart.figure),
  );
  let known = null;

  function update(worker, now) {
    const { state, words, since, until } = stateOf(worker, now);
    setData(node, { state });
    setText(badge, words);
    const noted = noteOf(state, since, until, now, worker);
    note.hidden = noted === null;
    setText(note, noted);
    setData(note, { calm: ranShort(worker) ? null : "" });
    if (known !== null && known !== state) announce(`${workerName(name)}: ${words}`);
    known = state;
    const shown = worker.report ?? fromPoint(worker.points.at(-1));
    if (shown) gauge.update({ ...shown, working_bytes: shown.working_bytes ?? shown.budget_bytes });
    setText(facts, worker.report ? factsOf(worker.report) : "");
    chart.update(worker, now);
  }

  return { node, update, gone: chart.gone };
}

/** What a lost worker held when it was last heard. */
const fromPoint = (point) => point ?? null;

function factsOf(report) {
  const models = (report.models ?? []).map((model) => model.id).join(", ");
  const said = [models, report.running > 0 ? rate(report.tokens_per_second) : null, `on ${report.host}`];
  const troubles = Object.entries(HEALTH)
    .map(([counter, [one, several]]) => [report.counters?.[counter] ?? 0, one, several])
    .filter(([number]) => number > 0)
    .map(([number, one, several]) => many(number, one, several));
  return [...said, ...troubles].filter(Boolean).join(" · ");
}

function noteOf(state, since, until, now, worker) {
  if (state === "lost") {
    return `Last heard of ${ago(since, now)}. What it ran waits, and goes on from the tokens that it had where a worker serves its model.`;
  }
  if (state === "cooling") {
    const rest = until ? ` It starts one again in ${seconds(Math.max(0, Math.round(until - now)))}.` : "";
    return `Its engine died too often, so it runs nothing for a while.${rest} Its jobs wait, or run elsewhere.`;
  }
  if (state === "measuring") {
    return "It finds out what this model takes: a minute or two, the first time on this machine. Then jobs start.";
  }
  if (worker.report && worker.report.working_bytes < worker.report.budget_bytes) {
    const { working_bytes: working, budget_bytes: budget } = worker.report;
    if (ranShort(worker)) {
      return `Memory ran out, so jobs may hold ${count((100 * working) / budget)} % of the budget for now; it comes back by itself.`;
    }
    return `The machine has other uses for its memory just now: jobs may hold ${bytes(working)} of the budget of ${bytes(budget)}.`;
  }
  return null;
}

/** Whether memory ran out here in what is known of its past: else the host gives less, and nothing is amiss. */
const ranShort = ({ marks }) => marks.some(({ kind }) => kind === "out_of_memory" || kind === "engine_died");
