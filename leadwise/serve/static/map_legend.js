/** The legend of the map: values with their colours, pressed to hide them; which of many values have colours. */

import { rampSteps } from "./colours.js";
import { button, check, el, number } from "./dom.js";
import { MOST_COLOURED, RAMP_STEPS } from "./map_colouring.js";

/** Return a number as text, with a decimal where it has any. */
export const shortNumber = (value) => number(value, Number.isInteger(value) ? 0 : 1);

const counted = (n, one, many) => `${number(n)} ${n === 1 ? one : many}`;

/** Return the name of a value, and what a name for many stands for. */
function titleOf(group, { grouped }) {
  return group.name === "other" && grouped ? `other (${counted(grouped, "rare value", "rare values")})` : group.name;
}

/** Fill the legend for a colouring. onchange(): is called when something was hidden, shown or coloured. */
export function fillLegend(place, colouring, onchange) {
  place.replaceChildren(...(colouring.column.kind === "number" ? ramp(colouring) : values(colouring, onchange)));
}

function ramp({ range }) {
  const strip = el("canvas", {
    class: "strip",
    role: "img",
    "aria-label": `from ${shortNumber(range[0])} (dark) to ${shortNumber(range[1])} (light)`,
  });
  [strip.width, strip.height] = [RAMP_STEPS, 1];
  const context = strip.getContext("2d");
  rampSteps(RAMP_STEPS).forEach((colour, i) => {
    context.fillStyle = colour;
    context.fillRect(i, 0, 1, 1);
  });
  const ends = range.map((value) => el("span", { text: shortNumber(value) }));
  return [strip, el("p", { class: "line small" }, ends)];
}

function values(colouring, onchange) {
  const { column } = colouring;
  const sentence = el("p", { class: "soft small" });
  const list = el("ul", { class: "keys", "aria-label": `Values of ${column.title}: press to hide or show` });
  const fill = () => {
    const { coloured, grey } = colouring;
    sentence.textContent = grey.length ? greySentence(colouring) : "";
    sentence.hidden = !grey.length;
    const keys = [...coloured, ...grey].map((group) => el("li", {}, key(group, colouring, onchange)));
    list.replaceChildren(...keys);
  };
  const all = (on) => {
    colouring.hidden.clear();
    if (!on) for (const group of colouring.groups) colouring.hidden.add(group.code);
    fill();
    onchange();
  };
  fill();
  return [
    list,
    sentence,
    el(
      "p",
      { class: "joined" },
      button("All", () => all(true), { class: "small" }),
      button("None", () => all(false), { class: "small" }),
    ),
    chooser(colouring, () => (fill(), onchange())),
  ];
}

function greySentence({ coloured, grey, byCount }) {
  const n = counted(
    grey.reduce((sum, group) => sum + group.n, 0),
    "recording",
    "recordings",
  );
  const rest = grey.length === 1 ? `“${grey[0].name}” (${n}) is grey` : `the other ${grey.length} (${n}) are grey`;
  return `${coloured.length} of ${counted(byCount.length, "value", "values")} have a colour of their own; ${rest}.`;
}

function key(group, colouring, onchange) {
  const swatch = el("span", { class: "swatch", "aria-hidden": "true" });
  swatch.style.background = group.colour;
  const press = el(
    "button",
    { type: "button", "aria-pressed": String(!colouring.hidden.has(group.code)) },
    swatch,
    el("span", { class: "name", text: titleOf(group, colouring.column) }),
    el("span", { class: "soft", text: String(group.n) }),
  );
  press.addEventListener("click", () => {
    const on = colouring.hidden.delete(group.code);
    if (!on) colouring.hidden.add(group.code);
    press.setAttribute("aria-pressed", String(on));
    onchange();
  });
  return press;
}

/** Return a fold in which at most MOST_COLOURED values are chosen to have colours. */
function chooser(colouring, onchange) {
  const boxes = new Map();
  const full = el("p", { class: "soft small", text: `At most ${MOST_COLOURED}: uncheck one to choose another.` });
  const limit = () => {
    const isFull = colouring.slots.size >= MOST_COLOURED;
    for (const [code, input] of boxes) input.disabled = isFull && !colouring.slots.has(code);
    full.hidden = !isFull;
  };
  const labels = colouring.byCount.map((group) => {
    const label = check(titleOf(group, colouring.column), colouring.slots.has(group.code), (on) => {
      colouring.setColoured(group.code, on);
      limit();
      onchange();
    });
    boxes.set(group.code, label.querySelector("input"));
    return label;
  });
  limit();
  const choices = el("div", { class: "choices", role: "group", "aria-label": "Values with a colour" }, labels);
  return el("details", {}, el("summary", { text: "Choose the coloured values" }), full, choices);
}
