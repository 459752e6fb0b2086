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
  return {
    type: node.comfyClass ?? node.type,
    widgets: Object.fromEntries((node.widgets ?? []).map((/** @type {any} */ { name, value }) => [name, value])),
    linked: Object.fromEntries(linked.map((/** @type {any} */ slot) => {
      const origin = originOf(node.graph, slot.link);
      return [slot.name, origin ? `${origin.node.id}/${origin.slot}` : String(slot.link)];
    })),
  };
}

/** @param {any} app @param {any} node @param {import("./convert.mjs").Conversion} found @param {(key: string) => string} say */
function convert(app, node, { nodes, outputs, notes }, say) {
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
  for (const input of node.inputs ?? []) {
    if (input.link != null && input.widget && !mapped.includes(input.name)) notes.push(["lost", input.name]);
  }
  graph.remove(node);
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
  const id = from.inputs?.find((/** @type {any} */ slot) => slot.name === theirs)?.link;
  const link = id == null ? null : linkOf(graph, id);
  if (link) graph.getNodeById(link.origin_id)?.connect(link.origin_slot, to, slotOf(to, ours));
}

/** @param {any} node @param {string} name */
function slotOf(node, name) {
  return node.inputs.findIndex((/** @type {any} */ slot) => slot.name === name);
}

/** @param {any} graph @param {any} id */
function linkOf(graph, id) {
  return typeof graph.getLink === "function" ? graph.getLink(id) : (graph.links?.get?.(id) ?? graph.links?.[id]);
}
