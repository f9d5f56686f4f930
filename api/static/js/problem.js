/** What is shown where there is nothing to show: a key is needed, nothing is there, something is wrong. */

import { el, fill, setText } from "./dom.js";
import { explain } from "./explain.js";
import { forgetKey, isSendable, key, useKey } from "./key.js";

/**
 * A refusal where it belongs, with its numbers; where a retry can help, it counts down to it.
 * @param {{code?: string, message?: string}} error the API's
 * @param {number|null} retryAfter seconds
 * @param {() => void} retry what its button does
 */
export function refusalCard(error, retryAfter, retry) {
  const { title, words, advice, numbers } = explain(error, "refused");
  const card = el("div", { class: "refusal", role: "alert", data: { refusal: error.code ?? "error" } },
    el("strong", { text: error.code === "away" ? "Nobody answers" : title }),
    error.code === "away" ? null : el("p", { text: words }),
    numbersOf(numbers.filter(([name]) => name !== "a retry made sense after")),
    el("p", { class: "message", text: error.message ?? "" }),
    advice ? el("p", { class: "advice", text: advice }) : null,
  );
  if (retryAfter) card.append(countdown(retryAfter, retry));
  return card;
}

/** A button that may be pressed when so many seconds are over. It is silent meanwhile: the figure is not read out. */
function countdown(after, retry) {
  const until = Date.now() + after * 1000;
  const left = el("span", { data: { countdown: after }, "aria-live": "off" });
  const button = el("button", { type: "button", on: { click: () => button.getAttribute("aria-disabled") !== "true" && retry() } });
  const node = el("p", { class: "countdown" }, button, left);
  const tick = () => {
    const rest = Math.max(0, Math.ceil((until - Date.now()) / 1000));
    left.dataset.countdown = String(rest);
    setText(button, "Try again");
    button.setAttribute("aria-disabled", String(rest > 0));
    setText(left, rest > 0 ? `in ${rest} s` : "now");
    if (rest > 0 && (node.isConnected || Date.now() < until - after * 1000 + 500)) setTimeout(tick, 250);
  };
  tick();
  return node;
}

/** Names and numbers beside each other. */
export function numbersOf(numbers) {
  if (numbers.length === 0) return null;
  return el("dl", { class: "numbers-row" }, numbers.map(([name, value]) => el("div", {}, el("dt", { text: name }), el("dd", { text: value }))));
}

/** A whole view that says what is wrong. `code` is the API's, `away` where nobody answers. */
export function problemView(error, ...actions) {
  const { title, words, advice } = explain(error);
  return el("section", { class: "problem card", data: { problem: error.code ?? "error" } },
    pool(),
    el("h1", { tabindex: -1, text: title }),
    el("p", { text: words }),
    error.message ? el("p", { class: "message", text: error.message }) : null,
    advice ? el("p", { class: "advice", text: advice }) : null,
    el("div", { class: "actions" }, actions),
  );
}

/** The form for a key. A key that is there already was refused: it is forgotten, and that is said. */
export function keyView(onKey) {
  const wrong = key() !== null;
  forgetKey();
  const refused = el("div", {}, wrong ? el("p", { class: "wrong", role: "alert", text: "This key was not taken: it is mistyped, removed or expired." }) : null);
  const field = el("input", { id: "key", name: "key", type: "password", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "key-why" });
  const form = el("form", { data: { form: "key" } },
    refused,
    el("div", { class: "field" }, el("label", { for: "key", text: "API key" }), field),
    el("button", { type: "submit", class: "primary", text: "Use this key" }),
    el("p", { class: "facts", id: "key-why", text: "It stays in this tab until you close it or forget it." }),
    el("p", { class: "facts" }, "An operator makes one with ", el("code", { text: "tidegate keys add --name me" }), "."),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const token = field.value.trim();
    if (!token) return;
    if (!isSendable(token)) {
      fill(refused, el("p", { class: "wrong", role: "alert", text: "This is no key: it has letters in it that no key has, perhaps unseen ones." }));
      return;
    }
    useKey(token);
    onKey();
  });
  const node = el("section", { class: "problem card", data: { problem: "unauthorized" } },
    pool(),
    el("h1", { tabindex: -1, text: wrong ? "That key does not open this gate" : "The gate is closed" }),
    el("p", { text: "This tidegate answers only those who have a key." }),
    form,
  );
  return { node, focus: () => field.focus() };
}

const pool = () => el("div", { class: "pool", "aria-hidden": "true" }, el("div", { class: "pool-water" }));
