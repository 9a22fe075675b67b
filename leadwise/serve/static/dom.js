/** Elements, messages and downloads. Text is set as text, never as HTML. */

/**
 * Return a new element. `text` sets its text; a name that begins with "on" adds a listener; null, undefined and false are
 * left out; anything else is an attribute.
 */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

export const byId = (id) => document.getElementById(id);

let lastId = 0;
/** Return an id that no other element of the page has. */
export const newId = (stem) => `${stem}-${++lastId}`;

/** Return a label with a select. `choices` are [value, title] pairs. */
export function choice(title, choices, value, onchange) {
  const select = el("select", { onchange: () => onchange(select.value) });
  for (const [key, text] of choices) select.append(el("option", { value: key, text, selected: key === value }));
  const label = el("label", { class: "field" }, el("span", { text: title }), select);
  return { label, select };
}

/** Return a label with a check box. */
export function check(title, checked, onchange) {
  const input = el("input", { type: "checkbox", checked, onchange: () => onchange(input.checked) });
  return el("label", { class: "check" }, input, el("span", { text: title }));
}

export function button(text, onclick, properties = {}) {
  return el("button", { type: "button", text, onclick, ...properties });
}

let announcing = 0;
/** Read `text` out to users of a screen reader. Of several texts within a moment only the last is read. */
export function announce(text) {
  clearTimeout(announcing);
  announcing = setTimeout(() => (byId("live").textContent = text), 120);
}

/** Show one sentence above the page until it is dismissed or replaced. '' removes it. */
export function showProblem(text) {
  const place = byId("problem");
  place.replaceChildren();
  if (!text) return;
  const dismiss = button("Dismiss", () => place.replaceChildren(), { class: "quiet" });
  place.append(el("div", { class: "note bad" }, el("p", { text }), dismiss));
}

/** Save `content` (text or a Blob) as a file of the browser. */
export function download(name, content, type = "text/csv;charset=utf-8") {
  const blob = content instanceof Blob ? content : new Blob([content], { type });
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Return a number with `digits` decimals, or "–" if there is none. */
export function number(value, digits = 0) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const text = Number(value).toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

/** Return names as text: "I", "I and II", "I, II and III". */
export function listed(names) {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

/** Call `work` at the next frame, once, however often it is asked for. */
export function onceAFrame(work) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      work();
    });
  };
}

/** Return how many device pixels a CSS pixel has. */
export const pixelRatio = () => Math.max(1, window.devicePixelRatio || 1);

/** Give a canvas the size in CSS pixels at the resolution of the screen. Return its context, in device pixels. */
export function sized(canvas, width, height) {
  const ratio = pixelRatio();
  const [w, h] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  canvas.style.width = `${w / ratio}px`;
  canvas.style.height = `${h / ratio}px`;
  return canvas.getContext("2d");
}

/** Whether the usual pointer of this device cannot hover: a finger. */
const noHover = matchMedia("(hover: none)");

/** Return a hint on how to handle something: {mouse, touch}, the one that fits the device. */
export function hint({ mouse, touch }) {
  const place = el("span", { class: "soft small hint" });
  const fill = () => (place.textContent = noHover.matches ? touch : mouse);
  noHover.addEventListener("change", fill); // a mouse was plugged in
  fill();
  return place;
}

const latest = new WeakMap(); // element -> the last question whose answer it waits for

/**
 * Return the answer of `ask()`, a question to the server, and mark `place` as busy until it is there.
 *
 * Return null where there is none: an error is written into `place`, a question that was given up is not.
 */
export async function answerIn(place, ask) {
  const question = Symbol("question");
  latest.set(place, question);
  place.setAttribute("aria-busy", "true");
  try {
    return await ask();
  } catch (error) {
    if (error.name !== "AbortError" && latest.get(place) === question) place.replaceChildren(problem(error.message));
    return null;
  } finally {
    if (latest.get(place) === question) place.removeAttribute("aria-busy"); // else a later question is open
  }
}

/** Return an error as a paragraph that screen readers read at once. */
export const problem = (text) => el("p", { class: "note bad", role: "alert", text });
