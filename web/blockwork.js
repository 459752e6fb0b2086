// @ts-check
/** Hands ComfyUI the decks. All logic stands in deck/*.mjs. */

// @ts-ignore: served by ComfyUI
import { app } from "../../scripts/app.js";
import { LAYOUTS } from "./deck/blocks.mjs";
import { words } from "./deck/messages.mjs";
import { SpecDeck } from "./deck/spec_deck.mjs";
import { WeightsDeck } from "./deck/weights_deck.mjs";
import { forwardWheel, loadStyle } from "./page.mjs";

const OWN_PRESETS = "Blockwork.Deck.Presets";
const LAYOUT = "Blockwork layout";
const SIZE = { minWidth: 430, minHeight: 60 };

/** A widget constructor for one kind of deck. @param {string} type @param {(host: any) => any} make */
function widgetOf(type, make) {
  return (/** @type {any} */ node, /** @type {string} */ name, /** @type {any} */ inputData) => {
    let text = String(inputData?.[1]?.default ?? "");
    const gesture = new Gesture();
    const deck = make({
      write(/** @type {string} */ next, /** @type {boolean} */ final) {
        gesture.begin();
        widget.value = next;
        node.graph?.setDirtyCanvas(true, false);
        if (final) gesture.end();
      },
      neutral: Number(inputData?.[1]?.neutral ?? 0),
      undo: () => app.extensionManager.command.execute("Comfy.Undo"),
      forward: (/** @type {WheelEvent} */ event) => forwardWheel(app, event),
      own: () => app.extensionManager.setting.get(OWN_PRESETS) ?? {},
      keepOwn: (/** @type {any} */ presets) => app.extensionManager.setting.set(OWN_PRESETS, presets),
      layout: (/** @type {string | undefined} */ id) => layoutOf(node, id),
      words: words(app.extensionManager.setting.get("Comfy.Locale")),
    });
    const widget = node.addDOMWidget(name, type, deck.element, {
      getValue: () => text,
      setValue: (/** @type {any} */ value) => {
        text = String(value ?? "");
        deck.show(text);
      },
      getMinHeight: () => deck.minHeight,
      margin: 4,
      hideOnZoom: true,
    });
    const removed = widget.onRemove;
    widget.onRemove = function () {
      gesture.end();
      deck.element.dataset.retired = `${node.id}/${name}`;
      removed?.call(this);
    };
    const added = node.onAdded;
    node.onAdded = function (/** @type {any[]} */ ...given) {
      added?.apply(this, given);
      delete deck.element.dataset.retired;
      mount(deck.element, () => `${node.id}/${name}`);
    };
    deck.show(text);
    followLink(node, name, deck.element);
    followLayout(node, (id) => deck.relayout(id));
    return { widget, ...SIZE };
  };
}

/** Make the deck inert while a link drives its input. @param {any} node @param {string} name @param {HTMLElement} element */
function followLink(node, name, element) {
  const chained = node.onConnectionsChange;
  node.onConnectionsChange = function (/** @type {any[]} */ ...given) {
    const answer = chained?.apply(this, given);
    const input = node.inputs?.find((/** @type {any} */ slot) => slot.widget?.name === name);
    element.inert = input?.link != null;
    return answer;
  };
}

/** The node's layout widget, where it has one. @param {any} node */
function layoutWidget(node) {
  return node.widgets?.find((/** @type {any} */ widget) => widget.name === "layout");
}

/** Read or set a node's layout: its widget, else a property saved with the node. @param {any} node @param {string} [id] */
function layoutOf(node, id) {
  const widget = layoutWidget(node);
  if (id !== undefined && widget) widget.value = id;
  else if (id !== undefined) node.properties[LAYOUT] = id;
  const chosen = widget?.value ?? node.properties[LAYOUT];
  return chosen in LAYOUTS ? chosen : "sd1";
}

/** Tell the deck when the user picks another layout. @param {any} node @param {(id: string) => void} changed */
function followLayout(node, changed) {
  const widget = layoutWidget(node);
  if (!widget) return;
  const chained = widget.callback;
  widget.callback = function (/** @type {any[]} */ ...given) {
    const answer = chained?.apply(this, given);
    if (given[0] in LAYOUTS) changed(given[0]);
    return answer;
  };
}

/** Makes a drag, a turn of the wheel or a typed text one step of the front-end's undo. */
class Gesture {
  open = false;

  begin() {
    if (!this.open) app.canvas.emitBeforeChange();
    this.open = true;
  }

  end() {
    if (this.open) app.canvas.emitAfterChange();
    this.open = false;
  }
}

/**
 * Front-end 1.58 keeps showing the elements of the graph before when undo or a reload brings back nodes of the
 * same ids in Nodes 2.0. Where that happens, put the living deck in the place of the retired one.
 * @param {HTMLElement} element @param {() => string} key @param {number} [frames] how long to look
 */
function mount(element, key, frames = 30) {
  requestAnimationFrame(() => {
    const stale = document.querySelector(`.bw-deck[data-retired="${CSS.escape(key())}"]`);
    if (element.isConnected || "retired" in element.dataset) return;
    if (stale) stale.replaceWith(element);
    else if (frames) mount(element, key, frames - 1);
  });
}

for (const part of ["deck", "bars", "sheet"]) loadStyle(`./deck/${part}.css`);
app.registerExtension({
  name: "blockwork.deck",
  settings: [{ id: OWN_PRESETS, name: "Block weight presets of your own", type: "hidden", defaultValue: {} }],
  getCustomWidgets: () => ({
    BLOCKWORK_WEIGHTS: widgetOf("BLOCKWORK_WEIGHTS", (host) => new WeightsDeck(host)),
    BLOCKWORK_WEIGHT_PAIR: widgetOf("BLOCKWORK_WEIGHT_PAIR", (host) => new WeightsDeck(host, 2)),
    BLOCKWORK_SPEC: widgetOf("BLOCKWORK_SPEC", (host) => new SpecDeck(host)),
  }),
});
