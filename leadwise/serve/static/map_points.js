/** The points of the map: places between 0 and 1, columns that colour them, and the search for the nearest one. */

import { decoded } from "./api.js";

const CELLS = 96; // the plane is cut into CELLS x CELLS for the search of the nearest point

/** Return whether a place is inside a polygon [[x, y], ...]: the number of sides to its right is odd. */
export function inside(polygon, x, y) {
  let odd = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i, i += 1) {
    const [xi, yi] = polygon[i];
    const [xj, yj] = polygon[j];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) odd = !odd;
  }
  return odd;
}

/** Return columns of the server as {key, title, kind, names, codes, grouped} or {key, title, kind, values}. */
function columnsOf(answer) {
  return Object.entries(answer.columns).map(([key, column]) => {
    const title = key[0].toUpperCase() + key.slice(1).replaceAll("_", " ");
    if (column.kind === "number")
      return { key, title, kind: "number", values: new Float32Array(decoded(column.values)) };
    const { names, grouped = 0 } = column;
    return { key, title, kind: "category", names, grouped, codes: new Uint8Array(decoded(column.codes)) };
  });
}

/** Put the points between 0 and 1, with equal scales on both axes and y upwards. */
function placed(x, y) {
  const bounds = (values) =>
    values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);
  const [xLow, xHigh] = bounds(x);
  const [yLow, yHigh] = bounds(y);
  const span = Math.max(xHigh - xLow, yHigh - yLow, 1e-9);
  const [xPad, yPad] = [(span - (xHigh - xLow)) / 2, (span - (yHigh - yLow)) / 2];
  return { x: x.map((v) => (v - xLow + xPad) / span), y: y.map((v) => 1 - (v - yLow + yPad) / span) };
}

export class Points {
  /** answer: of /api/map. */
  constructor(answer) {
    this.n = answer.n;
    this.rows = new Int32Array(decoded(answer.rows)); // of the cohort
    this.records = answer.records ?? null;
    this.columns = columnsOf(answer);
    Object.assign(this, placed(new Float32Array(decoded(answer.x)), new Float32Array(decoded(answer.y))));
    this.cells = new Map(); // key of a cell -> its points
    for (let i = 0; i < this.n; i += 1) {
      const key = Math.floor(this.x[i] * CELLS) * 1000 + Math.floor(this.y[i] * CELLS);
      if (!this.cells.has(key)) this.cells.set(key, []);
      this.cells.get(key).push(i);
    }
  }

  /** Return the name of a point. */
  title(i) {
    return this.records?.[i] ?? `recording ${this.rows[i]}`;
  }

  /** Return the nearest point within `reach` of a place for which `test(i)` holds, or null. */
  nearest(x, y, reach, test) {
    let [best, distance] = [null, reach];
    for (let cx = Math.floor((x - reach) * CELLS); cx <= Math.floor((x + reach) * CELLS); cx += 1) {
      for (let cy = Math.floor((y - reach) * CELLS); cy <= Math.floor((y + reach) * CELLS); cy += 1) {
        for (const i of this.cells.get(cx * 1000 + cy) ?? []) {
          const d = Math.hypot(this.x[i] - x, this.y[i] - y);
          if (d < distance && test(i)) [best, distance] = [i, d];
        }
      }
    }
    return best;
  }
}
