/** Geometry and drawing of an ECG on millimetre paper. Lengths are millimetres of paper until they meet the canvas. */

import { pixelRatio } from "./dom.js";
import { variable } from "./colours.js";

export const LAYOUTS = {
  "3x4": { title: "3 × 4 + rhythm", columns: 4, strip: true },
  "6x2": { title: "6 × 2", columns: 2, strip: false },
  "12x1": { title: "12 × 1", columns: 1, strip: false },
  one: { title: "one lead", columns: 1, strip: false },
};
export const SPEEDS = [25, 50];
export const GAINS = [5, 10, 20];
const STRIP_LEAD = "II";
const PAGE_S = 10; // a page of consecutive columns covers at most so much; "12 x 1" and one lead cover the whole recording
const SHORT_S = 8; // below this the columns are not consecutive, since a lead needs some seconds
export const LEFT_MM = 10; // room of the calibration pulse
const RIGHT_MM = 2;
const GAP_MM = 3; // between the traces of two rows
const ROW_MM = { least: 14, most: 70 };
const ARTEFACT_MV = 5; // larger deflections are cut off, and no row grows for them

/** Return the median of the samples that are there, or 0. */
function median(values) {
  const present = values.filter((value) => !Number.isNaN(value)).sort();
  return present.length ? present[present.length >> 1] : 0;
}

/** Add to each lead its median and the reach of its trace above and below it, in millivolts. */
export function measureLeads(ecg) {
  for (const lead of ecg.leads) {
    if (!lead.mv) continue;
    lead.median = median(lead.mv);
    const sorted = lead.mv.filter((value) => !Number.isNaN(value)).sort();
    const at = (share) => (sorted.length ? sorted[Math.floor(share * (sorted.length - 1))] - lead.median : 0);
    lead.above = Math.min(ARTEFACT_MV, Math.max(0, at(0.999)));
    lead.below = Math.min(ARTEFACT_MV, Math.max(0, -at(0.001)));
  }
}

/**
 * Return where each lead is drawn: {width, height, cells, pulses} in mm.
 *
 * settings: layout, lead (for one lead), speed (mm/s), gain (mm/mV), start (s of the page's first sample).
 */
export function arrange(ecg, { layout, lead, speed, gain, start }) {
  const { columns, strip } = LAYOUTS[layout];
  const leads = layout === "one" ? [ecg.leads.find((each) => each.name === lead) ?? ecg.leads[0]] : ecg.leads;
  const whole = columns === 1;
  const short = ecg.drawn_s < SHORT_S;
  const page = whole ? ecg.drawn_s : Math.min(PAGE_S, ecg.drawn_s - start);
  const column = whole ? page : short ? Math.min(PAGE_S / columns, ecg.drawn_s) : page / columns;
  const perColumn = leads.length / columns;
  const width = LEFT_MM + columns * column * speed + RIGHT_MM;

  const rows = Array.from({ length: perColumn }, (_, row) =>
    Array.from({ length: columns }, (_, c) => ({
      lead: leads[c * perColumn + row],
      at: c,
      from: short || whole ? 0 : c * column,
      span: column,
    })),
  );
  if (strip) {
    const span = Math.min(page, columns * column);
    rows.push([{ lead: ecg.leads.find((each) => each.name === STRIP_LEAD), at: 0, from: 0, span, strip: true }]);
  }

  let y = GAP_MM + 2;
  const cells = [];
  const pulses = [];
  for (const row of rows) {
    const reach = (side) => Math.max(...row.map((cell) => (cell.lead.mv ? cell.lead[side] * gain : 0)));
    const above = Math.max(reach("above"), gain * 0.5, 6);
    const below = Math.max(reach("below"), 3);
    const height = Math.min(ROW_MM.most, Math.max(ROW_MM.least, above + below + GAP_MM));
    const zero = y + above + (height - above - below) / 2;
    for (const cell of row) {
      const x = LEFT_MM + cell.at * column * speed;
      const from = (whole ? 0 : start) + cell.from;
      cells.push({
        ...cell,
        x,
        width: cell.span * speed,
        top: y,
        height,
        zero,
        from,
        to: Math.min(from + cell.span, ecg.drawn_s),
      });
    }
    pulses.push({ zero });
    y += height + GAP_MM;
  }
  return { width, height: y + 2, cells, pulses, speed, gain, start: whole ? 0 : start, page };
}

