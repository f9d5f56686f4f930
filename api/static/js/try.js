/** The form to try a prompt: it makes a job, and leads to its page, where the tokens arrive. */

import { announce } from "./announce.js";
import { el, fill, setAttribute, setText } from "./dom.js";
import { ask, Away, newMark } from "./http.js";
import { refusalCard } from "./problem.js";
import { go, jobPath } from "./router.js";

const PRIORITIES = [["standard", "standard"], ["interactive", "interactive: before the others"], ["batch", "batch: after the others"]];
const SHORT = [["wait", "wait"], ["fail", "refuse at once"]];
const AWAY = "The API does not answer, so it is not known whether the job was taken. Send again when it does: it is taken once.";
/** What was typed stays while the page does, whichever view is shown. */
const BLANK = { prompt: "", max_tokens: "128", temperature: "0.7", priority: "standard", on_insufficient_memory: "wait", model: "" };
const typed = { ...BLANK };

/** Whoever forgets the key leaves the page to others: nothing of theirs stays in it. */
export const forgetTyped = () => Object.assign(typed, BLANK);

/** Make the form. `ready()` is called once it may ask which models there are. */
export function makeTry() {
  const model = el("select", { name: "model", id: "try-model", required: true }, el("option", { value: "", text: "…" }));
  const prompt = el("textarea", { name: "prompt", id: "try-prompt", rows: 4, required: true, placeholder: "What makes the tide?", dir: "auto" });
  const tokens = el("input", { name: "max_tokens", id: "try-tokens", type: "number", min: 1, max: 1048576, step: 1, inputmode: "numeric", required: true });
  const heat = el("input", { name: "temperature", id: "try-heat", type: "number", min: 0, max: 2, step: "any", inputmode: "decimal", required: true });
  const priority = choice("priority", "try-priority", PRIORITIES);
  const short = choice("on_insufficient_memory", "try-short", SHORT);
  const fields = [model, prompt, tokens, heat, priority, short];
  const button = el("button", { type: "submit", class: "primary", text: "Send" });
  const refused = el("div", { class: "refused" });
  const hint = el("p", { class: "facts", id: "try-hint", text: "It is a chat of one message. Ctrl + Enter sends it." });
  const form = el("form", { class: "try", data: { form: "try" }, "aria-labelledby": "try-title" },
    labelled("Model", model),
    labelled("Prompt", prompt),
    el("div", { class: "pair" }, labelled("Most tokens", tokens), labelled("Temperature", heat)),
    el("div", { class: "pair" }, labelled("Priority", priority), labelled("If memory is short", short)),
    refused,
    el("div", { class: "form-end" }, button, hint),
  );
  let sending = false;
  let mark = null; // of one submission: sent again, it makes no second job

  for (const field of fields) {
    if (field !== model) field.value = typed[field.name];
    field.addEventListener("input", () => {
      typed[field.name] = field.value;
      mark = null;
    });
  }
  setAttribute(prompt, "aria-describedby", "try-hint");
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!sending) submit();
  });

  async function submit() {
    sending = true;
    setAttribute(button, "aria-disabled", true);
    setText(button, "Sending…");
    fill(refused);
    mark ??= newMark();
    try {
      const job = await ask("/v1/jobs", { method: "POST", body: requestOf(), headers: mark });
      mark = null;
      if (!form.isConnected) return; // its reader went elsewhere meanwhile
      announce("Sent. Its page opens.");
      go(jobPath(job.id));
    } catch (error) {
      if (!(error instanceof Away)) mark = null;
      const said = error instanceof Away ? { code: "away", message: AWAY } : error.error;
      fill(refused, refusalCard(said ?? { message: error.message }, error.retryAfter, () => form.requestSubmit()));
    } finally {
      sending = false;
      setAttribute(button, "aria-disabled", false);
      setText(button, "Send");
    }
  }

  const requestOf = () => ({
    model: model.value,
    messages: [{ role: "user", content: prompt.value }],
    max_tokens: Number(tokens.value),
    temperature: Number(heat.value),
    priority: priority.value,
    on_insufficient_memory: short.value,
  });

  async function ready() {
    try {
      const { data } = await ask("/v1/models");
      const names = data.map((each) => each.id);
      const options = data.map((each) => el("option", { value: each.id, text: each.ready ? each.id : `${each.id} (no worker is ready for it)` }));
      fill(model, options.length > 0 ? options : el("option", { value: "", text: "no model is served" }));
      model.value = names.includes(typed.model) ? typed.model : (data.find((each) => each.ready)?.id ?? names[0] ?? "");
    } catch {
      fill(model, el("option", { value: "", text: "the models are not known" }));
    }
  }

  return { node: form, ready };
}

function choice(name, id, options) {
  return el("select", { name, id }, options.map(([value, text]) => el("option", { value, text })));
}

function labelled(words, field) {
  return el("div", { class: "field" }, el("label", { for: field.id, text: words }), field);
}

