/** The tide: workers with their gauges and charts, a form to try a prompt, what waits, what runs, what ended. */

import { announce } from "./announce.js";
import { el, fill, keyed, setAttribute, setText } from "./dom.js";
import { follow } from "./follow.js";
import { key } from "./key.js";
import { makeEnded, makeQueue, makeRunning } from "./jobs.js";
import { Picture } from "./picture.js";
import { problemView } from "./problem.js";
import { makeTry } from "./try.js";
import { many, rate } from "./words.js";
import { makeWorker } from "./worker.js";

/** Kept while a job is looked at, so that coming back shows the last picture at once: to the same key alone. */
let picture = new Picture();
let shownTo = null;
const REDRAW_MS = 2000;
const LOADING = {
  loading: "Waiting for the tide…",
  trouble: "The queue’s server does not answer. Nothing that was accepted is lost, and this page tries again by itself.",
  reconnecting: "The API does not answer. This page tries again by itself.",
};

/** @param {{link: (state: string, age?: () => number|null) => void, needKey: () => void}} page what is around it */
export function openTide(page) {
  if (shownTo !== key()) picture = new Picture();
  shownTo = key();
  const now = () => picture.now();
  const sentence = el("p", { class: "summary" });
  const workers = el("div", { class: "workers" });
  const lonely = noWorkers();
  const pending = el("p", { text: LOADING.loading });
  const loading = el("div", { class: "card skeleton" }, pending);
  const showWorkers = keyed(workers, (worker) => worker.name, (first) => {
    const { node: card, update, gone } = makeWorker(first);
    return { node: card, update: (worker) => update(worker, now()), gone };
  });
  const queue = makeQueue();
  const running = makeRunning(now);
  const ended = makeEnded(now);
  const form = makeTry();
  const body = el("div", { class: "tide" },
    el("header", { class: "tide-head" }, el("h1", { tabindex: -1, text: "The tide" }), sentence),
    el("div", { class: "tide-body" },
      part("workers", "Workers", loading, lonely, workers),
      part("try", "Try a prompt", form.node),
      part("queue", "Queue", queue.node),
      part("running", "Running", running.node),
      part("ended", "Ended lately", ended.node)));
  const node = el("div", {}, body);
  let served = null;
  let aim = window.location.hash.slice(1);
  let told = null;

  function show() {
    const known = picture.at !== null;
    const all = [...picture.workers.values()].sort(inOrder);
    loading.hidden = known;
    lonely.hidden = !known || all.length > 0;
    showWorkers(all);
    const weights = picture.weights();
    queue.update(picture.queue, weights, all.some((worker) => worker.report));
    running.update(picture.running, weights);
    ended.update(picture.ended, weights);
    setText(sentence, known ? summaryOf(all) : "");
    setAttribute(body, "data-known", String(known));
  }

  function summaryOf(all) {
    const live = all.filter((worker) => worker.report);
    const jobs = live.reduce((sum, worker) => sum + worker.report.running, 0);
    const waiting = Object.values(picture.queue).reduce((sum, lane) => sum + lane.jobs, 0);
    const speed = live.reduce((sum, worker) => sum + worker.report.tokens_per_second, 0);
    const running_ = jobs > 0 ? `${many(jobs, "job")} running at ${rate(speed)}` : "nothing running";
    return `${many(live.length, "worker")}, ${running_}, ${waiting > 0 ? many(waiting, "job") : "none"} waiting.`;
  }

  function take({ kind, data }) {
    if (kind === "trouble") {
      setText(pending, LOADING.trouble);
      page.link("trouble", age);
      return;
    }
    if (kind !== "tide") return;
    picture.take(data);
    page.link("live", age);
    const serve = servedBy(picture);
    if (serve !== served) form.ready(); // the form says for which models a worker is ready
    served = serve;
    if (!document.hidden) show(); // nobody looks: it is drawn when somebody does
    // What lies above a link's aim was not there until now.
    if (aim) document.getElementById(aim)?.scrollIntoView();
    aim = "";
  }

  const age = () => (picture.at === null ? null : now() - picture.at);

  function onLink(state, { error }) {
    if (state === "key") return page.needKey();
    if (["forbidden", "missing", "error"].includes(state)) {
      page.link(state);
      const code = state === "missing" ? "not_found" : (error?.code ?? state);
      fill(node, problemView({ ...error, code }, again()));
      return undefined;
    }
    if (state !== "live") served = null;
    if (state === "reconnecting" && told === "live") announce("The connection broke. It is taken up again by itself.");
    if (state === "live" && told === "reconnecting") announce("Connected again.");
    told = state;
    // Open is not yet live: the picture is, when it has come.
    if (state !== "live") page.link(state, age);
    setText(pending, LOADING[state] ?? LOADING.loading);
    return undefined;
  }

  function again() {
    return el("button", { type: "button", text: "Try again", on: { click: () => page.reload() } });
  }

  const seen = () => document.hidden || show();
  document.addEventListener("visibilitychange", seen);
  show();
  const stream = follow("/v1/tide/stream", take, onLink);
  const redraw = setInterval(() => picture.at !== null && document.body.dataset.link === "live" && !document.hidden && show(), REDRAW_MS);
  return {
    node,
    close() {
      stream.stop();
      clearInterval(redraw);
      document.removeEventListener("visibilitychange", seen);
      showWorkers([]);
    },
  };
}

/** Which models which workers have loaded. */
const servedBy = ({ workers }) =>
  JSON.stringify([...workers.values()].filter(({ report }) => report).map(({ name, report }) => [name, (report.models ?? []).map((model) => model.id)]));

/** Those that live before those that were lost, by name. */
function inOrder(one, other) {
  return Number(one.report === null) - Number(other.report === null) || (one.name < other.name ? -1 : 1);
}

function part(name, title, ...children) {
  return el("section", { class: `part part-${name}`, id: name, "aria-labelledby": `${name}-title` },
    el("h2", { id: `${name}-title`, text: title }), children);
}

function noWorkers() {
  return el("div", { class: "card empty-workers", data: { empty: "workers" }, hidden: true },
    el("div", { class: "pool", "aria-hidden": "true" }, el("div", { class: "pool-water" })),
    el("div", {},
      el("h3", { text: "No worker yet" }),
      el("p", { text: "Jobs are taken and wait until one is there. On a Mac with Apple Silicon, or on Linux, start one that listens to this queue:" }),
      el("pre", { class: "command" }, el("code", { text: "tidegate worker" })),
      el("p", { class: "facts" }, "It needs the API’s settings, ", el("code", { text: "TIDEGATE_REDIS_URL" }), " and ", el("code", { text: "TIDEGATE_MODELS" }),
        ". On this machine ", el("code", { text: "tidegate up" }), " starts everything at once.")));
}
