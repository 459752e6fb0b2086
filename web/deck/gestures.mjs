// @ts-check
/**
 * Pointer, keyboard and wheel on bars. A press alone only gives a bar the focus: values change after 3 px of
 * travel, and Escape brings back what was there before the drag. A vertical swipe of a finger scrolls.
 */

import { el } from "./dom.mjs";
import { numberOf, numberText } from "./weights.mjs";

const STEP = { fine: 0.001, normal: 0.01, coarse: 0.1 };
const FINE_SPEED = 0.1;
const TRAVEL = 3; // px a pointer may move in a click
const SAMPLE = 6; // px between the points of a painted line
const WHEEL_PAUSE = 400; // ms without a turn that end a wheel gesture

/**
 * @typedef {"bar" | "paint" | "level" | "brush"} Tool
 * @typedef {object} Bars what the deck offers to the gestures
 * @property {(bar: HTMLElement) => number} get
 * @property {(bar: HTMLElement, value: number, final: boolean) => void} set
 * @property {() => void} [cancel] brings back what was there before the running drag
 * @property {() => Tool} [tool] what a drag does; a drag moves one bar where this is missing
 * @property {(values: Map<HTMLElement, number>) => void} [paint] sets several bars in a drag
 * @property {(bar: HTMLElement, value: number, tool: Tool) => void} [pull] moves a bar and those around it in a drag
 * @property {() => {low: number, high: number}} scale
 * @property {(bar: HTMLElement) => void} solo
 * @property {(bar: HTMLElement) => void} [mute]
 * @property {(bar: HTMLElement) => number} reset value that Delete goes back to
 * @property {(event: WheelEvent) => void} forward gives a wheel turn to the canvas
 * @property {(bar: HTMLElement) => void} [tap] what a click without a drag does
 * @property {() => HTMLElement[]} [order] the bars in the order in which the up and down keys visit them
 */

/** Round to the step the modifier keys ask for. @param {number} value @param {{shiftKey: boolean, ctrlKey: boolean}} keys */
export function snap(value, { shiftKey, ctrlKey }) {
  const step = shiftKey ? STEP.fine : ctrlKey ? STEP.coarse : STEP.normal;
  return Number((Math.round(value / step) * step).toFixed(3)) + 0;
}

/**
 * The value a key leads to, or null for a key that does not change a bar.
 * @param {string} key @param {number} value @param {{shiftKey: boolean, altKey: boolean}} keys
 */
export function keyed(key, value, { shiftKey, altKey }) {
  const step = altKey ? STEP.fine : shiftKey ? STEP.coarse : STEP.normal;
  const moves = { ArrowRight: step, ArrowLeft: -step, PageUp: STEP.coarse, PageDown: -STEP.coarse };
  if (key === "Home") return 0;
  if (key === "End") return 1;
  const move = moves[/** @type {keyof moves} */ (key)];
  return move === undefined ? null : Number((value + move).toFixed(6)) + 0;
}

/**
 * Whether a pointer has moved far enough to change values: `wait`, `drag`, or `leave` for a finger that scrolls.
 * @param {number} x travel to the right @param {number} y travel down @param {string} pointer mouse, pen or touch
 * @param {boolean} vertical whether moving up and down means something to the tool
 */
export function travelled(x, y, pointer, vertical = false) {
  if (Math.hypot(x, y) <= TRAVEL) return "wait";
  if (pointer === "touch" && !vertical && Math.abs(y) > Math.abs(x)) return "leave";
  return "drag";
}

