/** The page: which view is shown, the key that it may need, what is around both. */

import { fill } from "./dom.js";
import { openJob } from "./job.js";
import { forgetKey, key } from "./key.js";
import { showLink } from "./link.js";
import { keyView } from "./problem.js";
import { installRouter } from "./router.js";
import { installTheme } from "./theme.js";
import { openTide } from "./tide.js";
import { forgetTyped } from "./try.js";

const main = document.getElementById("main");
const forget = document.querySelector("[data-action=forget-key]");
let view = null;
let place = null;

function open(where, { focus, scroll }) {
  place = where;
  view?.close();
  document.body.dataset.view = where.view;
  document.title = "tidegate";
  showLink("loading", () => null);
  forget.hidden = key() === null;
  view = where.view === "job" ? openJob(where.id, page) : openTide(page);
  fill(main, view.node);
  window.scrollTo(0, scroll);
  if (focus) focusHeading();
}

/** After a change of view a screen reader begins at its heading; where that is not there yet, at the view. */
function focusHeading() {
  (main.querySelector("h1") ?? main).focus({ preventScroll: true });
}

const page = {
  link: showLink,
  reload: () => open(place, { focus: true, scroll: 0 }),
  needKey() {
    view?.close();
    const asked = keyView(page.reload);
    view = { node: asked.node, close() {} };
    showLink("key");
    forget.hidden = true;
    fill(main, asked.node);
    asked.focus();
  },
};

forget.addEventListener("click", () => {
  forgetKey();
  forgetTyped();
  page.reload();
});

installTheme();
installRouter(open);
