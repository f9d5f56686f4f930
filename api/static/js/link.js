/** How the page stands with the server: said in the header, and by dimming a picture that is no longer true. */

import { setText } from "./dom.js";
import { seconds } from "./words.js";

const WORDS = {
  loading: "Connecting…",
  live: "Live",
  reconnecting: "Reconnecting…",
  trouble: "The queue’s server is away",
  key: "A key is needed",
  forbidden: "Not allowed",
  error: "Something is wrong",
  missing: "Not found",
};
let ageOf = () => null;
let timer = null;

/**
 * Show a state.
 * @param {keyof WORDS} link
 * @param {() => number|null} age seconds since what is shown was true
 */
export function showLink(link, age = ageOf) {
  ageOf = age;
  document.body.dataset.link = link;
  setText(document.getElementById("link"), WORDS[link]);
  clearInterval(timer);
  const old = link === "reconnecting" || link === "trouble";
  if (old) timer = setInterval(showAge, 1000);
  showAge();
}

/** The age is beside the status, not in it: a screen reader is told the state once, not every second. */
function showAge() {
  const link = document.body.dataset.link;
  const age = link === "reconnecting" || link === "trouble" ? ageOf() : null;
  setText(document.getElementById("age"), age === null ? "" : `as of ${seconds(Math.round(age))} ago`);
}