/** @param {HTMLElement} root @param {Bars} bars */
export function attach(root, bars) {
  /** @type {{bar: HTMLElement, x: number, y: number, last: number[], value: number, moved: boolean, left: boolean, tool: Tool} | null} */
  let drag = null;
  let wheelTimer = 0;

  root.addEventListener("pointerdown", (event) => {
    const bar = barOf(event);
    if (!bar || event.button !== 0 || isDisabled(bar)) return;
    bar.focus({ preventScroll: true });
    bar.setPointerCapture(event.pointerId);
    const { clientX: x, clientY: y } = event;
    const tool = event.altKey && bars.paint ? "paint" : (bars.tool?.() ?? "bar");
    drag = { bar, x, y, last: [x, y], value: bars.get(bar), moved: false, left: false, tool };
  });
  // Keeps the browser from selecting text and from moving the focus; on mousedown rather than pointerdown, so
  // that mouseup still reaches the front-end's undo.
  root.addEventListener("mousedown", (event) => {
    if (barOf(event)) event.preventDefault();
  });
  root.addEventListener("pointermove", (event) => {
    if (!drag || drag.left || !(event.buttons & 1)) return;
    if (!drag.moved) {
      const verdict = travelled(event.clientX - drag.x, event.clientY - drag.y, event.pointerType, drag.tool === "paint");
      drag.left = verdict === "leave";
      drag.moved = verdict === "drag";
    }
    if (drag.moved) move(event);
  });
  root.addEventListener("pointerup", () => {
    if (drag?.moved) bars.set(drag.bar, bars.get(drag.bar), true);
    else if (drag && !drag.left) bars.tap?.(drag.bar);
    drag = null;
  });
  root.addEventListener("pointercancel", cancel);

  function cancel() {
    if (drag?.moved) bars.cancel?.();
    drag = null;
  }

  /** @param {PointerEvent} event */
  function move(event) {
    if (!drag) return;
    if (drag.tool === "paint" && bars.paint) {
      bars.paint(painted(drag.bar, drag.last, [event.clientX, event.clientY], event));
    } else {
      const { low, high } = bars.scale();
      const box = drag.bar.getBoundingClientRect();
      if (event.shiftKey) drag.value += ((event.clientX - drag.last[0]) / box.width) * (high - low) * FINE_SPEED;
      else drag.value = valueAt(drag.bar, event.clientX);
      drag.value = Math.min(high, Math.max(low, drag.value));
      const value = snap(drag.value, event);
      if (drag.tool === "bar" || !bars.pull) bars.set(drag.bar, value, false);
      else bars.pull(drag.bar, value, drag.tool);
    }
    drag.last = [event.clientX, event.clientY];
  }

  /** @param {HTMLElement} bar @param {number} x */
  function valueAt(bar, x) {
    const { low, high } = bars.scale();
    const box = bar.getBoundingClientRect();
    return Math.min(high, Math.max(low, low + ((x - box.left) / box.width) * (high - low)));
  }

  /** The bars that a line crosses, on the track it began on. @param {HTMLElement} first @param {number[]} from @param {number[]} to @param {PointerEvent} keys */
  function painted(first, from, to, keys) {
    const found = new Map();
    const steps = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1]) / SAMPLE));
    for (let step = 0; step <= steps; step++) {
      const [x, y] = from.map((start, axis) => start + ((to[axis] - start) * step) / steps);
      const bar = document.elementsFromPoint(x, y).find((element) => element.matches(".bw-bar"));
      if (!(bar instanceof HTMLElement) || !root.contains(bar) || isDisabled(bar)) continue;
      if (bar.dataset.track === first.dataset.track) found.set(bar, snap(valueAt(bar, x), keys));
    }
    return found;
  }

  root.addEventListener("dblclick", (event) => {
    const bar = barOf(event);
    if (bar && !isDisabled(bar)) type(bar, bars);
  });

  root.addEventListener("keydown", (event) => {
    const bar = barOf(event);
    if (!bar || event.ctrlKey || event.metaKey || isDisabled(bar)) return;
    const value = keyed(event.key, bars.get(bar), event);
    if (event.key === "Escape" && drag) cancel();
    else if (value !== null) bars.set(bar, value, true);
    else if (event.key === "ArrowUp" || event.key === "ArrowDown") visit(bar, event.key === "ArrowDown" ? 1 : -1);
    else if (event.key === "Enter") type(bar, bars);
    else if (event.key === "Delete" || event.key === "Backspace") bars.set(bar, bars.reset(bar), true);
    else if (event.key === " " && bars.tap) bars.tap(bar);
    else if (event.key === "s" || event.key === "S") bars.solo(bar);
    else if ((event.key === "m" || event.key === "M") && bars.mute) bars.mute(bar);
    else return;
    event.preventDefault();
    event.stopPropagation(); // Delete would remove the node, arrows would move it
  });

  /** @param {HTMLElement} bar @param {number} step */
  function visit(bar, step) {
    const order = (bars.order?.() ?? /** @type {HTMLElement[]} */ ([...root.querySelectorAll(".bw-bar")])).filter((other) => !isDisabled(other));
    order[order.indexOf(bar) + step]?.focus({ preventScroll: true });
  }

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
}

/** @param {Event} event @returns {HTMLElement | null} */
function barOf(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  return target instanceof HTMLElement && target.classList.contains("bw-bar") ? target : null;
}

/** @param {HTMLElement} bar */
function isDisabled(bar) {
  return bar.getAttribute("aria-disabled") === "true";
}

/** A small field over the bar, to type a number of any size. @param {HTMLElement} bar @param {Bars} bars */
function type(bar, bars) {
  const before = bars.get(bar);
  const field = el("input", { type: "text", inputmode: "decimal", class: "bw-type", "aria-label": bar.getAttribute("aria-label") });
  field.value = numberText(before);
  bar.append(field);
  field.focus({ preventScroll: true });
  field.select();
  let open = true;
  const close = (/** @type {boolean} */ keep) => {
    if (!open) return;
    open = false;
    const value = numberOf(field.value);
    field.remove();
    if (keep && value !== null && value !== before) bars.set(bar, value, true);
  };
  field.addEventListener("blur", () => close(true));
  for (const kind of ["pointerdown", "dblclick"]) field.addEventListener(kind, (/** @type {Event} */ event) => event.stopPropagation());
  field.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    event.stopPropagation();
    if (event.key !== "Enter" && event.key !== "Escape") return;
    close(event.key === "Enter");
    bar.focus({ preventScroll: true });
  });
}
