/** What is known of the tide: the newest event, and fifteen minutes of every worker's history. */

export const KEPT_SECONDS = 900;
const CLASSES = ["interactive", "standard", "batch"];
const POINTS_MOST = 4000;
const MARKS_MOST = 2000;

export class Picture {
  /** Unix seconds by the server's clock at which this was true; null before the first event. */
  at = null;
  /** @type {Map<string, {name: string, report: object|null, points: object[], marks: object[], lastAt: number}>} */
  workers = new Map();
  queue = { interactive: lane(), standard: lane(), batch: lane() };
  running = [];
  ended = [];
  #ahead = 0;

  /** The server's time now, in Unix seconds, whatever this machine's clock says. */
  now() {
    return Date.now() / 1000 + this.#ahead;
  }

  /** Take what a `tide` event tells; a fresh connection tells all of it again. */
  take(event) {
    if (!event || typeof event.now !== "number") return;
    this.at = event.now;
    this.#ahead = event.now - Date.now() / 1000;
    for (const worker of this.workers.values()) worker.report = null;
    for (const report of list(event.capacity?.workers)) {
      const worker = this.#worker(report.name);
      worker.report = report;
      worker.lastAt = Math.max(worker.lastAt, report.updated_at ?? event.now);
    }
    for (const history of list(event.histories)) {
      const worker = this.#worker(history.name);
      worker.points = later(worker.points, list(history.points), POINTS_MOST, event.now);
      worker.marks = merged(worker.marks, list(history.marks), event.now);
      worker.lastAt = Math.max(worker.lastAt, worker.points.at(-1)?.at ?? 0);
    }
    for (const [name, worker] of this.workers) {
      if (!worker.report && worker.lastAt < event.now - KEPT_SECONDS) this.workers.delete(name);
    }
    for (const name of CLASSES) {
      this.queue[name] = { ...lane(), ...event.queue?.[name] };
    }
    this.running = list(event.running);
    this.ended = list(event.ended);
  }

  /** What each model's weights take: in a job's estimate they are counted, on a worker they are there once. */
  weights() {
    const models = [...this.workers.values()].flatMap(({ report }) => list(report?.models));
    return new Map(models.filter(({ card }) => card).map(({ id, card }) => [id, card.weights_bytes]));
  }

  #worker(name) {
    if (!this.workers.has(name)) {
      this.workers.set(name, { name, report: null, points: [], marks: [], lastAt: 0 });
    }
    return this.workers.get(name);
  }
}

const lane = () => ({ jobs: 0, tokens: 0, oldest_seconds: null, head: [] });
const list = (value) => (Array.isArray(value) ? value : []);

/** Points behind those that are there, without what is too old. */
function later(there, more, most, now) {
  const newest = there.at(-1)?.at ?? -Infinity;
  const fresh = more.filter((point) => point.at > newest);
  return [...there, ...fresh].filter((point) => point.at >= now - KEPT_SECONDS).slice(-most);
}

/** Marks, of which several may have one moment: each kind of each job at each moment once. */
function merged(there, more, now) {
  if (more.length === 0 && (there[0]?.at ?? Infinity) >= now - KEPT_SECONDS) return there;
  const name = (mark) => `${mark.at} ${mark.kind} ${mark.job_id} ${mark.words}`;
  const known = new Set(there.map(name));
  const all = [...there, ...more.filter((mark) => !known.has(name(mark)))];
  return all
    .filter((mark) => mark.at >= now - KEPT_SECONDS)
    .sort((one, other) => one.at - other.at)
    .slice(-MARKS_MOST);
}

/** What a worker does, in one word for style and in words for people. */
export function stateOf(worker, now) {
  const { report, lastAt } = worker;
  if (!report) return { state: "lost", words: "Gone: it left, or fell silent", since: lastAt };
  const engine = report.engine ?? "";
  if (report.cools_until && report.cools_until > now) {
    return { state: "cooling", words: "Cooling down: its engine died too often", until: report.cools_until };
  }
  if (engine.startsWith("measuring ")) return { state: "measuring", words: `Measuring ${engine.slice(10)}` };
  if (engine.startsWith("loading ")) return { state: "loading", words: `Loading ${engine.slice(8)}` };
  if (engine === "cooling down") return { state: "cooling", words: "Cooling down" };
  if (engine === "starting") return { state: "starting", words: "Starting its engine" };
  return { state: "ready", words: report.running ? `Running ${report.running} job${report.running === 1 ? "" : "s"}` : "Ready" };
}
