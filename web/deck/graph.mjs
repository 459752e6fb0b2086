// @ts-check
/** What a deck reads off the graph around its node: linked texts, the node's own settings. No page needed. */

import { NO_SHAPING } from "./shaping.mjs";

/** Nodes of ComfyUI whose output is the text in their one widget. */
const CONSTANTS = ["PrimitiveString", "PrimitiveStringMultiline", "PrimitiveNode"];
const SHAPED = "BlockworkBlockWeights";
const FARTHEST = 50; // nodes that a link is followed through

/**
 * The node and output that a link comes from, through reroutes; null outside of this graph (a subgraph's input).
 * @param {any} graph @param {any} linkId @returns {{node: any, slot: number} | null}
 */
export function originOf(graph, linkId) {
  for (let steps = 0; steps < FARTHEST; steps++) {
    const link = typeof graph.getLink === "function" ? graph.getLink(linkId) : (graph.links?.get?.(linkId) ?? graph.links?.[linkId]);
    const node = link && graph.getNodeById(link.origin_id);
    if (!node) return null;
    if (node.type !== "Reroute") return { node, slot: link.origin_slot };
    linkId = node.inputs?.[0]?.link;
    if (linkId == null) return null;
  }
  return null;
}

/** The link into an input, or null. @param {any} node @param {string} name */
export function linkInto(node, name) {
  const input = node.inputs?.find((/** @type {any} */ slot) => slot.widget?.name === name || slot.name === name);
  return input?.link ?? null;
}

/**
 * What a link brings to a deck: the text where the source is a constant or another deck, the text of the last run
 * where a node reported one, else null.
 * @param {any} node @param {string} name @param {string | null} ran the text that the node got in its last run
 * @returns {import("./weights_deck.mjs").Link | null}
 */
export function linkedText(node, name, ran = null) {
  const link = linkInto(node, name);
  if (link == null || !node.graph) return null;
  const origin = originOf(node.graph, link);
  if (!origin) return { text: ran, from: node.graph.name ?? "subgraph", ran: ran !== null };
  const from = origin.node.title ?? origin.node.type;
  const deck = origin.node.widgets?.find((/** @type {any} */ widget) => typeof widget.output === "function");
  const text = origin.node.comfyClass === SHAPED && origin.slot === 0 ? (deck?.output() ?? null) : constantText(origin.node);
  if (text !== null) return { text, from, ran: false };
  return { text: ran, from, ran: ran !== null };
}

/** @param {any} node @returns {string | null} */
function constantText(node) {
  if (!CONSTANTS.includes(node.type) || node.inputs?.some((/** @type {any} */ slot) => slot.link != null)) return null;
  const value = node.widgets?.[0]?.value;
  return typeof value === "string" ? value : null;
}

/** What Block Weights does to its numbers, or null where it leaves them as they are. @param {any} node @returns {import("./shaping.mjs").Shaping | null} */
export function shapingOf(node) {
  if (node.comfyClass !== SHAPED) return null;
  const found = { ...NO_SHAPING };
  for (const name of Object.keys(NO_SHAPING)) {
    const widget = node.widgets?.find((/** @type {any} */ other) => other.name === name);
    if (widget) /** @type {any} */ (found)[name] = widget.value;
  }
  const blends = found.blend_with !== NO_SHAPING.blend_with && Number(found.blend) !== 0;
  const changes = blends || found.mirror || found.invert || found.scale !== 1 || found.offset !== 0;
  return changes ? found : null;
}

/** The values of the letters A and B of a LoRA node; undefined where a link sets them. @param {any} node @returns {import("./lora_weights.mjs").Letters} */
export function lettersOf(node) {
  const of = (/** @type {string} */ name, /** @type {number} */ otherwise) => {
    if (linkInto(node, name) != null) return undefined;
    return Number(node.widgets?.find((/** @type {any} */ widget) => widget.name === name)?.value ?? otherwise);
  };
  return { A: of("a", 1), B: of("b", 0) };
}

/** Set Block Weights' own settings to nothing. @param {any} node */
export function bake(node) {
  for (const [name, value] of Object.entries(NO_SHAPING)) {
    const widget = node.widgets?.find((/** @type {any} */ other) => other.name === name);
    if (widget && widget.value !== value) widget.value = value;
  }
}

/** Names of Block Weights' settings that a link sets, which only a run knows. @param {any} node */
export function linkedShaping(node) {
  if (node.comfyClass !== SHAPED) return [];
  return Object.keys(NO_SHAPING).filter((name) => linkInto(node, name) != null);
}

/** Widgets that name a model file, and the folder that ComfyUI lists it in. @type {Record<string, string>} */
const FILES = { ckpt_name: "checkpoints", unet_name: "diffusion_models", checkpoint: "checkpoints", model_a: "checkpoints" };

/**
 * The file that a node's model comes from: followed upstream through the first MODEL input of each node, and for
 * Block Weights through the node that takes the weights. Null where no loader is found.
 * @param {any} node @returns {{folder: string, name: string} | null}
 */
export function modelFile(node) {
  const seen = new Set();
  let here = node.comfyClass === SHAPED ? consumerOf(node) : node;
  while (here && !seen.has(here) && seen.size < FARTHEST) {
    seen.add(here);
    for (const [widget, folder] of Object.entries(FILES)) {
      const found = here.widgets?.find((/** @type {any} */ other) => other.name === widget);
      if (typeof found?.value === "string" && linkInto(here, widget) == null) return { folder, name: found.value };
    }
    const input = here.inputs?.find((/** @type {any} */ slot) => slot.type === "MODEL" && slot.link != null);
    here = input ? (originOf(here.graph, input.link)?.node ?? null) : null;
  }
  return null;
}

/** The first node that an output of this node goes to. @param {any} node */
function consumerOf(node) {
  const linkId = node.outputs?.flatMap((/** @type {any} */ output) => output.links ?? [])[0];
  if (linkId == null) return null;
  const { graph } = node;
  const link = typeof graph?.getLink === "function" ? graph.getLink(linkId) : graph?.links?.[linkId];
  return link ? graph.getNodeById(link.target_id) : null;
}
