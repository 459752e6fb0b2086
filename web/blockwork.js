// @ts-check
/** Hands ComfyUI the decks. The logic is in deck/*.mjs. */

// @ts-ignore: served by ComfyUI
import { api } from "../../scripts/api.js";
// @ts-ignore: served by ComfyUI
import { app } from "../../scripts/app.js";
import { menuItems } from "./convert/menu.mjs";
import { LAYOUTS } from "./deck/blocks.mjs";
import { bake, lettersOf, linkedShaping, linkedText, modelFile, shapingOf } from "./deck/graph.mjs";
import { kindOf } from "./deck/meaning.mjs";
import { listeners as measuredListeners, measured } from "./deck/measured.mjs";
import { words } from "./deck/messages.mjs";
import { ModelLayout } from "./deck/model_layout.mjs";
import { OwnPresets } from "./deck/own_presets.mjs";
import { NO_SHAPING } from "./deck/shaping.mjs";
import { SpecDeck } from "./deck/spec_deck.mjs";
import { WeightsDeck } from "./deck/weights_deck.mjs";
import { followZoom, forwardWheel, loadStyle } from "./page.mjs";

const LAYOUT = "Blockwork layout";
const MUTED = "Blockwork muted";
const RAN = "blockwork_text"; // what a node reports of the text it ran with
const UNTOUCHED = "blockwork_untouched"; // the blocks that a node's LoRA does not change
const SEEN = "blockwork_layout"; // the blocks of the model that a node got in its last run
const SIZE = { minWidth: 430, minHeight: 60 };
const REFOCUS = 2000; // ms in which a deck that undo brings back gets the focus again

const presets = new OwnPresets((path, options) => api.fetchApi(path, options));
/** Decks in the page, which show a linked text or the user's presets. @type {Set<() => void>} */
const refreshes = new Set();
/** The bar that had the focus when its deck went away. @type {{where: string, key: string, track: string, until: number} | null} */
let focused = null;

/** A widget constructor for one kind of deck. @param {string} type @param {(host: any) => any} make @param {number} [tracks] */
function widgetOf(type, make, tracks = 1) {
  return (/** @type {any} */ node, /** @type {string} */ name, /** @type {any} */ inputData) => {
    let text = String(inputData?.[1]?.default ?? "");
    /** @type {string | null} */
    let ran = null;
    /** @type {string[]} */
    let untouched = [];
    /** @type {string | null} the layout that the user chose over the model's */
    let chosen = null;
    const model = new ModelLayout((path) => api.fetchApi(path), () => {
      chosen = null;
      refresh();
    });
    const gesture = new Gesture();
    const deck = make({
      write(/** @type {string} */ next, /** @type {boolean} */ final) {
        gesture.begin();
        widget.value = next;
        node.graph?.setDirtyCanvas(true, false);
        if (final) gesture.end();
      },
      kind: kindOf(node.comfyClass, tracks),
      neutral: Number(inputData?.[1]?.neutral ?? 0),
      undo: () => app.extensionManager.command.execute("Comfy.Undo"),
      forward: (/** @type {WheelEvent} */ event) => forwardWheel(app, event),
      presets,
      layout: (/** @type {string | undefined} */ id) => {
        if (id !== undefined) chosen = id;
        return layoutOf(node, id, chosen ?? model.id);
      },
      muted: (/** @type {any} */ muted) => {
        if (muted) node.properties[MUTED] = muted;
        return node.properties?.[MUTED] ?? {};
      },
      shaping: () => shapingOf(node),
      bake: () => {
        gesture.begin();
        bake(node);
      },
      untouched: () => untouched,
      letters: () => lettersOf(node),
      measured: () => measured(words(app.extensionManager.setting.get("Comfy.Locale"))),
      words: words(app.extensionManager.setting.get("Comfy.Locale")),
    });
    const linked = () => {
      const settings = linkedShaping(node);
      const found = linkedText(node, name, ran);
      return found ?? (settings.length ? { text: ran, from: settings.join(", "), ran: ran !== null } : null);
    };
    const refresh = () => {
      const link = linked();
      deck.show(text, link);
      if (deck.element.inert !== (link !== null)) deck.element.inert = link !== null;
    };
    const refreshLinked = () => {
      if (!layoutWidget(node)) void model.follow(modelFile(node));
      if (linked() || deck.link) refresh();
    };
    const widget = node.addDOMWidget(name, type, deck.element, {
      getValue: () => text,
      setValue: (/** @type {any} */ value) => {
        text = String(value ?? "");
        refresh();
        for (const other of refreshes) if (other !== refreshLinked) other();
      },
      getMinHeight: () => deck.minHeight,
      margin: 4,
      hideOnZoom: true,
    });
    widget.output = () => deck.output?.() ?? null;
    presets.listeners.add(refresh);
    measuredListeners.add(refresh);
    refreshes.add(refreshLinked);
    chain(widget, "onRemove", () => {
      gesture.end();
      presets.listeners.delete(refresh);
      measuredListeners.delete(refresh);
      refreshes.delete(refreshLinked);
      deck.element.dataset.retired = `${node.id}/${name}`;
    });
    chain(node, "onAdded", () => {
      delete deck.element.dataset.retired;
      mount(deck.element, () => `${node.id}/${name}`);
    });
    chain(node, "onConnectionsChange", () => {
      ran = null;
      refresh();
    });
    chain(node, "onConfigure", refresh);
    chain(node, "onExecuted", (/** @type {any} */ output) => {
      const told = output?.[RAN]?.[0];
      if (typeof told === "string") ran = told;
      untouched = output?.[UNTOUCHED]?.[0] ?? [];
      if (output?.[SEEN]?.[0]) model.see(output[SEEN][0]);
      refresh();
    });
    deck.show(text);
    keepFocus(deck.element, () => `${node.id}/${name}`);
    followLayout(node, (id) => deck.relayout(id));
    followShaping(node, refresh);
    for (const letter of node.widgets ?? []) if (letter.name === "a" || letter.name === "b") chain(letter, "callback", refresh);
    const file = node.widgets?.find((/** @type {any} */ other) => other.name === "lora_name");
    if (file) {
      chain(file, "callback", () => {
        untouched = [];
        refresh();
      });
    }
    return { widget, ...SIZE };
  };
}

