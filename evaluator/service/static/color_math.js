/** Colours as text and as numbers, and a name for people who hear them. */

/**
 * @param {string} text
 * @returns {string | null} `#rrggbb` in small letters, from `#rgb`, `rrggbb` and the like; null if it is no colour.
 */
export function parseHex(text) {
  const digits = text.trim().replace(/^#/, "").toLowerCase();
  if (/^[0-9a-f]{6}$/.test(digits)) return `#${digits}`;
  if (/^[0-9a-f]{3}$/.test(digits)) return `#${[...digits].map((digit) => digit + digit).join("")}`;
  return null;
}

/**
 * @param {string} hex `#rrggbb`
 * @returns {[number, number, number]} 0 to 255.
 */
export function toRgb(hex) {
  const part = (/** @type {number} */ start) => parseInt(hex.slice(start, start + 2), 16);
  return [part(1), part(3), part(5)];
}

/**
 * @param {readonly number[]} rgb Each 0 to 255.
 * @returns {string | null} `#rrggbb`; null where a number is missing or outside its range.
 */
export function fromRgb(rgb) {
  if (rgb.length !== 3 || !rgb.every((part) => Number.isInteger(part) && part >= 0 && part <= 255)) return null;
  return `#${rgb.map((part) => part.toString(16).padStart(2, "0")).join("")}`;
}

/** Hue in degrees up to which a name holds. */
const HUES = /** @type {const} */ ([
  [12, "red"], [42, "orange"], [66, "yellow"], [90, "lime"], [150, "green"], [186, "teal"], [204, "cyan"],
  [250, "blue"], [285, "violet"], [325, "magenta"], [346, "pink"], [360, "red"],
]);

/**
 * @param {string} hex `#rrggbb`
 * @returns {string} Such as "dark muted blue".
 */
export function nameOf(hex) {
  const { hue, saturation, lightness } = toHsl(hex);
  const shade = lightness < 0.28 ? "dark " : lightness > 0.72 ? "light " : "";
  if (saturation < 0.09 || lightness > 0.97 || lightness < 0.04) {
    return lightness < 0.08 ? "black" : lightness > 0.94 ? "white" : `${shade}grey`;
  }
  const name = HUES.find(([end]) => hue <= end)?.[1] ?? "red";
  if (name === "orange" && lightness < 0.45) return `${shade}brown`;
  if (name === "yellow" && lightness < 0.45) return `${shade}olive`;
  return `${shade}${saturation < 0.35 ? "muted " : ""}${name}`;
}

/**
 * @param {string} hex
 * @returns {{hue: number, saturation: number, lightness: number}} Degrees, and two shares of one.
 */
function toHsl(hex) {
  const [red, green, blue] = toRgb(hex).map((part) => part / 255);
  const most = Math.max(red, green, blue);
  const least = Math.min(red, green, blue);
  const lightness = (most + least) / 2;
  const chroma = most - least;
  if (chroma === 0) return { hue: 0, saturation: 0, lightness };
  const saturation = chroma / (1 - Math.abs(2 * lightness - 1));
  const turn =
    most === red ? (green - blue) / chroma : most === green ? 2 + (blue - red) / chroma : 4 + (red - green) / chroma;
  return { hue: (turn * 60 + 360) % 360, saturation, lightness };
}
