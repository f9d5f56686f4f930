/** Requests to `/v1`, and what comes back where they are refused. */

import { key } from "./key.js";

/** Behind so long without an answer nobody is taken to be there: a proxy may hold a request for ever. */
const ANSWER_MS = 30_000;

/** The API's own no, with its error object; or a proxy's, with none. */
export class Refusal extends Error {
  /**
   * @param {number} status HTTP's
   * @param {object} error the answer's `error`
   * @param {number|null} retryAfter seconds
   */
  constructor(status, error, retryAfter) {
    super(error.message ?? `status ${status}`);
    this.status = status;
    this.error = error;
    this.code = error.code ?? "internal_error";
    /** Whether the API itself said it: what a proxy says in its stead, such as 404 while it restarts, may pass. */
    this.own = typeof error.code === "string";
    this.retryAfter = retryAfter;
  }
}

/** Nobody answered. */
export class Away extends Error {}

/**
 * Send a request and look at its status alone.
 * @returns {Promise<Response>} whose status is below 400
 * @throws {Refusal|Away|DOMException} the last where `signal` ended it
 */
export async function send(path, { method = "GET", body, headers = {}, signal } = {}) {
  const said = { Accept: "application/json", ...headers };
  if (key()) said.Authorization = `Bearer ${key()}`;
  if (body !== undefined) said["Content-Type"] = "application/json";
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), ANSWER_MS);
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: said,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, late.signal]) : late.signal,
      cache: "no-store",
      credentials: "omit",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Away("the API does not answer");
  } finally {
    clearTimeout(timer); // its body may take as long as it likes: `signal` still ends it
  }
  if (response.status >= 400) throw await refusal(response);
  return response;
}

/** What makes a request that is sent again do its work once. (`crypto.randomUUID` is not there without TLS.) */
export const newMark = () => ({ "Idempotency-Key": `page-${[...crypto.getRandomValues(new Uint8Array(16))].join("-")}` });

/** Send a request and read its JSON. */
export async function ask(path, options) {
  const response = await send(path, options);
  try {
    return await response.json();
  } catch (error) {
    if (options?.signal?.aborted) throw error;
    throw new Away("the answer broke off");
  }
}

async function refusal(response) {
  let error = null;
  try {
    error = (await response.json()).error;
  } catch {
    // not the API's, or broken off
  }
  if (typeof error !== "object" || error === null) error = { message: `the server answered ${response.status} without a word of its own` };
  const told = Number(response.headers.get("Retry-After") ?? error.retry_after);
  return new Refusal(response.status, error, Number.isFinite(told) && told > 0 ? told : null);
}
