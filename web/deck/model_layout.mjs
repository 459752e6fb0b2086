// @ts-check
/** The layout of the model that a node gets: asked from the server when the loader's file changes, and told by each run. */

import { addLayout } from "./blocks.mjs";
import { keepFacts } from "./facts.mjs";

export const ROUTE = "/blockwork/layout";

export class ModelLayout {
  /** Key in LAYOUTS of the last file's layout, null where that cannot be read. @type {string | null} */
  id = null;
  asked = "";

  /** @param {(path: string) => Promise<Response>} fetch @param {() => void} changed */
  constructor(fetch, changed) {
    this.fetch = fetch;
    this.changed = changed;
  }

  /** Ask for the layout of a file; without one the layout stays as it is. @param {{folder: string, name: string} | null} file */
  async follow(file) {
    const wanted = file ? new URLSearchParams({ ...file }).toString() : "";
    if (!wanted || wanted === this.asked) return;
    this.asked = wanted;
    const id = await this.ask(wanted);
    if (this.asked !== wanted || this.id === id) return; // another file was chosen meanwhile
    this.id = id;
    this.changed();
  }

  /** Take the layout of the model that a node got in a run, until the loader's file changes. @param {any} layout */
  see(layout) {
    const id = addLayout(layout);
    if (this.id === id) return;
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