/** Return the colours of the paper, from the CSS variables of an element. */
export function paperColours(element) {
  const names = ["ground", "fine", "bold", "trace", "label", "warn", "caliper", "support", "oppose", "first", "second"];
  return Object.fromEntries(names.map((name) => [name, variable(element, `--paper-${name}`)]));
}

/** Draw the lines of the paper, in device pixels. The fine ones are left out where they would run together. */
export function drawGrid(context, colours, view, width, height) {
  const k = view.k;
  context.fillStyle = colours.ground;
  context.fillRect(0, 0, width, height);
  const ratio = pixelRatio();
  for (const [step, colour, line] of [
    [1, colours.fine, Math.max(1, Math.round(ratio * 0.6))],
    [5, colours.bold, Math.max(1, Math.round(ratio))],
  ]) {
    if (step * k < 3 * ratio) continue;
    context.fillStyle = colour;
    for (let mm = Math.ceil(view.x / step) * step; (mm - view.x) * k < width; mm += step) {
      context.fillRect(Math.round((mm - view.x) * k), 0, line, height);
    }
    for (let mm = Math.ceil(view.y / step) * step; (mm - view.y) * k < height; mm += step) {
      context.fillRect(0, Math.round((mm - view.y) * k), width, line);
    }
  }
}

/** Add a trace to the path: samples [first, last) at x(i), y(mV). Of many samples on one pixel only the extremes count. */
export function tracePath(context, samples, first, last, x, y) {
  const perPixel = (last - first) / Math.max(1, x(last) - x(first));
  context.beginPath();
  let pen = false;
  if (perPixel <= 2) {
    for (let i = first; i < last; i += 1) {
      const value = samples[i];
      if (Number.isNaN(value)) {
        pen = false;
        continue;
      }
      if (pen) context.lineTo(x(i), y(value));
      else context.moveTo(x(i), y(value));
      pen = true;
    }
    return;
  }
  for (let i = first; i < last;) {
    const pixel = Math.floor(x(i));
    let [low, high] = [Infinity, -Infinity];
    let end = samples[i];
    for (; i < last && Math.floor(x(i)) === pixel; i += 1) {
      const value = samples[i];
      if (Number.isNaN(value)) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
      end = value;
    }
    if (low > high) {
      pen = false;
      continue;
    }
    if (pen) context.lineTo(pixel, y(low));
    else context.moveTo(pixel, y(low));
    context.lineTo(pixel, y(high));
    context.lineTo(pixel, y(end));
    pen = true;
  }
}

function drawPulses(context, page, colours, view) {
  const at = (mm) => (mm - view.x) * view.k;
  const up = (mm) => (mm - view.y) * view.k;
  context.strokeStyle = colours.trace;
  context.beginPath();
  for (const { zero } of page.pulses) {
    const [x, y] = [1, zero];
    const points = [
      [x, y],
      [x + 1.5, y],
      [x + 1.5, y - page.gain],
      [x + 1.5 + page.speed * 0.2, y - page.gain],
      [x + 1.5 + page.speed * 0.2, y],
      [LEFT_MM - 0.8, y],
    ];
    points
      .filter(([px]) => px <= LEFT_MM - 0.5)
      .forEach(([px, py], i) => (i ? context.lineTo(at(px), up(py)) : context.moveTo(at(px), up(py))));
  }
  context.stroke();
}

/** Return the words beside a lead's name: what is not as recorded, or ''. */
export function leadRemark(lead) {
  if (lead.origin === "missing") return "missing";
  const words = [];
  if (lead.origin === "derived") words.push("computed");
  if (lead.quality === "poor" || lead.quality === "bad") words.push(`${lead.quality} signal`);
  return words.join(", ");
}

