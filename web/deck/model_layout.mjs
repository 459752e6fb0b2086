// @ts-check
/** The layout of the model that a node gets, asked from the server whenever the loader's file changes. */

import { addLayout } from "./blocks.mjs";
import { keepFacts } from "./facts.mjs";

export const ROUTE = "/blockwork/layout";

export class ModelLayout {
  /** Key of the layout in LAYOUTS while a loader is upstream and its file can be read. @type {string | null} */
  id = null;
  asked = "";

  /** @param {(path: string) => Promise<Response>} fetch @param {() => void} changed */
  constructor(fetch, changed) {
    this.fetch = fetch;
    this.changed = changed;
  }

  /** @param {{folder: string, name: string} | null} file */
  async follow(file) {
    const wanted = file ? new URLSearchParams({ ...file }).toString() : "";
    if (wanted === this.asked) return;
    this.asked = wanted;
    const id = wanted ? await this.ask(wanted) : null;
    if (this.asked !== wanted || this.id === id) return; // another file was chosen meanwhile
    this.id = id;
    this.changed();
  }

  /** @param {string} query @returns {Promise<string | null>} */
  async ask(query) {
    const answer = await this.fetch(`${ROUTE}?${query}`);
    const { layout } = answer.ok ? await answer.json() : { layout: null };
    if (!layout) return null;
    const id = addLayout(layout);
    keepFacts(id, layout.facts);
    return id;
  }
}
