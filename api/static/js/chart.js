/** A worker's last fifteen minutes: its memory stacked up to the budget, and what was used as a line. */

import { el, setAttribute, setCss, setText } from "./dom.js";
import { makeMarks } from "./marks.js";
import { makeNumbers } from "./numbers.js";
import { makeReadout, pointWords } from "./readout.js";
import { KEPT_SECONDS } from "./picture.js";
import { onTheme } from "./theme.js";
import { bytes, clock, isNumber, many, timeOfDay, workerName } from "./words.js";

const HEIGHT = 190;
const STACK = ["weights", "reserved", "cache", "headroom"];
/** A young history fills the chart; so much time it has at least. */
const SHOWN_LEAST_SECONDS = 120;
const COARSE_SECONDS = 400;
/** Behind so long a silence nothing is known: the areas have a gap there. */
const GAP_SECONDS = 45;
const UNITS = [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10], ["B", 1]];

/**
 * Make a chart.
 * @param {string} name the worker's
 * @returns {{figure: Element, update: (worker: object, now: number) => void, gone: () => void}}
 */
export function makeChart(name) {
  const plot = el("div", { class: "plot", role: "img" });
  const readout = makeReadout();
  const marks = makeMarks(name, (sentence) => (sentence === null ? readout.point(points.at(-1)) : readout.sentence(sentence)));
  const numbers = makeNumbers(name);
  const scrubber = el("input", {
    type: "range",
    class: "scrubber",
    min: 0,
    value: 0,
    "aria-label": `Look back over the memory of ${workerName(name)}`,
    on: { focus: scrub, input: scrub, blur: () => chart?.setCursor({ left: -10, top: -10 }) },
  });
  const stage = el("div", { class: "stage" }, plot, marks.lane);
  const title = el("span", { class: "chart-title" });
  const caption = el("figcaption", {}, title, readout.node);
  const figure = el("figure", { class: "chart", data: { chart: name } }, caption, stage, scrubber, marks.details, numbers.details);
  let chart = null;
  let points = [];
  let rows = [];
  let told = false;
  let start = 0;
  let end = 0;

  const size = new ResizeObserver(() => {
    const width = stage.clientWidth;
    if (chart && width > 0 && width !== chart.width) chart.setSize({ width, height: HEIGHT });
    else if (!chart && points.length > 0) draw();
  });
  size.observe(stage);
  const themed = onTheme(() => rebuild());

  function rebuild() {
    chart?.destroy();
    chart = null;
    if (points.length > 0) draw();
  }

  function draw() {
    const data = columns(rows);
    if (!chart) {
      if (stage.clientWidth === 0) return;
      chart = new globalThis.uPlot(options(stage.clientWidth, plot, { tell, place, range: () => [start, end] }), data, plot);
    } else {
      chart.setData(data);
    }
  }

  function tell(at) {
    told = isNumber(at) && rows[at]?.point;
    if (told || !marks.told()) readout.point(told || points.at(-1));
  }

  function scrub() {
    const row = rows[Number(scrubber.value)];
    if (!chart || !row) return;
    setAttribute(scrubber, "aria-valuetext", row.point ? pointWords(row.point) : "nothing is known of that time");
    chart.setCursor({ left: chart.valToPos(row.at, "x"), top: 10 });
  }

  /** The scrubber stays at the newest moment, unless somebody is looking at another. */
  function slide() {
    setAttribute(scrubber, "max", Math.max(0, rows.length - 1));
    if (document.activeElement === scrubber) return;
    scrubber.value = String(rows.length - 1);
    setAttribute(scrubber, "aria-valuetext", pointWords(points.at(-1)));
  }

  /** Put the marks over what was just drawn: only then is it known where the plot is. */
  function place(drawn) {
    const { left, width } = drawn.over.getBoundingClientRect();
    marks.place(left - stage.getBoundingClientRect().left, width, start, end);
  }

  function update(worker, now) {
    points = worker.points;
    end = now;
    start = Math.max(end - KEPT_SECONDS, Math.min(points[0]?.at ?? end, end - SHOWN_LEAST_SECONDS));
    setText(title, `The last ${many(Math.ceil((end - start) / 60 - 0.1), "minute")}`);
    rows = rowsOf(points, worker.report !== null, now);
    const last = points.at(-1);
    if (!told && !marks.told()) readout.point(last);
    setAttribute(figure, "data-points", points.length);
    setAttribute(plot, "aria-label", alternative(workerName(name), points));
    marks.update(worker.marks);
    numbers.update(points);
    stage.hidden = points.length === 0;
    numbers.details.hidden = stage.hidden;
    slide();
    if (points.length > 0) draw();
  }

  return {
    figure,
    update,
    gone() {
      size.disconnect();
      themed();
      chart?.destroy();
    },
  };
}

