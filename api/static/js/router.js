/** Two places, the tide and a job, under real addresses. */

const JOB = /^\/jobs\/([^/]+)\/?$/;
let onPlace = () => {};
let shown = null;

/** Where an address leads. */
function placeOf(path) {
  const found = JOB.exec(path);
  if (!found) return { view: "tide" };
  try {
    return { view: "job", id: decodeURIComponent(found[1]) };
  } catch {
    return { view: "job", id: found[1] };
  }
}

export const jobPath = (id) => `/jobs/${encodeURIComponent(id)}`;

function show(how) {
  shown = window.location.pathname;
  onPlace(placeOf(shown), how);
}

/** Go to an address of this page. */
export function go(path) {
  window.history.replaceState({ scroll: window.scrollY }, "");
  window.history.pushState({ scroll: 0 }, "", path);
  show({ focus: true, scroll: 0 });
}

function onClick(event) {
  const link = event.target instanceof Element ? event.target.closest("a[href]") : null;
  const plain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
  if (!link || !plain || event.defaultPrevented || link.target || link.origin !== window.location.origin) return;
  const ours = link.pathname === "/" || JOB.test(link.pathname);
  if (!ours || (link.pathname === shown && link.hash)) return;
  event.preventDefault();
  if (link.pathname !== shown) go(link.pathname);
  if (link.hash) document.querySelector(link.hash)?.scrollIntoView();
}

/** Show what the address says, now and whenever it changes by a link of ours or by the browser's buttons. */
export function installRouter(open) {
  onPlace = open;
  window.history.scrollRestoration = "manual";
  document.addEventListener("click", onClick);
  window.addEventListener("popstate", (event) => {
    if (window.location.pathname !== shown) show({ focus: true, scroll: event.state?.scroll ?? 0 });
  });
  show({ focus: false, scroll: 0 });
}
