// @ts-check
/** Copy and paste that also work over plain HTTP, where the browser offers no clipboard object. */

/** Copy a text; false where the browser refuses. @param {string} text @param {HTMLElement} beside where a helper field may go for a moment */
export async function copy(text, beside) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = Object.assign(document.createElement("textarea"), { value: text, className: "bw-offscreen" });
    const focused = /** @type {HTMLElement | null} */ (document.activeElement);
    beside.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    focused?.focus({ preventScroll: true });
    return done;
  }
}

/** The clipboard's text, or null where only the user's own paste keys may read it. */
export async function pasted() {
  try {
    return (await navigator.clipboard.readText()).trim();
  } catch {
    return null;
  }
}

/**
 * Ctrl+C and Ctrl+V on the focused bar: the whole text, not the node.
 * @param {HTMLElement} root @param {() => string} text @param {(text: string) => void} write
 * @param {(what: "copied" | "pasted") => void} said
 */
export function shortcuts(root, text, write, said) {
  const onBar = (/** @type {Event} */ event) => /** @type {Element} */ (event.target).matches?.(".bw-bar");
  root.addEventListener("copy", (event) => {
    if (!onBar(event) || !event.clipboardData) return;
    event.clipboardData.setData("text/plain", text());
    event.preventDefault();
    event.stopPropagation();
    said("copied");
  });
  root.addEventListener("paste", (event) => {
    const given = event.clipboardData?.getData("text/plain").trim();
    if (!onBar(event)) return;
    event.preventDefault();
    event.stopPropagation();
    if (!given) return;
    write(given);
    said("pasted");
  });
}
