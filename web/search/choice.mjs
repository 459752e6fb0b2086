// @ts-check
/** A generation of candidates and its ranking, as text: `generation 2: prefer 12, 10; reject 11`. */

/**
 * @typedef {object} Candidate
 * @property {number} number of its trial
 * @property {string} weights
 * @property {boolean} best whether it is the best so far
 * @property {import("../sweep/sweep.mjs").File} file
 * @typedef {{generation: number, cells: Candidate[]}} Choice
 * @typedef {{preferred: number[], rejected: number[]}} Marks the best first
 */

export const KEY = "blockwork_choice";

/** The generation in what a node put out, or null. @param {any} output @returns {Choice | null} */
export function choiceOf(output) {
  const choice = output?.[KEY]?.[0];
  return choice?.cells?.length ? choice : null;
}

/** What a ranking says of a generation; nothing where it is of another one. @param {string} text @param {number} generation @returns {Marks} */
export function marksOf(text, generation) {
  const form = /^\s*generation\s+(\d+)\s*:(.*)$/is.exec(text);
  const numbers = (/** @type {string} */ word) => {
    const found = form && Number(form[1]) === generation ? new RegExp(`${word}([\\d\\s,]+)`, "i").exec(form[2]) : null;
    return (found?.[1].match(/\d+/g) ?? []).map(Number);
  };
  return { preferred: numbers("prefer"), rejected: numbers("reject") };
}

/** The ranking as text; empty where nothing is marked. @param {number} generation @param {Marks} marks */
export function textOf(generation, { preferred, rejected }) {
  const parts = [["prefer", preferred], ["reject", rejected]].filter(([, numbers]) => numbers.length);
  return parts.length ? `generation ${generation}: ${parts.map(([word, numbers]) => `${word} ${/** @type {number[]} */ (numbers).join(", ")}`).join("; ")}` : "";
}

/** Mark a trial, or take its mark away. @param {Marks} marks @param {number} number @param {"preferred" | "rejected"} how @returns {Marks} */
export function toggled(marks, number, how) {
  const without = { preferred: marks.preferred.filter((n) => n !== number), rejected: marks.rejected.filter((n) => n !== number) };
  return marks[how].includes(number) ? without : { ...without, [how]: [...without[how], number] };
}

/** The generation as a sweep, for the lightbox: the best first, as what the others are compared with. @param {Choice} choice @param {(number: number) => string} name @param {number} columns @returns {import("../sweep/sweep.mjs").Sweep} */
export function asSweep({ cells }, name, columns) {
  return {
    units: { rms: "", cosine: "" },
    alone: !cells[0].best,
    cells: cells.map(({ number, weights, best, file }, index) => ({
      label: name(number), about: weights, weights, block: best ? null : name(number), file, rms: [], cosine: [],
      place: /** @type {[number, number]} */ ([index % columns, Math.floor(index / columns)]),
    })),
  };
}
