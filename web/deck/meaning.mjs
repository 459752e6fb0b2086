// @ts-check
/** What a bar means on a node: which side is empty, which side is full. */

/**
 * The kinds of weights: `share` between model A and B, `pair` of ratios, `factor` of one model's blocks,
 * `difference` of B and C added to A, `strength` of something added, `plain` where the next node decides.
 * @typedef {"share" | "pair" | "factor" | "difference" | "strength" | "plain"} Kind
 */

/** @type {Record<string, Kind>} */
const KINDS = {
  BlockworkAddDifference: "difference",
  BlockworkScaleBlocks: "factor",
  BlockworkMergeTwoRatios: "pair",
  BlockworkMergeModels: "share",
  BlockworkMergeToFile: "share",
};

/** @param {string} nodeType @param {number} tracks @returns {Kind} */
export function kindOf(nodeType, tracks = 1) {
  if (Object.hasOwn(KINDS, nodeType)) return KINDS[nodeType];
  if (tracks > 1) return "pair";
  return /LoRA/i.test(nodeType) ? "strength" : nodeType === "BlockworkBlockWeights" ? "plain" : "share";
}

/** The name a preset is shown under: ALL_A and ALL_B only mean something between two models. @param {string} name @param {Kind} kind @param {(key: string) => string} words */
export function presetTitle(name, kind, words) {
  if (kind === "share" || kind === "pair") return name;
  if (name === "ALL_A") return words("allZero");
  if (name === "ALL_B") return words("allOne");
  return name;
}
