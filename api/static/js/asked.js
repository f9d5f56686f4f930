/** What a job was asked: its messages or prompt, and its settings. Text of others, shown as text. */

import { el, fill } from "./dom.js";

const TEXTS = new Set(["messages", "prompt"]);
const QUIET = new Set(["model"]);

export function makeAsked() {
  const texts = el("div", { class: "asked-texts" });
  const settings = el("dl", { class: "pairs" });
  const raw = el("pre", { tabindex: 0, role: "region", "aria-label": "The request as JSON" });
  const node = el("section", { class: "card asked", data: { request: true }, hidden: true, "aria-labelledby": "asked-title" },
    el("h2", { id: "asked-title", text: "Request" }), texts, settings,
    el("details", {}, el("summary", { text: "As JSON" }), raw));
  return {
    node,
    /** @param {object|undefined} request as it is kept; without it nothing is shown */
    update(request) {
      node.hidden = !request;
      if (!request) return;
      const messages = request.messages ?? [{ role: "prompt", content: request.prompt ?? "" }];
      fill(texts, messages.map((message) => el("figure", {}, el("figcaption", { text: message.role }), el("blockquote", { tabindex: 0, dir: "auto", text: contentOf(message) }))));
      const said = Object.entries(request).filter(([name, value]) => !TEXTS.has(name) && !QUIET.has(name) && value !== null && !isEmpty(value));
      fill(settings, said.map(([name, value]) => el("div", {}, el("dt", { text: name }), el("dd", { text: typeof value === "object" ? JSON.stringify(value) : String(value) }))));
      raw.textContent = JSON.stringify(request, null, 2);
    },
  };
}

const isEmpty = (value) => typeof value === "object" && Object.keys(value).length === 0;

/** A message's text: content is a string, parts, or nothing beside calls of tools. */
function contentOf({ content, tool_calls: calls }) {
  if (typeof content === "string") return content;
  if (Array.isArray(content)) return content.map((part) => part?.text ?? JSON.stringify(part)).join("\n");
  return calls ? JSON.stringify(calls, null, 2) : "";
}
