/** Small tracings of recordings of the cohort, for lists and for the map. */

import { call, millivolts } from "./api.js";
import { variable } from "./colours.js";
import { el, pixelRatio, sized } from "./dom.js";
import { tracePath } from "./paper.js";

const thumbs = new Map(); // row -> {rate, mv, lead}; a page has at most as many as were looked at

/** Return small tracings of rows of the cohort: Map of row -> {rate, mv, lead}. */
export async function smallTracings(rows, signal) {
  const missing = rows.filter((row) => !thumbs.has(row));
  for (let i = 0; i < missing.length; i += 64) {
    const answer = await call("/api/thumbs", { json: { rows: missing.slice(i, i + 64) }, signal });
    for (const [row, thumb] of Object.entries(answer)) {
      thumbs.set(Number(row), { rate: thumb.rate_hz, lead: thumb.lead, mv: millivolts(thumb.samples) });
    }
  }
  return new Map(rows.filter((row) => thumbs.has(row)).map((row) => [row, thumbs.get(row)]));
}

/** Return an element with a small tracing that follows its width and the theme. */
export function smallPicture(thumb, height, title) {
  const canvas = el("canvas", { role: "img", "aria-label": title });
  const holder = el("div", { class: "thumb" }, canvas);
  const draw = () => {
    if (thumb && holder.clientWidth)
      drawSmall(canvas, thumb.mv, thumb.rate, holder.clientWidth, height, variable(holder, "--ink"));
  };
  new ResizeObserver(draw).observe(holder);
  return holder;
}

/** Draw one lead small, without paper: a tracing for lists. samples: mV. */
function drawSmall(canvas, samples, rate, width, height, colour) {
  const context = sized(canvas, width, height);
  context.clearRect(0, 0, canvas.width, canvas.height);
  const values = samples.filter((value) => !Number.isNaN(value)).sort();
  if (!values.length) return;
  const low = values[Math.floor(values.length * 0.002)];
  const high = Math.max(values[Math.ceil(values.length * 0.998) - 1], low + 0.5);
  const pad = 2 * pixelRatio();
  const x = (i) => (i / samples.length) * canvas.width;
  const y = (mv) => pad + ((high - mv) / (high - low)) * (canvas.height - 2 * pad);
  context.lineWidth = pixelRatio();
  context.lineJoin = "round";
  context.strokeStyle = colour;
  tracePath(context, samples, 0, samples.length, x, y);
  context.stroke();
}
