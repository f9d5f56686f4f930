/** A worker's tide gauge: a vessel as tall as its budget, filled by weights, reserved, cache; a line at what is used. */

import { el, setAttribute, setCss, setData, setText } from "./dom.js";
import { bytes, bytesOf, workerName } from "./words.js";

/** From the bottom up; what is left is headroom. */
const LAYERS = ["weights", "reserved", "cache"];
const TERMS = [
  ["headroom", "Headroom", "free to be claimed"],
  ["cache", "Cache", "kept, given back when asked for"],
  ["reserved", "Reserved", "promised to running jobs"],
  ["weights", "Weights", "the loaded models"],
];

/**
 * Make a gauge.
 * @param {string} name the worker's
 * @returns {{vessel: Element, legend: Element, update: (report: object) => void}}
 */
export function makeGauge(name) {
  const layers = LAYERS.map((layer) => el("div", { class: `layer layer-${layer}` }));
  const wave = el("div", { class: "wave" });
  const used = el("div", { class: "used-line" });
  const working = el("div", { class: "working-line", hidden: true });
  const water = el("div", { class: "water" }, layers, wave, used, working);
  const scale = [1, 0.75, 0.5, 0.25, 0].map((part) => el("span", { css: { "--at": part } }));
  const vessel = el(
    "div",
    { class: "gauge", role: "meter", "aria-label": `Memory of ${workerName(name)}`, "aria-valuemin": 0, data: { gauge: true } },
    el("div", { class: "scale", "aria-hidden": "true" }, scale),
    water,
  );
  const values = new Map(TERMS.map(([term]) => [term, el("dd")]));
  const usedValue = el("dd");
  const workingValue = el("dd");
  const workingRow = el("div", { class: "row-working", hidden: true }, el("dt", { text: "Working budget" }), workingValue);
  const budgetValue = el("dd");
  const legend = el(
    "dl",
    { class: "legend" },
    el("div", { class: "row-budget" }, el("dt", { text: "Budget" }), budgetValue),
    workingRow,
    TERMS.map(([term, word, why]) => el("div", { class: `row-${term}`, title: why }, el("dt", { text: word }), values.get(term))),
    el("div", { class: "row-used", title: "what was measured" }, el("dt", { text: "Used" }), usedValue),
  );

  function update(report) {
    const budget = Math.max(1, report.budget_bytes);
    const part = (count) => Math.min(1, Math.max(0, count / budget));
    let from = 0;
    LAYERS.forEach((layer, at) => {
      const height = Math.min(1 - from, part(report[`${layer}_bytes`]));
      setCss(layers[at], { "--from": from.toFixed(4), "--height": height.toFixed(4) });
      from += height;
    });
    setCss(wave, { "--from": from.toFixed(4) });
    setCss(used, { "--from": part(report.used_bytes).toFixed(4) });
    const held = report.working_bytes < report.budget_bytes;
    setCss(working, { "--from": part(report.working_bytes).toFixed(4) });
    working.hidden = !held;
    workingRow.hidden = !held;
    setText(workingValue, bytes(report.working_bytes));
    setText(budgetValue, bytes(report.budget_bytes));
    setText(usedValue, bytes(report.used_bytes));
    for (const [term, node] of values) setText(node, bytes(report[`${term}_bytes`]));
    setText(scale[0], bytes(report.budget_bytes));
    const names = ["budget", "working", "weights", "reserved", "cache", "headroom", "used"];
    setData(vessel, Object.fromEntries(names.map((each) => [`${each}-bytes`, report[`${each}_bytes`]])));
    setAttribute(vessel, "aria-valuemax", report.budget_bytes);
    setAttribute(vessel, "aria-valuenow", Math.min(report.used_bytes, report.budget_bytes));
    setAttribute(vessel, "aria-valuetext", sentence(report, held));
  }

  return { vessel, legend, update };
}

function sentence(report, held) {
  const parts = TERMS.map(([term, word]) => `${word.toLowerCase()} ${bytes(report[`${term}_bytes`])}`).reverse();
  const less = held ? `; for now jobs may hold ${bytes(report.working_bytes)}` : "";
  return `${bytesOf(report.used_bytes, report.budget_bytes)} used; ${parts.join(", ")}${less}`;
}