/** Do something after a method of an object. @param {any} object @param {string} method @param {(...given: any[]) => void} after */
function chain(object, method, after) {
  const before = object[method];
  object[method] = function (/** @type {any[]} */ ...given) {
    const answer = before?.apply(this, given);
    after(...given);
    return answer;
  };
}

/** The node's layout widget, where it has one. @param {any} node */
function layoutWidget(node) {
  return node.widgets?.find((/** @type {any} */ widget) => widget.name === "layout");
}

/**
 * Read or set a node's layout: its widget; else the given one; else a property saved with the node.
 * @param {any} node @param {string} [id] set this @param {string | null} [known] the layout of the node's model
 */
function layoutOf(node, id, known = null) {
  const widget = layoutWidget(node);
  if (id !== undefined && widget) widget.value = id;
  else if (id !== undefined) node.properties[LAYOUT] = id;
  const chosen = widget?.value ?? known ?? node.properties[LAYOUT];
  return chosen in LAYOUTS ? chosen : "sd1";
}

/** Tell the deck when the user picks another layout. @param {any} node @param {(id: string) => void} changed */
function followLayout(node, changed) {
  const widget = layoutWidget(node);
  if (widget) chain(widget, "callback", (value) => value in LAYOUTS && changed(value));
}

/** Paint again when a setting of Block Weights changes what it puts out. @param {any} node @param {() => void} changed */
function followShaping(node, changed) {
  for (const widget of node.widgets ?? []) if (widget.name in NO_SHAPING) chain(widget, "callback", changed);
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

/** Remember the bar that loses the focus to nothing: undo does that before it builds every node again. @param {HTMLElement} element @param {() => string} where */
function keepFocus(element, where) {
  element.addEventListener("focusout", ({ target, relatedTarget }) => {
    if (relatedTarget || !(target instanceof HTMLElement) || !target.matches(".bw-bar")) return;
    focused = { where: where(), key: target.dataset.key ?? "", track: target.dataset.track ?? "0", until: performance.now() + REFOCUS };
  });
}

/** @param {HTMLElement} element @param {string} where */
function giveFocus(element, where) {
  if (focused?.where !== where || performance.now() > focused.until || document.activeElement !== document.body) return;
  const { key, track } = focused;
  focused = null;
  /** @type {HTMLElement | null} */ (element.querySelector(`.bw-bar[data-key="${CSS.escape(key)}"][data-track="${track}"]`))?.focus({ preventScroll: true });
}

/**
 * Front-end 1.58 keeps showing the elements of the graph before when undo or a reload brings back nodes of the
 * same ids in Nodes 2.0. Where that happens, put the living deck in the place of the retired one.
 * @param {HTMLElement} element @param {() => string} key @param {number} [frames] how long to look
 */
function mount(element, key, frames = 30) {
  requestAnimationFrame(() => {
    const stale = document.querySelector(`.bw-deck[data-retired="${CSS.escape(key())}"]`);
    if ("retired" in element.dataset) return;
    if (element.isConnected) giveFocus(element, key());
    else if (stale) stale.replaceWith(element);
    if (frames && (!element.isConnected || focused)) mount(element, key, frames - 1);
  });
}

for (const part of ["deck", "bars", "sheet"]) loadStyle(`./deck/${part}.css`);
app.registerExtension({
  name: "blockwork.deck",
  async setup() {
    api.addEventListener("graphChanged", () => {
      for (const refresh of refreshes) refresh();
    });
    followZoom(app);
    await presets.load();
  },
  getNodeMenuItems: (/** @type {any} */ node) => menuItems(app, node),
  getCustomWidgets: () => ({
    BLOCKWORK_WEIGHTS: widgetOf("BLOCKWORK_WEIGHTS", (host) => new WeightsDeck(host)),
    BLOCKWORK_WEIGHT_PAIR: widgetOf("BLOCKWORK_WEIGHT_PAIR", (host) => new WeightsDeck(host, 2), 2),
    BLOCKWORK_SPEC: widgetOf("BLOCKWORK_SPEC", (host) => new SpecDeck(host)),
  }),
});
