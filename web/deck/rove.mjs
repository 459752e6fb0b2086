// @ts-check
/** One tab stop for a group of controls: the arrow keys move among them. */

/**
 * @param {HTMLElement} root @param {string} selector the controls @param {boolean} [arrows] whether arrow keys move
 * @returns {() => void} call it after the controls changed
 */
export function rove(root, selector, arrows = true) {
  const controls = () => /** @type {HTMLElement[]} */ ([...root.querySelectorAll(selector)]).filter(
    (control) => !control.matches(":disabled, [aria-disabled=true]"),
  );
  /** @param {HTMLElement | undefined} chosen */
  const mark = (chosen) => {
    for (const control of root.querySelectorAll(selector)) {
      const index = control === chosen ? 0 : -1;
      if (/** @type {HTMLElement} */ (control).tabIndex !== index) /** @type {HTMLElement} */ (control).tabIndex = index;
    }
  };
  root.addEventListener("focusin", (event) => {
    const control = /** @type {Element} */ (event.target).closest(selector);
    if (control) mark(/** @type {HTMLElement} */ (control));
  });
  if (arrows) {
    root.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !(/** @type {Element} */ (event.target).matches(selector))) return;
      const found = controls();
      const here = found.indexOf(/** @type {HTMLElement} */ (event.target));
      const steps = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: found.length - 1 };
      const next = steps[/** @type {keyof steps} */ (event.key)];
      if (next === undefined) return;
      found[(next + found.length) % found.length]?.focus({ preventScroll: true });
      event.preventDefault();
      event.stopPropagation();
    });
  }
  const refresh = () => {
    const found = controls();
    mark(found.find((control) => control.tabIndex === 0) ?? found[0]);
  };
  refresh();
  return refresh;
}
