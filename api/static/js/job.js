/** A job's page: its answer as it comes, its timeline, its memory, its error in plain words, cancel and retry. */

import { announce } from "./announce.js";
import { makeAnswer } from "./answer.js";
import { makeAsked } from "./asked.js";
import { el, fill, setData, setText } from "./dom.js";
import { explain } from "./explain.js";
import { follow } from "./follow.js";
import { ask, newMark, Refusal } from "./http.js";
import { runningWords } from "./jobs.js";
import { makeMemory } from "./memory.js";
import { numbersOf, problemView, refusalCard } from "./problem.js";
import { go, jobPath } from "./router.js";
import { Story } from "./story.js";
import { makeTimeline } from "./timeline.js";
import { bytes, clock, count, ENDED, isNumber, many, rate, seconds, STATUS_WORDS } from "./words.js";

const LOOK_MS = 1000;
const LOOK_MOST_MS = 10_000;
const PATIENT_LOOKS = 5;
const HOLD_MS = 600;

/**
 * Show a job.
 * @param {string} id its id, as the address has it
 * @param {{link: (state: string, age?: () => number|null) => void, needKey: () => void}} page what is around it
 */
export function openJob(id, page) {
  const story = new Story();
  const answer = makeAnswer();
  const timeline = makeTimeline();
  const memory = makeMemory();
  const asked = makeAsked();
  const badge = el("span", { class: "badge" });
  const facts = el("p", { class: "facts" });
  const wait = el("p", { class: "place", hidden: true });
  const trouble = el("div");
  const said = el("div", { class: "refused" });
  const cancel = el("button", { type: "button", data: { action: "cancel" }, text: "Cancel", on: { click: () => act(cancel, "Cancelling…", stop) } });
  const retry = el("button", { type: "button", data: { action: "retry" }, text: "Retry", on: { click: () => act(retry, "Sending…", again) } });
  const origin = el("p", { class: "facts", hidden: true });
  const body = el("div", { class: "job", data: { "job-page": id } },
    el("p", { class: "crumb" }, el("a", { href: "/", text: "← The tide" })),
    el("header", { class: "job-head" },
      el("div", {}, el("h1", { tabindex: -1 }, "Job ", el("code", { text: id })), facts, origin),
      el("div", { class: "actions" }, badge, cancel, retry)),
    said, wait, trouble,
    el("div", { class: "job-body" },
      el("div", { class: "job-main" }, answer.node, asked.node),
      el("div", { class: "job-side" }, timeline.node, memory.node)));
  const node = el("div", {}, el("p", { class: "loading", role: "status", text: "Looking for the job…" }));
  const closing = new AbortController();
  let job = null;
  let stream = null;
  let timer = null;
  let failures = 0;
  let waited = 0;
  let told = false;
  const mark = newMark(); // one retry is made from here, however often it must be asked for
  let seenAt = Date.now();
  let link = "loading";

  const age = () => (Date.now() - seenAt) / 1000;

  async function look(first = false) {
    clearTimeout(timer);
    try {
      const found = await ask(`/v1/jobs/${encodeURIComponent(id)}${first ? "?include=request" : ""}`, { signal: closing.signal });
      if (closing.signal.aborted) return;
      failures = 0;
      seenAt = Date.now();
      // The stream tells the end behind the last token: it is waited for, but not for ever.
      const early = !first && ENDED.has(found.status) && !story.ended && (waited += 1) < PATIENT_LOOKS;
      const late = ENDED.has(job?.status) && !ENDED.has(found.status); // it was asked before the end was told
      if (!early && !late) show(found);
      if (first) begin();
    } catch (error) {
      if (closing.signal.aborted) return;
      if (error instanceof Refusal && error.own && [400, 401, 403, 404].includes(error.status)) {
        refused(error);
        return;
      }
      failures += 1;
      if (job === null) page.link(error.code === "store_unavailable" ? "trouble" : "reconnecting", age);
    }
    if (job === null || !ENDED.has(job.status)) {
      const ms = Math.min(LOOK_MOST_MS, LOOK_MS * 2 ** failures);
      timer = setTimeout(() => look(job === null), document.hidden ? LOOK_MOST_MS : ms);
    }
  }

  function begin() {
    fill(node, body);
    document.title = `Job ${id.slice(-8)} · tidegate`;
    stream = follow(`/v1/jobs/${encodeURIComponent(id)}/stream`, take, (state, { error }) => {
      if (state === "live") seenAt = Date.now();
      if (state === "key") page.needKey();
      else if (state === "over") finish();
      else if (state === "missing") refused({ status: 404, error });
      else if (!(story.ended && state === "reconnecting")) page.link((link = state), age);
    });
  }

  /** The stream told all that it has: what is missing now is in the result alone. */
  function finish() {
    told = true;
    if (job) show({});
  }

  function take(event) {
    if (event.kind === "error") {
      const error = { ...event.data?.error };
      if (error.code === "not_found") refused({ status: 404, error });
      else fill(said, refusalCard(error, null));
      return true;
    }
    const piece = story.take(event);
    seenAt = Date.now();
    if (piece) {
      answer.add(piece);
      if (answer.node.dataset.phase !== "writing") show(job);
      return false;
    }
    if (event.kind === "started") announce("A worker took it up");
    if (event.kind === "requeued") announce("Put back to wait; it keeps what it has");
    if (story.ended) show({ ...job, ...story.ended });
    else look();
    return false; // [DONE] is the last
  }

  function show(now) {
    const before = job?.status;
    job = { ...job, ...now };
    setData(body, { status: job.status });
    setData(badge, { status: job.status });
    setText(badge, job.status === "in_progress" && story.writing ? "writing" : runningWords(job));
    setText(facts, factsOf(job));
    const ended = ENDED.has(job.status);
    cancel.hidden = ended;
    if (ended && before !== undefined && before !== job.status) hold(retry);
    retry.hidden = !ended;
    origin.hidden = !job.retry_of;
    if (job.retry_of) fill(origin, el("span", { text: "Another try of " }), el("a", { href: jobPath(job.retry_of), text: job.retry_of }));
    wait.hidden = job.status !== "queued";
    setText(wait, waitWords(job));
    answer.phase(...phaseOf(job, story));
    if (ended && told) answer.whole(job.result);
    timeline.update(story.steps(job));
    memory.update(job);
    asked.update(job.request);
    fill(trouble, job.error && ended && job.status !== "cancelled" ? (trouble.firstChild ?? errorCard(job)) : null);
    if (before !== undefined && before !== job.status && ended) announce(endWords(job));
  }

  function refused(error) {
    stream?.stop();
    clearTimeout(timer);
    if (error.status === 401) return page.needKey();
    const code = error.status === 404 ? "not_found" : (error.error?.code ?? "error");
    page.link(error.status === 404 ? "missing" : error.status === 403 ? "forbidden" : "error");
    const back = el("a", { class: "button", href: "/", text: "To the tide" });
    fill(node, problemView({ message: `There is no job ${id} here.`, ...error.error, code }, back));
    document.title = "Not found · tidegate";
    node.querySelector("h1").focus();
  }

  async function act(button, words, doing) {
    if (button.getAttribute("aria-disabled") === "true") return; // pressed twice, done once
    const before = button.textContent;
    setText(button, words);
    button.setAttribute("aria-disabled", "true");
    fill(said);
    try {
      await doing();
    } catch (error) {
      if (closing.signal.aborted) return;
      const why = error instanceof Refusal ? error.error : { code: "away", message: error.message };
      fill(said, refusalCard(why, error.retryAfter ?? null, () => act(button, words, doing)));
    }
    setText(button, before);
    button.removeAttribute("aria-disabled");
  }

  /** Retry comes where Cancel was: whoever presses that twice does not mean this one. */
  function hold(button) {
    button.setAttribute("aria-disabled", "true");
    setTimeout(() => button.removeAttribute("aria-disabled"), HOLD_MS);
  }

  async function stop() {
    const found = await ask(`/v1/jobs/${encodeURIComponent(id)}/cancel`, { method: "POST", signal: closing.signal });
    show(found);
    if (ENDED.has(found.status)) retry.focus();
  }

  async function again() {
    const made = await ask(`/v1/jobs/${encodeURIComponent(id)}/retry`, { method: "POST", headers: mark, signal: closing.signal });
    go(jobPath(made.id));
  }

  look(true);
  return {
    node,
    close() {
      closing.abort();
      clearTimeout(timer);
      stream?.stop();
    },
  };
}

