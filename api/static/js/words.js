/** Numbers as people read them: bytes, seconds, counts, times of day. */

const COUNT = new Intl.NumberFormat("en");
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const UNITS = [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]];
export const DASH = "–";

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** `21.4 GiB`, `3.1 MiB`; a dash where nothing is known. */
export function bytes(count) {
  if (!isNumber(count)) return DASH;
  const [unit, size] = UNITS.find(([, each]) => Math.abs(count) >= each) ?? ["B", 1];
  const value = count / size;
  return `${size === 1 ? COUNT.format(value) : value.toFixed(1)} ${unit}`;
}

/** `12.3 of 18.0 GiB`, in the larger one's unit. */
export function bytesOf(part, whole) {
  if (!isNumber(part) || !isNumber(whole)) return `${bytes(part)} of ${bytes(whole)}`;
  const [unit, size] = UNITS.find(([, each]) => Math.abs(whole) >= each) ?? ["B", 1];
  return `${(part / size).toFixed(size === 1 ? 0 : 1)} of ${(whole / size).toFixed(size === 1 ? 0 : 1)} ${unit}`;
}

export const count = (value) => (isNumber(value) ? COUNT.format(Math.round(value)) : DASH);

/** `1 job`, `2,000 jobs`. */
export const many = (value, noun, nouns = `${noun}s`) => `${count(value)} ${value === 1 ? noun : nouns}`;

/** `0.4 s`, `12 s`, `3 min 20 s`, `1 h 4 min`, `2 d 3 h`. */
export function seconds(value) {
  if (!isNumber(value)) return DASH;
  const whole = Math.max(0, value);
  if (whole < 9.95) return `${whole.toFixed(1)} s`;
  const rounded = Math.round(whole);
  if (rounded < 60) return `${rounded} s`;
  if (rounded < 3600) return joined(rounded, 60, "min", 1, "s");
  if (rounded < 86400) return joined(rounded, 3600, "h", 60, "min");
  return joined(rounded, 86400, "d", 3600, "h");
}

function joined(value, large, largeUnit, small, smallUnit) {
  const rest = Math.floor((value % large) / small);
  return `${Math.floor(value / large)} ${largeUnit}${rest ? ` ${rest} ${smallUnit}` : ""}`;
}

/** `132 tokens/s`. */
export function rate(value) {
  if (!isNumber(value)) return DASH;
  return `${value < 10 ? value.toFixed(1) : count(value)} tokens/s`;
}

/** The time of day of Unix seconds. */
export const timeOfDay = (unixSeconds) => CLOCK.format(new Date(unixSeconds * 1000));

/** The time of day of Unix seconds, with its day where that is not today. */
export function clock(unixSeconds) {
  if (!isNumber(unixSeconds)) return DASH;
  const at = new Date(unixSeconds * 1000);
  const today = at.toDateString() === new Date().toDateString();
  return today ? CLOCK.format(at) : `${DAY.format(at)}, ${CLOCK.format(at)}`;
}

/** `just now`, `12 s ago`. */
export function ago(unixSeconds, now) {
  if (!isNumber(unixSeconds)) return DASH;
  const since = now - unixSeconds;
  if (since < 2) return "just now";
  return `${seconds(since < 600 ? Math.round(since) : Math.floor(since / 60) * 60)} ago`;
}

/** A job's id as it fits a table: its end tells it from others. */
export const shortId = (id) => (id.length > 14 ? `…${id.slice(-8)}` : id);

/** A worker's name as people tell it from others: RQ draws 32 digits where nobody gave it one. */
export const workerName = (name) => (/^[0-9a-f]{32}$/.test(name) ? name.slice(0, 8) : String(name));

/** When something should begin, in so many seconds. */
export const soon = (value) => (isNumber(value) ? (value < 0.5 ? "any moment" : seconds(value)) : DASH);

export const STATUS_WORDS = {
  queued: "waiting",
  in_progress: "running",
  completed: "completed",
  incomplete: "cut at its length",
  failed: "failed",
  cancelled: "cancelled",
};
export const ENDED = new Set(["completed", "incomplete", "failed", "cancelled"]);
