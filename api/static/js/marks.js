/** What happened on a worker: marks above its chart, each a button that tells its sentence, and the same as a list. */

import { el, keyed, setAttribute, setData, setText, svg } from "./dom.js";
import { MARKS, markWords } from "./explain.js";
import { jobPath } from "./router.js";
import { bytes, clock, many, shortId, workerName } from "./words.js";

/** Marks nearer than so many pixels are told as one. */
const NEAR = 13;
const SEVERITY = ["engine_died", "out_of_memory", "preempted", "shed", "admitted", "ended"];
const LISTED_MOST = 100;

/**
 * Make the marks of a chart.
 * @param {string} name the worker's
 * @param {(sentence: string|null) => void} tell shows a mark's sentence, or takes it away
 */
export function makeMarks(name, tell) {
  const lane = el("div", { class: "marks", role: "toolbar", "aria-label": `What happened on ${workerName(name)}` });
  const list = el("ol", { class: "mark-list", data: { marks: true } });
  const summary = el("summary");
  const details = el("details", { class: "marks-told" }, summary, list);
  const showButtons = keyed(lane, (group) => group.key, (group) => makeButton(group, tell, lane));
  const showRows = keyed(list, (mark) => `${mark.at} ${mark.kind} ${mark.job_id} ${mark.words}`, makeRow);
  let marks = [];

  lane.addEventListener("keydown", (event) => {
    const buttons = [...lane.children];
    const at = buttons.indexOf(document.activeElement);
    const last = buttons.length - 1;
    const to = { ArrowRight: Math.min(last, at + 1), ArrowLeft: Math.max(0, at - 1), Home: 0, End: last }[event.key];
    if (event.key === "Escape") document.activeElement.blur();
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    rove(lane, buttons[to]);
    buttons[to].focus();
  });

  return {
    lane,
    details,
    /** Whether one of them is being looked at. */
    told: () => lane.querySelector(".mark:hover, .mark:focus") !== null,
    update(all) {
      marks = all;
      details.hidden = all.length === 0;
      setText(summary, `What happened: ${counts(all)}`);
      showRows(all.slice(-LISTED_MOST).reverse());
    },
    /** Put the marks where their times are: a plot from `left`, `width` wide, from one time to another. */
    place(left, width, from, to) {
      const x = (mark) => left + ((mark.at - from) / (to - from)) * width;
      showButtons(groups(marks.filter((mark) => mark.at >= from), x));
      const stop = lane.querySelector('[tabindex="0"]');
      if (!stop && lane.lastElementChild) rove(lane, lane.lastElementChild);
    },
  };
}

function rove(lane, to) {
  for (const button of lane.children) setAttribute(button, "tabindex", button === to ? 0 : -1);
}

/** Marks side by side, those that would overlap together; the gravest gives its shape. */
function groups(marks, x) {
  const found = [];
  for (const mark of marks) {
    const last = found.at(-1);
    if (last && x(mark) - last.x < NEAR) last.marks.push(mark);
    else found.push({ x: x(mark), marks: [mark] });
  }
  for (const group of found) {
    group.kind = SEVERITY.find((kind) => group.marks.some((mark) => mark.kind === kind)) ?? group.marks[0].kind;
    group.key = `${group.marks[0].at} ${group.marks[0].kind} ${group.marks[0].job_id}`;
  }
  return found;
}

function makeButton(first, tell, lane) {
  let group = first;
  const shape = svg("path", {});
  const number = el("span", { class: "mark-count", "aria-hidden": "true" });
  const node = el(
    "button",
    { type: "button", class: "mark", tabindex: -1 },
    svg("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true", focusable: "false" }, shape),
    number,
  );
  const say = () => tell(sentenceOf(group.marks));
  const unsay = () => tell(null);
  node.addEventListener("focus", () => {
    rove(lane, node);
    say();
  });
  node.addEventListener("mouseenter", say);
  node.addEventListener("click", say);
  node.addEventListener("blur", unsay);
  node.addEventListener("mouseleave", unsay);
  return {
    node,
    update(now) {
      group = now;
      node.style.left = `${Math.round(group.x)}px`;
      setData(node, { mark: group.kind, at: group.marks[0].at });
      setAttribute(shape, "d", MARKS[group.kind]?.shape ?? MARKS.ended.shape);
      setAttribute(node, "aria-label", sentenceOf(group.marks));
      setText(number, group.marks.length > 1 ? String(group.marks.length) : "");
    },
  };
}

/** One mark's own words, or of several how many of each kind and the gravest one's words. */
function sentenceOf(marks) {
  if (marks.length === 1) return `${clock(marks[0].at)} · ${wordsOf(marks[0])}`;
  const gravest = SEVERITY.map((kind) => marks.find((mark) => mark.kind === kind)).find(Boolean) ?? marks[0];
  return `${clock(marks[0].at)} · ${marks.length} together: ${counts(marks)} · ${wordsOf(gravest)}`;
}

function wordsOf(mark) {
  if (mark.words) return mark.words;
  return mark.bytes ? `${markWords(mark.kind)}: ${bytes(mark.bytes)}` : markWords(mark.kind);
}

function counts(marks) {
  if (marks.length === 0) return "nothing";
  return SEVERITY.map((kind) => [kind, marks.filter((mark) => mark.kind === kind).length])
    .filter(([, number]) => number > 0)
    .map(([kind, number]) => (kind === "engine_died" ? many(number, "engine died", "engines died") : `${number} ${markWords(kind)}`))
    .join(", ");
}

function makeRow(mark) {
  const link = mark.job_id ? el("a", { href: jobPath(mark.job_id), text: shortId(mark.job_id) }) : null;
  const icon = svg(
    "svg",
    { viewBox: "-8 -8 16 16", "aria-hidden": "true", focusable: "false" },
    svg("path", { d: MARKS[mark.kind]?.shape ?? MARKS.ended.shape }),
  );
  const node = el(
    "li",
    { data: { kind: mark.kind } },
    el("time", { text: clock(mark.at), datetime: new Date(mark.at * 1000).toISOString() }),
    icon,
    el("strong", { text: markWords(mark.kind) }),
    el("span", { text: wordsOf(mark) }),
    link,
  );
  return { node, update() {} };
}
