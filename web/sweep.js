// @ts-check
/** Shows a finished block sweep, or the candidates of a search, on its node. The logic is in sweep/*.mjs and search/*.mjs. */

// @ts-ignore: served by ComfyUI
import { api } from "../../scripts/api.js";
// @ts-ignore: served by ComfyUI
import { app } from "../../scripts/app.js";
import { keep } from "./deck/measured.mjs";
import { words } from "./deck/messages.mjs";
import { forwardWheel, loadStyle } from "./page.mjs";
import { use } from "./search/button.mjs";
import { KEY as CHOICE, choiceOf } from "./search/choice.mjs";
import { ChoiceView } from "./search/choice_view.mjs";
import { KEY, heatByBlock, sweepOf } from "./sweep/sweep.mjs";
import { SweepView } from "./sweep/view.mjs";

const WIDTH = 640; // two columns of strips of four images
const CHOOSE = "BlockworkSearchChoose";
const NODES = ["BlockworkBlockSweep", "BlockworkSweepGrid"];

/** What every view gets of the page. */
function host() {
  return {
    url: (/** @type {string} */ path) => api.apiURL(path),
    words: words(app.extensionManager.setting.get("Comfy.Locale")),
    forward: (/** @type {WheelEvent} */ event) => forwardWheel(app, event),
  };
}

/** Add a view to a node when there is something to see. @template {{element: HTMLElement, minHeight: number}} View @param {any} node @param {string} name @param {string} type @param {View} view */
function addView(node, name, type, view) {
  const widget = node.addDOMWidget(name, type, view.element, {
    getMinHeight: () => view.minHeight,
    serialize: false,
    margin: 4,
    hideOnZoom: true,
  });
  widget.serialize = false; // images of a run are not part of the workflow
  if (node.size[0] < WIDTH) node.setSize([WIDTH, node.size[1]]);
  return view;
}

/** A view of candidates that writes the ranking of its node. @param {any} node */
function choiceView(node) {
  const ranking = node.widgets.find((/** @type {any} */ widget) => widget.name === "ranking");
  const { words: say, ...page } = host();
  const view = new ChoiceView({
    ...page,
    words: say,
    ranking: () => String(ranking.value ?? ""),
    rank(text) {
      app.canvas.emitBeforeChange();
      ranking.value = text;
      app.canvas.emitAfterChange();
      node.graph?.setDirtyCanvas(true, true);
    },
    use: (weights) => use(app, weights, say),
  });
  const typed = ranking.callback;
  ranking.callback = function (/** @type {any[]} */ ...given) {
    const answer = typed?.apply(this, given);
    view.paint();
    return answer;
  };
  return addView(node, CHOICE, "BLOCKWORK_CHOICE", view);
}

loadStyle("./sweep/sweep.css");
app.registerExtension({
  name: "blockwork.sweep",
  nodeCreated(/** @type {any} */ node) {
    if (node.comfyClass === CHOOSE) {
      onOutput(node, choiceOf, choiceView);
      return;
    }
    if (!NODES.includes(node.comfyClass)) return;
    onOutput(node, sweepOf, () => addView(node, KEY, "BLOCKWORK_SWEEP", new SweepView(host())), (sweep) => keep("sweepHeat", heatByBlock(sweep)));
  },
});

/** Show what a node puts out, when it does. @param {any} node @param {(output: any) => any} read @param {(node: any) => any} make @param {(found: any) => void} [before] */
function onOutput(node, read, make, before) {
  /** @type {any} */
  let view;
  const chained = node.onExecuted;
  node.onExecuted = function (/** @type {any[]} */ ...given) {
    const answer = chained?.apply(this, given);
    const found = read(given[0]);
    if (!found) return answer;
    before?.(found);
    view ??= make(node);
    view.show(found);
    node.graph?.setDirtyCanvas(true, true);
    return answer;
  };
}
