/** A job's story as its stream tells it, from the first event on; no event is taken twice. */

import { isNumber } from "./words.js";

const STEPS = new Set(["queued", "started", "requeued", "completed", "incomplete", "failed", "cancelled"]);
const ENDS = new Set(["completed", "incomplete", "failed", "cancelled"]);

export class Story {
  /** What the timeline shows. @type {{kind: string, data: object, at: number|null, key: string}[]} */
  events = [];
  /** The job as it ended; null before that. */
  ended = null;
  /** Whether a piece of the answer has come since the last start. */
  writing = false;
  #newest = 0;

  /**
   * Take an event.
   * @returns {{text: string, reasoning: string}|null} what it adds to the answer
   */
  take({ id, kind, data }) {
    const number = Number(id);
    if (Number.isInteger(number) && number > 0) {
      if (number <= this.#newest) return null;
      this.#newest = number;
    }
    if (kind === "delta") {
      this.writing = true;
      return { text: data?.text ?? "", reasoning: data?.reasoning ?? "" };
    }
    if (!STEPS.has(kind)) return null;
    if (kind !== "queued") this.writing = false;
    const at = isNumber(data?.at) ? data.at : (data?.completed_at ?? null);
    this.events.push({ kind, data: data ?? {}, at, key: `${id} ${kind}` });
    if (ENDS.has(kind)) this.ended = data;
    return null;
  }

  /** The steps with the times that only the job knows, and its end where no log of it is left. */
  steps(job) {
    const steps = this.events.map((event) => ({ ...event, at: event.at ?? timeIn(job, event) }));
    if (steps.length === 0) {
      steps.push({ kind: "queued", data: {}, at: job.created_at, key: "made" });
      if (job.started_at) steps.push({ kind: "started", data: { attempt: job.attempt, worker: "a worker" }, at: job.started_at, key: "started" });
    }
    // Its end may be known before its stream tells it, and still when its log is gone.
    if (!this.ended && ENDS.has(job.status)) steps.push({ kind: job.status, data: job, at: job.completed_at, key: "ended" });
    const first = job.progress?.first_token_seconds;
    const from = steps.findIndex((step) => step.kind === "started");
    if (isNumber(first) && from >= 0 && isNumber(steps[from].at)) {
      const end = steps.find((step) => ENDS.has(step.kind))?.at ?? Infinity; // the first token may be of the last step
      const at = Math.max(Math.min(job.created_at + first, end), steps[from].at);
      const place = steps.findIndex((step, index) => index > from && isNumber(step.at) && step.at >= at);
      steps.splice(place < 0 ? steps.length : place, 0, { kind: "first_token", data: {}, at, key: "first token" });
    }
    return steps;
  }
}

function timeIn(job, { kind, data }) {
  if (kind === "queued") return job.created_at;
  if (kind === "started" && data.attempt === job.attempt) return job.started_at;
  return ENDS.has(kind) ? job.completed_at : null;
}
