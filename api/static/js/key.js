/** The API key, for as long as this tab is open: never in an address, never in a cookie. */

const PLACE = "tidegate.key";
let held = null; // where the browser keeps nothing, such as in a private window that forbids it

function stored(act) {
  try {
    return act(window.sessionStorage);
  } catch {
    return null;
  }
}

export const key = () => held ?? stored((storage) => storage.getItem(PLACE));

/** Whether a header can carry it: a browser would send nothing at all with one that has other letters. */
export const isSendable = (token) => /^[\x21-\x7e]+$/.test(token);

export function useKey(token) {
  held = token;
  stored((storage) => storage.setItem(PLACE, token));
}

export function forgetKey() {
  held = null;
  stored((storage) => storage.removeItem(PLACE));
}
