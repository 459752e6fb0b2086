// @ts-check
/**
 * Pointer, keyboard and wheel on bars. A bar is a native range input, so focus, screen readers and ComfyUI's
 * own shortcut rules work; the drag is ours, for fine and coarse steps.
 */

import { el } from "./dom.mjs";
import { numberOf, numberText } from "./weights.mjs";

const STEP = { fine: 0.001, normal: 0.01, coarse: 0.1 };
const FINE_SPEED = 0.1;
const TAP = 3; // px a pointer may stray in a click
const WHEEL_PAUSE = 400; // ms without a turn that end a wheel gesture

/**
 * @typedef {object} Bars what the deck offers to the gestures
 * @property {(bar: HTMLInputElement) => number} get
 * @property {(bar: HTMLInputElement, value: number, final: boolean) => void} set
 * @property {() => {low: number, high: number}} scale
 * @property {(bar: HTMLInputElement) => void} solo
 * @property {(bar: HTMLInputElement) => number} reset value that Delete goes back to
 * @property {(event: WheelEvent) => void} forward gives a wheel turn to the canvas
 * @property {(bar: HTMLInputElement) => void} [tap] what a click without a drag does; otherwise it sets the value
 */

/** Round to the step the modifier keys ask for. @param {number} value @param {{shiftKey: boolean, ctrlKey: boolean}} keys */
export function snap(value, { shiftKey, ctrlKey }) {
  const step = shiftKey ? STEP.fine : ctrlKey ? STEP.coarse : STEP.normal;
  return Number((Math.round(value / step) * step).toFixed(3)) + 0;
}

/**
 * The value a key leads to, or null for a key that means nothing to a bar.
 * @param {string} key @param {number} value @param {{shiftKey: boolean, altKey: boolean}} keys
 */
export function keyed(key, value, { shiftKey, altKey }) {
  const step = altKey ? STEP.fine : shiftKey ? STEP.coarse : STEP.normal;
  const moves = { ArrowRight: step, ArrowUp: step, ArrowLeft: -step, ArrowDown: -step, PageUp: 0.1, PageDown: -0.1 };
  if (key === "Home") return 0;
  if (key === "End") return 1;
  const move = moves[/** @type {keyof moves} */ (key)];
  return move === undefined ? null : Number((value + move).toFixed(6)) + 0;
}

/**
 * @param {HTMLElement} root @param {Bars} bars
 */
export function attach(root, bars) {
  /** @type {{bar: HTMLInputElement, x: number, value: number, moved: boolean} | null} */
  let drag = null;
  let wheelTimer = 0;

  root.addEventListener("pointerdown", (event) => {
    const bar = barOf(event);
    if (!bar || event.button !== 0) return;
    bar.focus({ preventScroll: true });
    bar.setPointerCapture(event.pointerId);
    drag = { bar, x: event.clientX, value: bars.get(bar), moved: !bars.tap };
    if (!event.shiftKey && !bars.tap) move(event);
  });
  // Stops the browser's own thumb drag; on mousedown rather than pointerdown, so that mouseup still reaches
  // the front-end's undo.
  root.addEventListener("mousedown", (event) => {
    if (barOf(event)) event.preventDefault();
  });
  root.addEventListener("pointermove", (event) => {
    if (!drag || !(event.buttons & 1)) return;
    drag.moved ||= Math.abs(event.clientX - drag.x) > TAP;
    if (drag.moved) move(event);
  });
  for (const ending of ["pointerup", "pointercancel"]) {
    root.addEventListener(ending, () => {
      if (drag?.moved) bars.set(drag.bar, bars.get(drag.bar), true);
      else if (drag) bars.tap?.(drag.bar);
      drag = null;
    });
  }

  /** @param {PointerEvent} event */
  function move(event) {
    if (!drag) return;
    const { low, high } = bars.scale();
    const box = drag.bar.getBoundingClientRect();
    const span = high - low;
    if (event.shiftKey) drag.value += ((event.clientX - drag.x) / box.width) * span * FINE_SPEED;
    else drag.value = low + ((event.clientX - box.left) / box.width) * span;
    drag.x = event.clientX;
    drag.value = Math.min(high, Math.max(low, drag.value));
    bars.set(drag.bar, snap(drag.value, event), false);
  }

  root.addEventListener("dblclick", (event) => {
    const bar = barOf(event);
    if (bar) type(bar, bars);
  });

  root.addEventListener("keydown", (event) => {
    const bar = barOf(event);
    if (!bar || event.ctrlKey || event.metaKey) return;
    const value = keyed(event.key, bars.get(bar), event);
    if (value !== null) bars.set(bar, value, true);
    else if (event.key === "Enter") type(bar, bars);
    else if (event.key === "Delete" || event.key === "Backspace") bars.set(bar, bars.reset(bar), true);
    else if (event.key === " " && bars.tap) bars.tap(bar);
    else if (event.key === "s" || event.key === "S") bars.solo(bar);
    else return;
    event.preventDefault();
  });

  root.addEventListener(
    "wheel",
    (event) => {
      const bar = barOf(event);
      if (bar && bar === document.activeElement && !event.ctrlKey) {
        const step = event.shiftKey ? STEP.fine : STEP.normal;
        const turn = Math.sign(event.deltaY || event.deltaX);
        bars.set(bar, Number((bars.get(bar) - turn * step).toFixed(6)) + 0, false);
        clearTimeout(wheelTimer);
        wheelTimer = window.setTimeout(() => bars.set(bar, bars.get(bar), true), WHEEL_PAUSE);
        event.preventDefault();
        event.stopPropagation();
      } else if (!(/** @type {Element} */ (event.target).closest("[data-scrolls]"))) {
        bars.forward(event);
      }
    },
    { passive: false },
  );

  root.addEventListener("input", (event) => {
    const bar = barOf(event); // assistive technology moves the native control
    if (bar && !drag) bars.set(bar, Number(bar.value), true);
  });
}

/** @param {Event} event @returns {HTMLInputElement | null} */
function barOf(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  return target instanceof HTMLInputElement && target.classList.contains("bw-bar") ? target : null;
}

/** A small field over the bar, to type a number of any size. @param {HTMLInputElement} bar @param {Bars} bars */
function type(bar, bars) {
  const before = bars.get(bar);
  const field = el("input", { type: "text", inputmode: "decimal", class: "bw-type", "aria-label": bar.ariaLabel });
  field.value = numberText(before);
  bar.parentElement?.append(field);
  field.focus();
  field.select();
  let open = true;
  const close = (/** @type {boolean} */ keep) => {
    if (!open) return;
    open = false;
    const value = numberOf(field.value);
    field.remove();
    if (keep && value !== null) bars.set(bar, value, true);
  };
  field.addEventListener("blur", () => close(true));
  field.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    event.stopPropagation();
    if (event.key !== "Enter" && event.key !== "Escape") return;
    close(event.key === "Enter");
    bar.focus({ preventScroll: true });
  });
}
