// @ts-check
/** What the pack's scripts need from ComfyUI's page. */

/** Load a style sheet once. @param {string} file beside this module */
export function loadStyle(file) {
  const { href } = new URL(file, import.meta.url);
  if (document.querySelector(`link[href="${href}"]`)) return;
  document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href }));
}

/** Let the classic canvas zoom under the pointer; Nodes 2.0 does so itself. @param {any} app @param {WheelEvent} event */
export function forwardWheel(app, event) {
  // @ts-ignore: LiteGraph is ComfyUI's
  if (globalThis.LiteGraph?.vueNodesMode) return;
  event.preventDefault();
  app.canvas.processMouseWheel(event);
}
