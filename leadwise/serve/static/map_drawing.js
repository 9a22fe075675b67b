/** Drawing of the map: small points as pixels, so that 20,000 are fluent; large ones as discs; rings and the lasso. */

import { pixelRatio, sized } from "./dom.js";
import { variable } from "./colours.js";

const COVER_PX = 260; // the side of a point is this by the root of how many are visible
const SIDE_PX = { least: 1.7, most: 10 };
const MOST_ZOOMED_PX = 13;
const DISC_PX = 5; // from this size on points are round
const MANY = 5000; // so many overlap: they are drawn more transparent
const ALPHA = { few: 0.85, many: 0.6, notSelected: 0.16 };

/** Return the side of a point in CSS pixels: larger where few are visible or the view is close. */
export function sideOf(n, zoom) {
  const base = Math.min(SIDE_PX.most, Math.max(SIDE_PX.least, COVER_PX / Math.sqrt(Math.max(1, n))));
  return Math.min(MOST_ZOOMED_PX, base * Math.sqrt(zoom) ** 0.8);
}

/** Return red, green and blue of a colour as the browser understands it. */
function channels(context, colour) {
  context.fillStyle = colour;
  const hex = /^#(..)(..)(..)$/.exec(context.fillStyle); // the browser writes opaque colours in this way
  return hex ? hex.slice(1).map((part) => Number.parseInt(part, 16)) : [128, 128, 128];
}

/**
 * Draw the map.
 *
 * state: {points, colouring, selected (Uint8Array or null), near (rows), pointed (point or null), outline (screen or null)}.
 */
export function drawMap(stage, canvas, view, state) {
  const { width, height } = view.size();
  if (!width) return;
  const context = sized(canvas, width, height);
  const ratio = pixelRatio();
  const k = view.scale() * ratio;
  const at = { k, left: (width / 2) * ratio - view.x * k, top: (height / 2) * ratio - view.y * k };
  const n = state.colouring.nVisible();
  const side = sideOf(n, view.zoom) * ratio;
  const layers = layersOf(state, n);
  if (side >= DISC_PX * ratio) drawDiscs(context, canvas, layers, state.points, at, side / 2);
  else drawPixels(context, canvas, layers, state.points, at, Math.round(side), variable(stage, "--card"));
  drawMarks(context, state, at, side, ratio, variable(stage, "--ink"));
}

/** Return what is drawn in which order: [{colour, alpha, points}]; what is not selected is pale and below the rest. */
function layersOf({ colouring, selected }, n) {
  const full = n > MANY ? ALPHA.many : ALPHA.few;
  const layers = [];
  for (const wanted of selected ? [0, 1] : [1]) {
    const alpha = selected && !wanted ? ALPHA.notSelected : full;
    for (const { code, colour, points } of colouring.groups) {
      if (colouring.hidden.has(code)) continue;
      const isDrawn = (i) => (!selected || selected[i] === wanted) && (!colouring.limits || colouring.visible(i));
      layers.push({ colour, alpha, points: selected || colouring.limits ? points.filter(isDrawn) : points });
    }
  }
  return layers;
}

/** Draw squares of whole pixels, mixed with what is below them. */
function drawPixels(context, canvas, layers, points, { k, left, top }, side, ground) {
  const { width, height } = canvas;
  const image = context.createImageData(width, height);
  const pixels = image.data;
  const [r, g, b] = channels(context, ground);
  new Uint32Array(pixels.buffer).fill((255 << 24) | (b << 16) | (g << 8) | r);
  const half = side / 2;
  for (const { colour, alpha, points: members } of layers) {
    const [red, green, blue] = channels(context, colour);
    for (const i of members) {
      const x = Math.round(points.x[i] * k + left - half);
      const y = Math.round(points.y[i] * k + top - half);
      if (x < 0 || y < 0 || x + side > width || y + side > height) continue;
      for (let row = y; row < y + side; row += 1) {
        for (let place = (row * width + x) * 4, end = place + side * 4; place < end; place += 4) {
          pixels[place] += (red - pixels[place]) * alpha;
          pixels[place + 1] += (green - pixels[place + 1]) * alpha;
          pixels[place + 2] += (blue - pixels[place + 2]) * alpha;
        }
      }
    }
  }
  context.putImageData(image, 0, 0);
}

function drawDiscs(context, canvas, layers, points, { k, left, top }, radius) {
  const { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  for (const { colour, alpha, points: members } of layers) {
    context.globalAlpha = alpha;
    context.fillStyle = colour;
    for (const i of members) {
      const x = points.x[i] * k + left;
      const y = points.y[i] * k + top;
      if (x < -radius || y < -radius || x > width + radius || y > height + radius) continue;
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fill();
    }
  }
  context.globalAlpha = 1;
}

/** Draw rings around the nearest recordings and the point under the pointer, and the outline of the lasso. */
function drawMarks(context, { points, near, pointed, outline }, { k, left, top }, side, ratio, ink) {
  context.strokeStyle = ink;
  context.lineWidth = 2 * ratio;
  const ring = (i, radius) => {
    context.beginPath();
    context.arc(points.x[i] * k + left, points.y[i] * k + top, radius, 0, 2 * Math.PI);
    context.stroke();
  };
  if (near.length) {
    const rows = new Set(near);
    points.rows.forEach((row, i) => rows.has(row) && ring(i, side / 2 + 5 * ratio));
  }
  if (pointed !== null) ring(pointed, side / 2 + 3 * ratio);
  if (!outline) return;
  context.lineWidth = 1.5 * ratio;
  context.setLineDash([5 * ratio, 4 * ratio]);
  context.beginPath();
  outline.forEach(([px, py], i) => (i ? context.lineTo(px * ratio, py * ratio) : context.moveTo(px * ratio, py * ratio)));
  context.closePath();
  context.stroke();
  context.setLineDash([]);
}
