/** Light, dark, or as the system has it: a choice that stays with this browser. */

import { setAttribute, setText } from "./dom.js";

const PLACE = "tidegate.theme";
const NEXT = { auto: "light", light: "dark", dark: "auto" };
const listeners = new Set();

function stored(act) {
  try {
    return act(window.localStorage);
  } catch {
    return null; // a browser that keeps nothing: the choice lasts as long as the page
  }
}

function show(button, theme) {
  document.documentElement.dataset.theme = theme;
  setText(button.querySelector("[data-theme-word]"), theme);
  setAttribute(button, "aria-label", `Theme: ${theme}. Change to ${NEXT[theme]}`);
  for (const listener of listeners) listener();
}

/** Tell when colours change; answers a function that ends it. */
export function onTheme(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function installTheme() {
  const button = document.querySelector("[data-theme-toggle]");
  const kept = stored((storage) => storage.getItem(PLACE));
  let chosen = Object.hasOwn(NEXT, kept ?? "") ? kept : "auto";
  show(button, chosen);
  button.addEventListener("click", () => {
    chosen = NEXT[chosen];
    stored((storage) => storage.setItem(PLACE, chosen));
    show(button, chosen);
  });
  window.addEventListener("beforeprint", () => show(button, "light"));
  window.addEventListener("afterprint", () => show(button, chosen));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const listener of listeners) listener();
  });
}
