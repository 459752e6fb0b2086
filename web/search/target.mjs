// @ts-check
/** Which deck gets the weights that a search found. */

const DECK = "BLOCKWORK_WEIGHTS";
const WEIGHTS_NODE = "BlockworkBlockWeights";

/**
 * The deck for found weights, as its node and widget: that of a selected node, else of a Block Weights node, else the only
 * one; null where there is none or the choice is not clear. Decks whose text comes over a link are left out.
 * @param {any[]} nodes @param {(node: any) => boolean} isSelected
 */
export function deckFor(nodes, isSelected) {
  const decks = nodes.flatMap((node) =>
    (node.widgets ?? [])
      .filter((/** @type {any} */ widget) => widget.type === DECK && !isLinked(node, widget.name))
      .map((/** @type {any} */ widget) => ({ node, widget })),
  );
  const selected = decks.filter(({ node }) => isSelected(node));
  const given = decks.filter(({ node }) => node.comfyClass === WEIGHTS_NODE);
  const found = [selected, given, decks].find((some) => some.length > 0) ?? [];
  return found.length === 1 ? found[0] : null;
}

/** @param {any} node @param {string} name */
function isLinked(node, name) {
  return (node.inputs ?? []).some((/** @type {any} */ input) => input.name === name && input.link != null);
}