function factsOf({ model, priority, attempt, progress, created_at: made, result }) {
  const usage = result?.usage;
  const said = [model, priority, `made ${clock(made)}`];
  if (attempt > 1) said.push(`attempt ${attempt}`);
  const read = usage?.prompt_tokens ?? progress?.prompt_tokens;
  const written = usage?.completion_tokens ?? progress?.completion_tokens;
  if (isNumber(read)) said.push(`${many(read, "token")} read`);
  if (isNumber(written)) said.push(`${count(written)} written`);
  if (isNumber(progress?.tokens_per_second)) said.push(rate(progress.tokens_per_second));
  return said.join(" · ");
}

function waitWords({ queue, memory }) {
  const place = isNumber(queue?.position) ? `Number ${count(queue.position)} in line` : "In the queue";
  const eta = isNumber(queue?.eta_seconds) ? `; it should start ${queue.eta_seconds < 0.5 ? "any moment" : `in ${seconds(queue.eta_seconds)}`}` : "";
  return `${place}${eta}. It needs ${bytes(memory?.estimated_bytes)}.`;
}

function phaseOf(job, story) {
  if (ENDED.has(job.status)) return ["ended", endWords(job)];
  if (job.status === "queued") return ["waiting", "waits for its turn"];
  if (story.writing || job.progress?.completion_tokens > 0) return ["writing", rate(job.progress?.tokens_per_second)];
  return ["reading", runningWords(job)];
}

function endWords({ status, result, progress, started_at: from, completed_at: to }) {
  const written = result?.usage?.completion_tokens ?? progress?.completion_tokens;
  const tokens = isNumber(written) ? many(written, "token") : null;
  const took = isNumber(from) && isNumber(to) ? `in ${seconds(to - from)}` : null;
  return [STATUS_WORDS[status], [tokens, took].filter(Boolean).join(" ")].filter(Boolean).join(": ");
}

function errorCard({ error, started_at: startedAt }) {
  const { title, words, advice, numbers } = explain(error, isNumber(startedAt) ? "begun" : "not_begun");
  return el("section", { class: "card trouble", data: { error: error.code }, "aria-labelledby": "error-title" },
    el("h2", { id: "error-title", text: title }),
    el("p", { text: words }),
    numbersOf(numbers),
    advice ? el("p", { class: "advice", text: advice }) : null,
    el("p", { class: "message" }, el("code", { text: error.code }), ` ${error.status ?? ""} · ${error.message ?? ""}`));
}