function alternative(name, points) {
  if (points.length === 0) return `${name}: no history yet`;
  const most = Math.max(...points.map((point) => point.used_bytes));
  const last = points.at(-1);
  return (
    `Memory of ${name} from ${clock(points[0].at)} to ${clock(last.at)}: at most ${bytes(most)} used ` +
    `of ${bytes(last.budget_bytes)}, now ${bytes(last.used_bytes)}. The numbers are in the table below.`
  );
}

/** The rows that are drawn: points, a null where nothing is known, and the newest once more, as it holds until now. */
function rowsOf(points, live, now) {
  const rows = [];
  points.forEach((point, at) => {
    const before = points[at - 1];
    if (before && point.at - before.at > GAP_SECONDS) rows.push({ at: before.at + 1, point: null });
    rows.push({ at: point.at, point });
  });
  const last = points.at(-1);
  if (live && last && now > last.at) rows.push({ at: now, point: last });
  return rows;
}

/** Columns for uPlot: times, the stack's sums from the top down, the line, the working budget where it is less. */
function columns(rows) {
  const table = rows.map(({ at, point }) => {
    if (!point) return [at, ...Array(7).fill(null)];
    let sum = 0;
    const sums = STACK.map((each) => (sum += point[`${each}_bytes`])).reverse();
    const working = point.working_bytes < point.budget_bytes ? point.working_bytes : null;
    return [at, ...sums, point.used_bytes, point.used_bytes, working];
  });
  return Array.from({ length: 8 }, (_, column) => table.map((row) => row[column]));
}

/** A colour of the page's, as a canvas takes it: without the choice between day and night. */
function colourIn(root, name) {
  const probe = root.appendChild(el("i"));
  setCss(probe, { color: `var(--${name})` });
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function options(width, root, { tell, place, range }) {
  const colour = (name) => colourIn(root, name);
  const { paths } = globalThis.uPlot;
  const stepped = paths.stepped({ align: 1 });
  const area = (name) => ({ stroke: colour("surface"), width: 1, fill: colour(name), paths: stepped, points: { show: false } });
  const line = (name, thick) => ({ stroke: colour(name), width: thick, paths: stepped, points: { show: false } });
  const axis = { stroke: colour("ink-soft"), font: `11px ${getComputedStyle(root).fontFamily}`, ticks: { show: false } };
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    padding: [10, 22, 0, 0],
    scales: { x: { time: true, range }, y: { range: (_, __, most) => [0, Math.max(1, most ?? 1) * 1.02] } },
    axes: [
      { ...axis, grid: { show: false }, space: 70, size: 26, values: times },
      { ...axis, grid: { stroke: colour("line"), width: 1 }, size: 58, splits: (u) => quarters(u.scales.y.max), values: labels },
    ],
    series: [
      {},
      { ...area("headroom"), stroke: colour("edge"), width: 1.5 }, // its upper edge is the budget
      ...STACK.slice(0, -1).toReversed().map(area), // each sum's area reaches to the ground: the next one covers what is not its own
      line("surface", 4), // under the line, so that it is seen on every ground
      line("used", 2),
      { ...line("working", 2), dash: [5, 4] },
    ],
    hooks: { draw: [place], setCursor: [(u) => tell(u.cursor.left < 0 ? null : u.cursor.idx)] },
    cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
  };
}

function times(u, ticks) {
  const coarse = u.scales.x.max - u.scales.x.min > COARSE_SECONDS;
  return ticks.map((at) => (coarse ? timeOfDay(at).slice(0, -3) : timeOfDay(at)));
}

function unitOf(most) {
  return UNITS.find(([, size]) => most >= size) ?? UNITS.at(-1);
}

function quarters(most) {
  const [, size] = unitOf(most);
  const rough = most / size / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough) * size;
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, at) => at * step);
}

function labels(u, ticks) {
  const [unit, size] = unitOf(u.scales.y.max);
  return ticks.map((tick) => `${+(tick / size).toFixed(2)} ${unit}`);
}
