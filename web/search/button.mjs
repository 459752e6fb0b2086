// @ts-check
/** A button on Search: Result that puts the best weights on a deck. */

import { deckFor } from "./target.mjs";

const RAN = "blockwork_text"; // what the node reports of the best weights

/** @param {any} app @param {any} node @param {Record<string, string>} say the words */
export function addBestButton(app, node, say) {
  let found = "";
  const button = node.addWidget("button", "use_best", null, () => use(app, found, say), { serialize: false });
  button.label = say.useBest;
  button.serialize = false;
  const chained = node.onExecuted;
  node.onExecuted = function (/** @type {any[]} */ ...given) {
    const answer = chained?.apply(this, given);
    const text = given[0]?.[RAN]?.[0];
    if (typeof text === "string") found = text;
    return answer;
  };
}

/** @param {any} app @param {string} text @param {Record<string, string>} say */
function use(app, text, say) {
  const toast = (/** @type {string} */ severity, /** @type {string} */ detail) =>
    app.extensionManager.toast.add({ severity, summary: say.useBest, detail, life: 5000 });
  if (!text) return toast("warn", say.noBest);
  const selected = app.canvas.selected_nodes ?? {};
  const target = deckFor(app.graph.nodes, (node) => node.id in selected);
  if (!target) return toast("warn", say.noDeck);
  target.widget.value = text;
  target.node.graph?.setDirtyCanvas(true, true);
  return toast("success", target.node.title);
}
