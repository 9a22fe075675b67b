/** The settings above a tracing: layout, lead, speed, gain, zoom, calipers, and what is rarely changed. */

import { button, check, choice, el } from "./dom.js";
import { GAINS, LAYOUTS, SPEEDS } from "./paper.js";

/** Return the bar of a tracing: its element, the choices of lead and start, and the button of the calipers. */
export function settingsBar(tracing) {
  const set =
    (name, parse = (value) => value) =>
    (value) => {
      tracing.settings[name] = parse(value);
      tracing.refresh();
    };
  const layouts = Object.entries(LAYOUTS).map(([key, { title }]) => [key, title]);
  const layout = choice("Layout", layouts, tracing.settings.layout, set("layout"));
  const lead = choice("Lead", [["II", "II"]], "II", set("lead"));
  const speed = choice(
    "Speed",
    SPEEDS.map((v) => [String(v), `${v} mm/s`]),
    "25",
    set("speed", Number),
  );
  const gain = choice(
    "Gain",
    GAINS.map((v) => [String(v), `${v} mm/mV`]),
    "10",
    set("gain", Number),
  );
  const start = choice("From", [["0", "0 s"]], "0", set("start", Number));
  const zoomOut = button("−", () => tracing.zoomOut(), { "aria-label": "Zoom out", class: "small" });
  const zoomIn = button("+", () => tracing.zoomIn(), { "aria-label": "Zoom in", class: "small" });
  const whole = button("Fit", () => tracing.zoomTo(1), { "aria-label": "Show the whole page", class: "small" });
  const calipers = button("Calipers", () => tracing.calipers.toggle(), { "aria-pressed": "false" });
  const zooms = el("div", { class: "joined", role: "group", "aria-label": "Zoom" }, zoomOut, whole, zoomIn);
  const paper = choice(
    "Paper",
    [
      ["auto", "as the page"],
      ["pink", "pink"],
      ["dark", "dark"],
      ["plain", "black on white"],
    ],
    "auto",
    (v) => {
      tracing.host.dataset.paper = v;
      tracing.draw();
    },
  );
  const march = check("Calipers march", false, (on) => {
    tracing.calipers.march = on;
    tracing.draw();
  });
  const beats = check("Mark beats", false, (on) => {
    tracing.extras.beats = on;
    tracing.draw();
  });
  const more = el(
    "details",
    { class: "more" },
    el("summary", { text: "More" }),
    el(
      "div",
      { class: "sheet" },
      paper.label,
      beats,
      march,
      button("Save picture (PNG)", () => tracing.savePicture()),
      button("Print to scale", () => window.print()),
    ),
  );
  const element = el(
    "div",
    { class: "bar", role: "group", "aria-label": `Settings: ${tracing.title}` },
    layout.label,
    lead.label,
    start.label,
    speed.label,
    gain.label,
    zooms,
    calipers,
    more,
  );
  return { element, lead, start, calipers };
}
