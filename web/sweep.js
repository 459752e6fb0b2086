// @ts-check
/** Shows a finished block sweep on its node, where people can look into it. All logic stands in sweep/*.mjs. */

// @ts-ignore: served by ComfyUI
import { api } from "../../scripts/api.js";
// @ts-ignore: served by ComfyUI
import { app } from "../../scripts/app.js";
import { keep } from "./deck/measured.mjs";
import { words } from "./deck/messages.mjs";
import { forwardWheel, loadStyle } from "./page.mjs";
import { KEY, heatByBlock, sweepOf } from "./sweep/sweep.mjs";
import { SweepView } from "./sweep/view.mjs";

const WIDTH = 640; // two columns of strips of four images
const NODES = ["BlockworkBlockSweep", "BlockworkSweepGrid"];

/** The node's view, added when there is something to see. @param {any} node @returns {SweepView} */
function addView(node) {
  const view = new SweepView({
    url: (path) => api.apiURL(path),
    words: words(app.extensionManager.setting.get("Comfy.Locale")),
    forward: (event) => forwardWheel(app, event),
  });
  const widget = node.addDOMWidget(KEY, "BLOCKWORK_SWEEP", view.element, {
    getMinHeight: () => view.minHeight,
    serialize: false,
    margin: 4,
    hideOnZoom: true,
  });
  widget.serialize = false; // images of a run are not part of the workflow
  if (node.size[0] < WIDTH) node.setSize([WIDTH, node.size[1]]);
  return view;
}

loadStyle("./sweep/sweep.css");
app.registerExtension({
  name: "blockwork.sweep",
  nodeCreated(/** @type {any} */ node) {
    if (!NODES.includes(node.comfyClass)) return;
    /** @type {SweepView | undefined} */
    let view;
    const chained = node.onExecuted;
    node.onExecuted = function (/** @type {any[]} */ ...given) {
      const answer = chained?.apply(this, given);
      const sweep = sweepOf(given[0]);
      if (!sweep) return answer;
      keep("sweepHeat", heatByBlock(sweep));
      view ??= addView(node);
      view.show(sweep);
      node.graph?.setDirtyCanvas(true, true);
      return answer;
    };
  },
});
