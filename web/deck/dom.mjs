// @ts-check
/** Small helpers to build elements; text always goes in as text. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * @param {string} tag @param {Record<string, any>} [attributes] `class`, `text`, and attributes by name
 * @param {(Node | string)[]} [children]
 * @returns {any}
 */
export function el(tag, attributes = {}, children = []) {
  return fill(document.createElement(tag), attributes, children);
}

/** @param {string} tag @param {Record<string, any>} [attributes] @param {Node[]} [children] @returns {any} */
export function svg(tag, attributes = {}, children = []) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** @param {Element} element @param {Record<string, any>} attributes @param {(Node | string)[]} children */
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value;
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, String(value));
  }
  element.append(...children);
  return element;
}

/** A plain button. @param {string} text @param {string} title @param {() => void} pressed @param {string} [kind] */
export function button(text, title, pressed, kind = "bw-button") {
  const element = el("button", { type: "button", class: kind, title, text });
  element.addEventListener("click", pressed);
  return element;
}

/** A thumbnail of a curve. @param {string} points @param {number} width @param {number} height */
export function curve(points, width, height) {
  const line = svg("polyline", { points, class: "bw-curve-line" });
  return svg("svg", { class: "bw-curve", viewBox: `-1 -1 ${width + 2} ${height + 2}`, "aria-hidden": "true" }, [line]);
}