/** Fill the windows of the occlusion map that lie in a cell: strength and sign of the effect as colour. */
function drawWindows(context, cell, page, windows, largest, colours, at, up) {
  for (const window of windows) {
    if (window.lead !== cell.lead.name) continue;
    const from = Math.max(window.start_s, cell.from);
    const to = Math.min(window.end_s, cell.to);
    if (to <= from || !largest) continue;
    context.globalAlpha = Math.min(0.72, 0.72 * (Math.abs(window.drop) / largest));
    context.fillStyle = window.drop >= 0 ? colours.support : colours.oppose;
    const left = Math.round(at(cell.x + (from - cell.from) * page.speed));
    const right = Math.round(at(cell.x + (to - cell.from) * page.speed));
    context.fillRect(left, up(cell.top), right - left, up(cell.top + cell.height) - up(cell.top));
  }
  context.globalAlpha = 1;
}

function drawTrace(context, ecg, cell, page, colours, view, at, up) {
  const { lead } = cell;
  const rate = ecg.rate_hz;
  const visibleFrom = cell.from + (view.x - cell.x) / page.speed;
  const visibleTo = visibleFrom + view.width / view.k / page.speed;
  const first = Math.max(0, Math.floor(Math.max(cell.from, visibleFrom) * rate) - 1);
  const last = Math.min(lead.mv.length, Math.ceil(Math.min(cell.to, visibleTo) * rate) + 1);
  if (last <= first) return;
  context.save();
  context.beginPath();
  context.rect(at(cell.x), up(cell.top - GAP_MM), cell.width * view.k, (cell.height + 2 * GAP_MM) * view.k);
  context.clip();
  context.strokeStyle = lead.origin === "derived" ? colours.trace : colours.trace;
  const x = (i) => at(cell.x + (i / rate - cell.from) * page.speed);
  const y = (mv) => up(cell.zero - (mv - lead.median) * page.gain);
  tracePath(context, lead.mv, first, last, x, y);
  context.stroke();
  context.restore();
}

/** Write a lead's name at the top left of its cell, on a patch of paper so that it stays readable. */
function drawLabel(context, cell, colours, view, at, up) {
  const size = Math.max(11 * pixelRatio(), Math.min(3.4 * view.k, 15 * pixelRatio()));
  const remark = leadRemark(cell.lead);
  const x = Math.max(at(cell.x) + 2 * pixelRatio(), 3 * pixelRatio());
  if (x > at(cell.x + cell.width) - size * 2) return;
  const y = up(cell.top) + size * 0.4;
  context.textBaseline = "top";
  context.font = `600 ${size}px system-ui, sans-serif`;
  const width = context.measureText(cell.lead.name).width;
  context.font = `${size * 0.86}px system-ui, sans-serif`;
  const beside = remark ? context.measureText(remark).width + size * 0.5 : 0;
  context.globalAlpha = 0.75;
  context.fillStyle = colours.ground;
  context.fillRect(x - 2, y - 2, width + beside + 4, size * 1.15);
  context.globalAlpha = 1;
  if (remark) {
    context.fillStyle = remark === "computed" ? colours.label : colours.warn;
    context.fillText(remark, x + width + size * 0.4, y + size * 0.1);
  }
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.fillStyle = colours.label;
  context.fillText(cell.lead.name, x, y);
}

/** Hatch a cell whose lead is not there. */
function drawMissing(context, cell, colours, view, at, up) {
  context.save();
  context.beginPath();
  context.rect(at(cell.x + 0.5), up(cell.top + 5), (cell.width - 1) * view.k, (cell.height - 5) * view.k);
  context.clip();
  context.strokeStyle = colours.bold;
  context.beginPath();
  for (let mm = -cell.height; mm < cell.width; mm += 3) {
    context.moveTo(at(cell.x + mm), up(cell.top + cell.height));
    context.lineTo(at(cell.x + mm + cell.height), up(cell.top));
  }
  context.stroke();
  context.restore();
}

