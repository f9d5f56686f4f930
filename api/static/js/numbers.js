/** A chart's numbers as a table, minute by minute, for whoever cannot or would not read a chart. */

import { el, fill } from "./dom.js";
import { bytes, clock, count, rate, workerName } from "./words.js";

const COLUMNS = [
  ["Used", (point) => bytes(point.used_bytes)],
  ["Weights", (point) => bytes(point.weights_bytes)],
  ["Reserved", (point) => bytes(point.reserved_bytes)],
  ["Cache", (point) => bytes(point.cache_bytes)],
  ["Headroom", (point) => bytes(point.headroom_bytes)],
  ["Running", (point) => count(point.running)],
  ["Speed", (point) => rate(point.tokens_per_second)],
];

/** Make a table that is filled when it is opened, and kept up while it is open. */
export function makeNumbers(name) {
  const body = el("tbody");
  const head = el("tr", {}, el("th", { scope: "col", text: "At" }), COLUMNS.map(([word]) => el("th", { scope: "col", text: word })));
  const table = el(
    "table",
    { data: { numbers: true } },
    el("caption", { text: `Memory of ${workerName(name)}, minute by minute: the last of each, newest first` }),
    el("thead", {}, head),
    body,
  );
  const details = el(
    "details",
    { class: "numbers" },
    el("summary", { text: "The numbers" }),
    el("div", { class: "scroller", tabindex: 0, role: "region", "aria-label": `Numbers of ${workerName(name)}` }, table),
  );
  let points = [];
  details.addEventListener("toggle", () => details.open && show());

  function show() {
    const rows = lastOfEachMinute(points).map((point) =>
      el("tr", {}, el("th", { scope: "row", text: clock(point.at) }), COLUMNS.map(([, words]) => el("td", { text: words(point) }))),
    );
    fill(body, rows);
  }

  return {
    details,
    update(now) {
      const newer = now.at(-1)?.at !== points.at(-1)?.at;
      points = now;
      if (details.open && newer) show();
    },
  };
}

function lastOfEachMinute(points) {
  const found = new Map();
  for (const point of points) found.set(Math.floor(point.at / 60), point);
  return [...found.values()].reverse();
}
