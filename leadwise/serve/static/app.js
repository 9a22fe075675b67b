/** The page: takes the token, asks the server what it has, and joins the three views. */

import { call, takeToken } from "./api.js";
import { Compare } from "./compare.js";
import { byId, number, showProblem } from "./dom.js";
import { CohortMap } from "./map.js";
import { Reading } from "./reading.js";

const VIEWS = ["ecg", "map", "compare"];
const THEME = "leadwise-theme";

let current = "ecg";
const opened = {}; // what a view does when it is entered

function enter(name, focus = false) {
  current = name;
  for (const view of VIEWS) {
    const tab = byId(`tab-${view}`);
    tab.setAttribute("aria-selected", String(view === name));
    tab.tabIndex = view === name ? 0 : -1;
    byId(`view-${view}`).hidden = view !== name;
    if (focus && view === name) tab.focus();
  }
  opened[name]?.();
}

function joinTabs() {
  for (const [i, view] of VIEWS.entries()) {
    const tab = byId(`tab-${view}`);
    tab.addEventListener("click", () => enter(view));
    tab.addEventListener("keydown", (event) => {
      const places = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: VIEWS.length - 1 };
      if (!(event.key in places)) return;
      event.preventDefault();
      enter(VIEWS.at(places[event.key] % VIEWS.length), true);
    });
  }
}

/** Close an open sheet of settings by Escape, or by a press beside it. */
function joinSheets() {
  const open = () => [...document.querySelectorAll("details.more[open]")];
  addEventListener("pointerdown", (event) => {
    for (const sheet of open()) if (!sheet.contains(event.target)) sheet.open = false;
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const sheet of open()) {
      sheet.open = false;
      sheet.querySelector("summary").focus();
    }
  });
}

/** Follow the theme of the system, or the one that is chosen in this browser. */
function joinTheme() {
  const select = byId("theme");
  const apply = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    document.dispatchEvent(new Event("themechange"));
  };
  select.value = localStorage.getItem(THEME) ?? "auto";
  apply(select.value);
  select.addEventListener("change", () => {
    localStorage.setItem(THEME, select.value);
    apply(select.value);
  });
}

/** Take files that are dropped anywhere on the page. onfiles(files, element under the pointer). */
function joinDrop(onfiles) {
  const hasFiles = (event) => event.dataTransfer?.types?.includes("Files");
  let depth = 0;
  const over = (on) => document.body.classList.toggle("dropping", on);
  addEventListener("dragenter", (event) => hasFiles(event) && over((depth += 1) > 0));
  addEventListener("dragleave", (event) => hasFiles(event) && over((depth -= 1) > 0));
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth = 0;
    over(false);
    if (event.dataTransfer.files.length) onfiles([...event.dataTransfer.files], event.target);
  });
}

async function start() {
  joinTabs();
  joinTheme();
  joinSheets();
  if (!takeToken()) {
    showProblem("This page has no token. Open the address that `leadwise serve` printed, with its last part.");
    return;
  }
  let server;
  try {
    server = await call("/api/state");
  } catch (error) {
    showProblem(error.message);
    return;
  }
  const cohort = server.cohort ? ` · cohort ${server.cohort.name}, ${number(server.cohort.n)} ECGs` : "";
  byId("run").textContent = `model ${server.run.name}${cohort}`;
  byId("version").textContent = `leadwise ${server.version}. Files are read on this computer and are not stored.`;
  if (!/research use only/i.test(server.remark)) byId("remark").textContent = server.remark;

  const map = new CohortMap(byId("view-map"), server);
  let recording = null;
  const reading = new Reading(byId("view-ecg"), server, {
    onneighbours: (rows) => map.mark(rows),
    onopen: (chosen) => (recording = chosen),
  });
  const compare = new Compare(byId("view-compare"), server, () => recording);
  opened.map = () => map.open();
  opened.compare = () => compare.refresh();
  joinDrop((files, target) => {
    if (current === "compare") {
      const slot = target.closest?.("[data-slot]")?.dataset.slot;
      compare.openFiles(slot === undefined ? undefined : Number(slot), files);
      return;
    }
    enter("ecg");
    reading.open(files);
  });
  document.body.dataset.ready = "yes";
}

start();
