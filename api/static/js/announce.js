/** What a screen reader is told, and seldom: one sentence at a time, and none twice within a moment. */

import { setText } from "./dom.js";

const APART_MS = 1500;
let next = null;
let timer = null;
let saidAt = 0;

/** Say a sentence politely; of several that come at once the last is said. */
export function announce(sentence) {
  next = sentence;
  timer ??= setTimeout(say, Math.max(100, saidAt + APART_MS - Date.now()));
}

function say() {
  timer = null;
  saidAt = Date.now();
  setText(document.getElementById("announcer"), next);
}