/** Mark the beats above the rhythm strip, with the heart rate from beat to beat. */
function drawBeats(context, ecg, cell, page, colours, view, at, up) {
  const size = Math.max(9 * pixelRatio(), Math.min(2.6 * view.k, 12 * pixelRatio()));
  context.font = `${size}px system-ui, sans-serif`;
  context.textBaseline = "top";
  context.textAlign = "center";
  context.fillStyle = colours.label;
  const y = up(cell.top + cell.height) - size * 0.2;
  ecg.beats_s.forEach((time, i) => {
    if (time < cell.from || time > cell.to) return;
    const x = at(cell.x + (time - cell.from) * page.speed);
    context.fillRect(Math.round(x), y - 1.2 * view.k, Math.max(1, pixelRatio()), 1.2 * view.k);
    const next = ecg.beats_s[i + 1];
    if (next === undefined || next > cell.to) return;
    const middle = at(cell.x + ((time + next) / 2 - cell.from) * page.speed);
    if ((next - time) * page.speed * view.k > size * 2.2)
      context.fillText(Math.round(60 / (next - time)), middle, y - size * 0.6);
  });
  context.textAlign = "left";
}

/** Draw the calipers: two times, two voltages, and the same interval again if they march. */
function drawCalipers(context, calipers, colours, view, width, height) {
  const at = (mm) => Math.round((mm - view.x) * view.k);
  const up = (mm) => Math.round((mm - view.y) * view.k);
  const ratio = pixelRatio();
  const line = Math.max(1, Math.round(ratio * 1.4));
  const { a, b, march, active } = calipers;
  context.fillStyle = colours.caliper;
  context.globalAlpha = 0.1;
  context.fillRect(Math.min(at(a.x), at(b.x)), 0, Math.abs(at(b.x) - at(a.x)), height);
  context.globalAlpha = 1;
  for (const point of [a, b]) {
    context.fillRect(at(point.x), 0, point === active ? line * 2 : line, height);
    const reach = 6 * view.k;
    context.fillRect(Math.min(at(a.x), at(b.x)) - reach, up(point.y), Math.abs(at(b.x) - at(a.x)) + 2 * reach, line);
  }
  const step = Math.abs(b.x - a.x);
  if (march && step * view.k > 6 * ratio) {
    context.globalAlpha = 0.55;
    for (const sign of [-1, 1]) {
      let mm = sign > 0 ? Math.max(a.x, b.x) : Math.min(a.x, b.x);
      for (let i = 0; i < 60; i += 1) {
        mm += sign * step;
        const x = at(mm);
        if (x < 0 || x > width) break;
        for (let y = 0; y < height; y += 8 * ratio) context.fillRect(x, y, line, 4 * ratio);
      }
    }
    context.globalAlpha = 1;
  }
}

/**
 * Draw a page into a context of `width` x `height` device pixels.
 *
 * view: {x, y} of the top left corner in mm and k, device pixels per mm.
 * extras: windows and largest of the occlusion map, calipers, beats (whether to mark them).
 */
export function drawPage(context, ecg, page, colours, view, width, height, extras = {}) {
  const at = (mm) => (mm - view.x) * view.k;
  const up = (mm) => (mm - view.y) * view.k;
  const seen = { ...view, width, height };
  drawGrid(context, colours, view, width, height);
  const visible = page.cells.filter(
    (cell) =>
      at(cell.x + cell.width) > 0 &&
      at(cell.x) < width &&
      up(cell.top + cell.height + GAP_MM) > 0 &&
      up(cell.top - GAP_MM) < height,
  );
  if (extras.windows) {
    for (const cell of visible) drawWindows(context, cell, page, extras.windows, extras.largest, colours, at, up);
  }
  context.lineJoin = "round";
  context.lineWidth = Math.max(1.15 * pixelRatio(), Math.min(0.3 * view.k, 2.5 * pixelRatio()));
  drawPulses(context, page, colours, view);
  for (const cell of visible) {
    if (cell.lead.mv) drawTrace(context, ecg, cell, page, colours, seen, at, up);
    else drawMissing(context, cell, colours, view, at, up);
  }
  context.fillStyle = colours.label;
  for (const cell of visible) {
    if (cell.at > 0) context.fillRect(Math.round(at(cell.x)), up(cell.zero - 4), Math.max(1, pixelRatio()), 2.5 * view.k);
    drawLabel(context, cell, colours, view, at, up);
  }
  const last = page.cells.at(-1);
  if (extras.beats && ecg.beats_s?.length) drawBeats(context, ecg, last, page, colours, view, at, up);
  if (extras.calipers) drawCalipers(context, extras.calipers, colours, view, width, height);
}
