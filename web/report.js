// @ts-check
/** Shows a node's report on the node itself, as text that can be selected and copied. */

// @ts-ignore: served by ComfyUI
import { app } from "../../scripts/app.js";
import { keep } from "./deck/measured.mjs";
import { words } from "./deck/messages.mjs";
import { forwardWheel, loadStyle } from "./page.mjs";
import { ReportView } from "./report/view.mjs";
import { addBestButton } from "./search/button.mjs";

const KEY = "blockwork_report";
const CHANGE = "blockwork_change"; // by block

loadStyle("./report/report.css");
app.registerExtension({
  name: "blockwork.report",
  nodeCreated(/** @type {any} */ node) {
    if (!node.comfyClass?.startsWith("Blockwork")) return;
    if (node.comfyClass === "BlockworkSearchResult") addBestButton(app, node, words(app.extensionManager.setting.get("Comfy.Locale")));
    /** @type {ReportView | undefined} */
    let view;
    const chained = node.onExecuted;
    node.onExecuted = function (/** @type {any[]} */ ...given) {
      const answer = chained?.apply(this, given);
      const change = given[0]?.[CHANGE]?.[0];
      if (change) keep(node.comfyClass === "BlockworkLoRAReport" ? "loraChange" : "modelChange", change);
      const text = given[0]?.[KEY]?.[0];
      if (typeof text !== "string") return answer;
      view ??= addView(node);
      view.show(text);
      node.graph?.setDirtyCanvas(true, true);
      return answer;
    };
  },
});

/** @param {any} node */
function addView(node) {
  const view = new ReportView(words(app.extensionManager.setting.get("Comfy.Locale")), (event) => forwardWheel(app, event));
  const widget = node.addDOMWidget(KEY, "BLOCKWORK_REPORT", view.element, {
    getMinHeight: () => view.minHeight,
    serialize: false,
    margin: 4,
    hideOnZoom: true,
  });
  widget.serialize = false; // the report of a run is not part of the workflow
  return view;
}
