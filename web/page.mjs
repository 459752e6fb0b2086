// @ts-check
/** What the pack's scripts need from ComfyUI's page. */

/** Load a style sheet once. @param {string} file beside this module */
export function loadStyle(file) {
  const { href } = new URL(file, import.meta.url);
  if (document.querySelector(`link[href="${href}"]`)) return;
  document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href }));
}

const FAR = 0.5; // zoom below which texts on nodes cannot be read

/** Mark the page with a class while the canvas is zoomed out so far that texts cannot be read. @param {any} app */
export function followZoom(app) {
  const { canvas } = app;
  const chained = canvas.onDrawForeground;
  canvas.onDrawForeground = function (/** @type {any[]} */ ...given) {
    document.body.classList.toggle("bw-far", canvas.ds.scale < FAR);
    return chained?.apply(this, given);
  };
}

/** Let the classic canvas zoom under the pointer; Nodes 2.0 does so itself. @param {any} app @param {WheelEvent} event */
export function forwardWheel(app, event) {
  // @ts-ignore: LiteGraph is ComfyUI's
  if (globalThis.LiteGraph?.vueNodesMode) return;
  event.preventDefault();
  app.canvas.processMouseWheel(event);
}
