// @ts-check
/** What was measured per block in this page: a sweep's heat, a comparison's distances, a LoRA's change. Decks show it and offer it as weights. */

/** @typedef {"sweepHeat" | "modelChange" | "loraChange"} Kind */

/** @type {Map<Kind, Record<string, number>>} */
const KNOWN = new Map();
/** Called when something was measured. @type {Set<() => void>} */
export const listeners = new Set();

/** Keep a measure per block, as a share of the largest. @param {Kind} kind @param {Record<string, number>} values 0 or more */
export function keep(kind, values) {
  const largest = Math.max(...Object.values(values), 0);
  const shares = Object.entries(values).map(([block, value]) => [block, largest > 0 ? Math.round((1000 * value) / largest) / 1000 : 0]);
  KNOWN.delete(kind);
  KNOWN.set(kind, Object.fromEntries(shares));
  for (const listener of listeners) listener();
}

/** Everything that was measured, the last first. @param {(key: string) => string} words */
export function measured(words) {
  return [...KNOWN].reverse().map(([kind, values]) => ({ title: words(kind), values }));
}
