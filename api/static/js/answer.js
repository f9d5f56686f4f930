/** A job's answer as it is written: text behind text, its end kept in view unless its reader scrolled up. */

import { el, setAttribute, setText } from "./dom.js";

const NEAR_END = 40;

export function makeAnswer() {
  const output = el("pre", { class: "output", dir: "auto", data: { output: true }, tabindex: 0, role: "region", "aria-label": "The answer’s text" });
  const reasoning = el("pre", { class: "output", dir: "auto", data: { reasoning: true }, tabindex: 0, role: "region", "aria-label": "Its reasoning" });
  const thought = el("details", { class: "thought", hidden: true, open: true }, el("summary", { text: "Reasoning" }), reasoning);
  const state = el("span", { class: "facts" });
  const copy = el("button", { type: "button", class: "quiet", text: "Copy", hidden: !navigator.clipboard });
  const tools = el("pre", { class: "output calls", hidden: true, data: { calls: true }, tabindex: 0, role: "region", "aria-label": "Calls of tools" });
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(output.textContent);
      setText(copy, "Copied");
    } catch {
      setText(copy, "Not copied");
    }
    setTimeout(() => setText(copy, "Copy"), 1500);
  });
  const node = el("section", { class: "card answer", "aria-labelledby": "answer-title" },
    el("header", {}, el("h2", { id: "answer-title", text: "Answer" }), state, copy), thought, output, tools);

  return {
    node,
    /** Write on. */
    add({ text, reasoning: more }) {
      const follows = output.scrollHeight - output.scrollTop - output.clientHeight < NEAR_END;
      if (more) {
        thought.hidden = false;
        reasoning.append(more);
      }
      if (text) output.append(text);
      if (follows) output.scrollTop = output.scrollHeight;
    },
    /** Show a result where no stream of it is left, or one that lacks a part. */
    whole(result) {
      if (result?.text && output.textContent !== result.text) output.replaceChildren(result.text);
      if (result?.reasoning && reasoning.textContent !== result.reasoning) {
        thought.hidden = false;
        reasoning.replaceChildren(result.reasoning);
      }
      tools.hidden = !result?.tool_calls?.length;
      if (!tools.hidden) setText(tools, JSON.stringify(result.tool_calls, null, 2));
      output.hidden = !tools.hidden && output.textContent === "";
    },
    /** @param {"waiting"|"reading"|"writing"|"ended"} phase @param {string} words */
    phase(phase, words) {
      setAttribute(node, "data-phase", phase);
      setText(state, words);
      setAttribute(output, "data-empty-words", phase === "ended" && output.textContent === "" ? "It wrote nothing." : "");
    },
    text: () => output.textContent,
  };
}
