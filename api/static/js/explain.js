/** Errors and reasons in plain words, with their numbers: what happened, and what to do. */

import { bytes, isNumber, seconds } from "./words.js";

/** Why a job waits again (the `reason` of a `requeued` event). */
const REASONS = {
  memory: "memory ran short, and this was the youngest job of the lowest class",
  preempted: "an interactive job needed its room",
  larger_than_estimated: "its prompt was counted, and it needs more memory than was free there then",
  larger_than_budget: "its prompt was counted, and it needs more memory than its worker may use",
  worker_stopped: "its worker was told to stop",
  worker_lost: "its worker fell silent",
  engine_lost: "the engine was replaced",
  out_of_memory: "memory ran out while it was computed, alone or with others",
  resource_limit: "the device ran out of something else that it counts, such as buffers",
  buffer_too_large: "it asked for a buffer that is larger than the device takes",
  gpu_timeout: "the engine made no progress in time",
  victim: "another process, or an earlier job’s failure, stopped the engine",
  bug: "the engine failed, or ended, for no reason that is known",
};

export const reasonWords = (reason) => REASONS[reason] ?? String(reason ?? "no reason was given").replaceAll("_", " ");
export const REASON_NAMES = Object.keys(REASONS);

/** What each code means: a title, what it means here, and what a person can do. */
const CODES = {
  insufficient_memory: [
    "Memory ran out",
    "The worker had not enough memory to finish this job. Nothing broke: the job was ended so that the others go on.",
    "Try again when others have ended, or ask for fewer tokens.",
  ],
  refused_for_now: [
    "No room for it now",
    "The form said that it must not wait: what is free is too little, or others that wait come first. Nothing was queued.",
    "Try again when the time below is over, or let it wait.",
  ],
  not_begun: [
    "No room for it now",
    "It was sent so that it does not wait, and no worker began it within two seconds: another had the room first.",
    "Try again when the time below is over, or let it wait.",
  ],
  memory_never_fits: [
    "It fits no worker",
    "No worker here could ever hold this job, not even alone: waiting would not help.",
    "Ask for fewer tokens, shorten the prompt, take a smaller model, or give a worker a larger budget.",
  ],
  worker_killed: [
    "It ended its engine",
    "The process that computed this job died of it more than once, so it was stopped for good.",
    "The message says how it died. The other jobs went on without harm.",
  ],
  run_timeout: [
    "It ran out of time",
    "The job ran for as long as it was allowed to.",
    "Allow more with run_timeout, or ask for fewer tokens. What it had written by then is kept.",
  ],
  queue_timeout: [
    "It waited too long",
    "The job’s queue_timeout passed before a worker had room for it.",
    "Try again later, or allow a longer wait.",
  ],
  queue_full: ["The queue is full", "As many jobs wait as may.", "A place is held for you when the time below is over."],
  no_worker: ["No worker serves this model", "Nobody could run this job now.", "Start a worker for it, then try again."],
  engine_timeout: ["The engine stood still", "It made no progress in time.", "Try again: this can pass."],
  rate_limit_exceeded: ["Your key’s share is used up", "The key may take only so much a minute.", "Wait, then try again."],
  store_unavailable: [
    "The queue’s server is away",
    "The API is up, but what keeps the jobs does not answer.",
    "Nothing that was accepted is lost. This page tries again by itself.",
  ],
  unauthorized: ["A key is needed", "This API answers only those who have a key.", "Type yours below."],
  forbidden: ["Not allowed", "You may not do this here.", ""],
  not_found: ["Not found", "There is nothing of this name, or it is another key’s, or its time to be kept is over.", ""],
  model_not_found: ["No such model", "This model is not served here.", "Choose one of the list."],
  invalid_request: ["The request cannot be taken", "A field of it is not as it should be.", "The message names it."],
  body_too_large: ["The request is too large", "Its body has more bytes than are taken.", ""],
  cancelled: ["It was cancelled", "Somebody stopped this job.", ""],
  internal_error: ["A fault of the server’s", "Something went wrong that should not.", "The server’s log has its cause."],
};

/**
 * An error for people.
 * @param {{code?: string, message?: string}} error the API's error object
 * @param {"refused"|"not_begun"|"begun"} when there was no job yet, it was not begun, or it was
 * @returns {{title: string, words: string, advice: string, numbers: [string, string][]}}
 */
export function explain(error, when = "begun") {
  const short = error.code === "insufficient_memory";
  const refused = when !== "begun";
  const now = when === "refused" ? "refused_for_now" : "not_begun";
  let [title, words, advice] = CODES[short && refused ? now : error.code] ?? ["It failed", "The server says why below.", ""];
  if (short && !refused && error.estimated_bytes <= error.limit_bytes) {
    words += " The budget had room for what it needs; the machine gave less than its budget.";
    advice = "Try again when other programs on that machine use less memory, or give the worker a smaller budget.";
  }
  const limits = refused ? { memory_never_fits: "the largest budget here", insufficient_memory: "free now" } : { insufficient_memory: "the budget" };
  const numbers = [
    [short && refused ? "it needs beside the weights" : "it needs", error.estimated_bytes, bytes],
    [limits[error.code] ?? "the limit", error.limit_bytes, bytes],
    ["missing", error.estimated_bytes - error.limit_bytes, bytes],
    ["a retry made sense after", error.retry_after, seconds],
  ];
  return {
    title,
    words,
    advice,
    numbers: numbers.filter(([, value]) => isNumber(value) && value > 0).map(([name, value, as]) => [name, as(value)]),
  };
}

/** What kinds of marks there are, in words and in a shape each: colour alone tells nobody. */
export const MARKS = {
  admitted: { words: "admitted", shape: "M0,-5 L5,4 L-5,4 Z" },
  ended: { words: "ended", shape: "M-3.5,0 A3.5,3.5 0 1 1 3.5,0 A3.5,3.5 0 1 1 -3.5,0 Z" },
  shed: { words: "shed", shape: "M0,6 L6,0 L0,-6 L-6,0 Z" },
  preempted: { words: "preempted", shape: "M-6,-5 L0,-1 L6,-5 L6,0 L0,5 L-6,0 Z" },
  out_of_memory: { words: "out of memory", shape: "M-2.6,-6 L2.6,-6 L6,-2.6 L6,2.6 L2.6,6 L-2.6,6 L-6,2.6 L-6,-2.6 Z" },
  engine_died: { words: "engine died", shape: "M-6,-3 L-3,-6 L0,-3 L3,-6 L6,-3 L3,0 L6,3 L3,6 L0,3 L-3,6 L-6,3 L-3,0 Z" },
};
export const markWords = (kind) => MARKS[kind]?.words ?? String(kind);
