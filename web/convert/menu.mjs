// @ts-check
/** A command in the menu of other nodes: replace them by nodes of this pack. */

import { originOf } from "../deck/graph.mjs";
import { words } from "../deck/messages.mjs";
import { conversionOf } from "./convert.mjs";

const STEP = 60; // px between the nodes of a chain
const NOTE = [420, 160];

/** The entries for the menu of a node. @param {any} app @param {any} node */
export function menuItems(app, node) {
  const found = conversionOf(read(node));
  const say = words(app.extensionManager.setting.get("Comfy.Locale"));
  return found ? [{ content: say("convert"), callback: () => convert(app, node, found, say) }] : [];
}

/** @param {any} node @returns {import("./convert.mjs").Old} */
function read(node) {
  const linked = (node.inputs ?? []).filter((/** @type {any} */ slot) => slot.link != null);
  const origins = linked.map((/** @type {any} */ slot) => [slot, originOf(node.graph, slot.link)]);
  return {
    type: typeOf(node),
    widgets: settingsOf(node),
    linked: Object.fromEntries(origins.map(([slot, origin]) => [slot.name, origin ? `${origin.node.id}/${origin.slot}` : String(slot.link)])),
    sources: Object.fromEntries(origins.filter(([, origin]) => origin).map(([slot, { node: source }]) => [slot.name, { type: typeOf(source), widgets: settingsOf(source) }])),
  };
}

/** @param {any} node @returns {string} */
function typeOf(node) {
  return node.comfyClass ?? node.type;
}

/** @param {any} node */
function settingsOf(node) {
  return Object.fromEntries((node.widgets ?? []).map((/** @type {any} */ { name, value }) => [name, value]));
}

/** @param {any} app @param {any} node @param {import("./convert.mjs").Conversion} found @param {(key: string) => string} say */
function convert(app, node, { nodes, outputs, notes, absorbed }, say) {
  const { graph } = node;
  app.canvas.emitBeforeChange();
  /** @type {any} */
  let last = null;
  for (const [place, { type, widgets, links }] of nodes.entries()) {
    // @ts-ignore: LiteGraph is ComfyUI's
    const made = LiteGraph.createNode(type);
    made.pos = [node.pos[0] + place * STEP, node.pos[1] + place * STEP];
    graph.add(made);
    for (const widget of made.widgets ?? []) if (widgets[widget.name] !== undefined) widget.value = widgets[widget.name];
    for (const [ours, theirs] of Object.entries(links)) relink(graph, node, theirs, made, ours);
    if (last) last.connect(0, made, slotOf(made, "model"));
    last = made;
  }
  for (const [slot, output] of (node.outputs ?? []).entries()) {
    for (const id of [...(output.links ?? [])]) {
      const link = linkOf(graph, id);
      const target = link && graph.getNodeById(link.target_id);
      const to = outputs[slot];
      if (target && to != null) last.connect(to, target, link.target_slot);
      else if (target) notes.push(["lost", output.name]);
    }
  }
  const mapped = nodes.flatMap(({ links }) => Object.values(links));
  const source = absorbed ? sourceOf(graph, node, `${absorbed}/`)[0] : null;
  for (const old of source ? [node, source] : [node]) {
    for (const input of old.inputs ?? []) if (input.link != null && input.widget && !mapped.includes(input.name)) notes.push(["lost", input.name]);
  }
  graph.remove(node);
  const used = source?.outputs.some((/** @type {any} */ output) => output.links?.length);
  if (source && !used) graph.remove(source);
  if (notes.length) explain(graph, node.pos, notes, say);
  app.canvas.emitAfterChange();
  graph.setDirtyCanvas(true, true);
}

/** A note above the new nodes that lists what differs. @param {any} graph @param {number[]} at @param {string[][]} notes @param {(key: string) => string} say */
function explain(graph, [x, y], notes, say) {
  // @ts-ignore: LiteGraph is ComfyUI's
  const note = LiteGraph.createNode("Note");
  if (!note) return;
  note.title = say("converted");
  note.pos = [x, y - NOTE[1] - STEP];
  graph.add(note);
  note.setSize([...NOTE]);
  const lines = notes.map(([key, ...given]) => given.reduce((sentence, word) => sentence.replace("{}", word), say(key)));
  note.widgets[0].value = lines.map((line) => `- ${line}`).join("\n");
}

/** @param {any} graph @param {any} from @param {string} theirs @param {any} to @param {string} ours */
function relink(graph, from, theirs, to, ours) {
  const [source, name] = sourceOf(graph, from, theirs);
  const id = source.inputs?.find((/** @type {any} */ slot) => slot.name === name)?.link;
  const link = id == null ? null : linkOf(graph, id);
  if (link) graph.getNodeById(link.origin_id)?.connect(link.origin_slot, to, slotOf(to, ours));
}

/** The node and input of a path: an input of the node, or `x/y`. @param {any} graph @param {any} node @param {string} path @returns {[any, string]} */
function sourceOf(graph, node, path) {
  const [first, second] = path.split("/");
  if (second === undefined) return [node, first];
  return [originOf(graph, node.inputs.find((/** @type {any} */ slot) => slot.name === first).link)?.node, second];
}

/** @param {any} node @param {string} name */
function slotOf(node, name) {
  return node.inputs.findIndex((/** @type {any} */ slot) => slot.name === name);
}

/** @param {any} graph @param {any} id */
function linkOf(graph, id) {
  return typeof graph.getLink === "function" ? graph.getLink(id) : (graph.links?.get?.(id) ?? graph.links?.[id]);
}
