/** What is told beside a chart: the numbers of a moment, each with its colour, or the sentence of a mark. */

import { el, fill, setText } from "./dom.js";
import { bytes, clock, rate } from "./words.js";

const SAID = ["used", "headroom", "cache", "reserved", "weights"];
const NOTHING = "No history yet: it comes with the worker’s next reports.";

/** A point of a history as a sentence. */
export function pointWords(point) {
  if (!point) return NOTHING;
  const said = SAID.map((each) => `${each} ${bytes(point[`${each}_bytes`])}`);
  return `${clock(point.at)}: ${said.join(", ")}; ${runningWords(point)}`;
}

/** How many run and how fast; the speed that a worker last had is not told of nothing. */
const runningWords = ({ running, tokens_per_second: speed }) => (running > 0 ? `${running} running, ${rate(speed)}` : "nothing runs");

export function makeReadout() {
  const time = el("time");
  const values = SAID.map((each) => [each, el("b")]);
  const speed = el("span", { class: "speed" });
  const parts = [time, ...values.map(([each, value]) => el("span", { class: `key row-${each}` }, `${each} `, value)), speed];
  const words = el("span");
  const node = el("p", { class: "readout", data: { readout: true } });

  return {
    node,
    /** Tell a point, or that there is none. */
    point(point) {
      if (!point) {
        setText(words, NOTHING);
        fill(node, words);
        return;
      }
      setText(time, clock(point.at));
      for (const [each, value] of values) setText(value, bytes(point[`${each}_bytes`]));
      setText(speed, runningWords(point));
      fill(node, parts);
    },
    /** Tell a sentence. */
    sentence(sentence) {
      setText(words, sentence);
      fill(node, words);
    },
  };
}
