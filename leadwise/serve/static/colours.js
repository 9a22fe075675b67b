/** Colours that colour-blind readers tell apart, for categories and for numbers. */

// Okabe and Ito's palette (2008); its yellow is darker here, so that it is readable on white too
export const CATEGORIES = ["#0072b2", "#e08a00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#a89a00", "#8a63d2"];
export const OTHER = "#8b949e";

// from dark blue to yellow with steadily rising lightness (after cividis)
const RAMP = [
  [0, 34, 78],
  [53, 69, 108],
  [102, 105, 112],
  [148, 142, 119],
  [200, 184, 102],
  [254, 232, 56],
];

/** Return the colour of a share between 0 and 1. */
export function ramp(share) {
  const place = Math.min(1, Math.max(0, share)) * (RAMP.length - 1);
  const low = Math.min(Math.floor(place), RAMP.length - 2);
  const mixed = RAMP[low].map((value, i) => Math.round(value + (RAMP[low + 1][i] - value) * (place - low)));
  return `rgb(${mixed.join(",")})`;
}

/** Return one of `steps` shares as a colour, so that few colours draw many points. */
export const rampSteps = (steps) => Array.from({ length: steps }, (_, i) => ramp(i / (steps - 1)));

/** Return the value of a CSS variable at an element. */
export const variable = (element, name) => getComputedStyle(element).getPropertyValue(name).trim();
