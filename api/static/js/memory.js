/** A job's memory as bars beside each other: what was foreseen, what is reserved, what it really took. */

import { el, setCss, setData, setText } from "./dom.js";
import { bytes, DASH, isNumber } from "./words.js";

const BARS = [
  ["estimated", "Estimated", "alone and at its longest, the model’s weights included"],
  ["reserved", "Reserved", "its share of what is reserved now"],
  ["peak", "Peak", "the most that its share really took, without the weights"],
];

export function makeMemory() {
  const rows = BARS.map(([name, word, why]) => {
    const value = el("span", { class: "memory-value" });
    const bar = el("div", { class: "memory-bar", "aria-hidden": "true" }, el("div", { class: "memory-fill" }));
    const node = el("li", { data: { memory: name } },
      el("span", { class: "memory-word", text: word }), value, bar, el("span", { class: "facts", text: why }));
    return { name, node, value, bar };
  });
  const ratio = el("p", { class: "facts" });
  const node = el("section", { class: "card memory", "aria-labelledby": "memory-title" },
    el("h2", { id: "memory-title", text: "Memory" }), el("ul", {}, rows.map((row) => row.node)), ratio);
  return {
    node,
    update({ memory, status }) {
      const most = Math.max(1, ...BARS.map(([name]) => memory[`${name}_bytes`] ?? 0));
      for (const { name, node: row, value, bar } of rows) {
        const held = memory[`${name}_bytes`];
        const over = name === "reserved" && held === 0 && status !== "in_progress";
        setData(row, { bytes: held ?? null });
        setText(value, over ? "nothing now" : isNumber(held) ? bytes(held) : DASH);
        setCss(bar, { "--part": ((held ?? 0) / most).toFixed(4) });
      }
      const said = [];
      if (isNumber(memory.budget_bytes)) said.push(`Its worker may use ${bytes(memory.budget_bytes)}.`);
      if (isNumber(memory.footprint_ratio)) said.push(`The largest reservation was ${memory.footprint_ratio.toFixed(2)} times the measured peak.`);
      setText(ratio, said.join(" "));
    },
  };
}
