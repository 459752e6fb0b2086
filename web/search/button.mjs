// @ts-check
/** Puts weights that a search found on a deck; a button on Search: Result does so with the best ones. */

import { deckFor } from "./target.mjs";

const RAN = "blockwork_text"; // what the node reports of the best weights

/** @param {any} app @param {any} node @param {(key: string) => string} say the words */
export function addBestButton(app, node, say) {
  let found = "";
  const button = node.addWidget("button", "use_best", null, () => use(app, found, say), { serialize: false });
  button.label = say("useBest");
  button.serialize = false;
  const chained = node.onExecuted;
  node.onExecuted = function (/** @type {any[]} */ ...given) {
    const answer = chained?.apply(this, given);
    const text = given[0]?.[RAN]?.[0];
    if (typeof text === "string") found = text;
    return answer;
  };
}

/** Write weights to the deck that gets them, and say which that is. @param {any} app @param {string} text @param {(key: string) => string} say */
export function use(app, text, say) {
  const toast = (/** @type {string} */ severity, /** @type {string} */ detail) =>
    app.extensionManager.toast.add({ severity, summary: say("useThese"), detail, life: 5000 });
  if (!text) return toast("warn", say("noBest"));
  const selected = app.canvas.selected_nodes ?? {};
  const target = deckFor(app.graph.nodes, (node) => node.id in selected);
  if (!target) return toast("warn", say("noDeck"));
  target.widget.value = text;
  target.node.graph?.setDirtyCanvas(true, true);
  return toast("success", target.node.title);
}
