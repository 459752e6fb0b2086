// @ts-check
/** The user's own presets: one store, on the server (user/blockwork/presets), for decks and nodes alike. */

/**
 * @typedef {{name: string, values: number[], about: string, file: string, editable: boolean}} Preset
 * @typedef {(path: string, options?: any) => Promise<Response>} Fetch
 */

export const ROUTE = "/blockwork/presets";

export class OwnPresets {
  /** @type {Map<string, Preset>} */
  known = new Map();
  /** @type {Set<() => void>} */
  listeners = new Set();

  /** @param {Fetch} fetch */
  constructor(fetch) {
    this.fetch = fetch;
  }

  /** Values by name. @returns {Record<string, number[]>} */
  values() {
    return Object.fromEntries([...this.known].map(([name, { values }]) => [name, values]));
  }

  /** @param {string} name */
  about(name) {
    return this.known.get(name)?.about ?? "";
  }

  /** @param {string} name */
  editable(name) {
    return this.known.get(name)?.editable ?? false;
  }

  /** Read the store. */
  async load() {
    await this.ask(ROUTE);
  }

  /** @param {string} name @param {number[]} values @param {string} about one line */
  async save(name, values, about) {
    await this.ask(ROUTE, { method: "POST", body: JSON.stringify({ name, values, about }) });
  }

  /** @param {string} name */
  async remove(name) {
    await this.ask(`${ROUTE}/remove`, { method: "POST", body: JSON.stringify({ name }) });
  }

  /** Take in the lines of a preset file. @param {string} text */
  async take(text) {
    await this.ask(`${ROUTE}/import`, { method: "POST", body: JSON.stringify({ text }) });
  }

  /** The presets as a file that other tools read: `name<TAB>numbers`, the description above as a comment. */
  text() {
    const lines = [...this.known.values()].map(({ name, values, about }) => `${about ? `# ${about}\n` : ""}${name}\t${values.join(",")}`);
    return `${lines.join("\n")}\n`;
  }

  /** @param {string} path @param {any} [options] */
  async ask(path, options) {
    const answer = await this.fetch(path, options && { ...options, headers: { "Content-Type": "application/json" } });
    const told = await answer.json().catch(() => ({ error: `${answer.status} ${answer.statusText}` }));
    if (!answer.ok) throw new Error(told.error ?? String(answer.status));
    this.known = new Map(told.presets.map((/** @type {Preset} */ preset) => [preset.name, preset]));
    for (const listener of this.listeners) listener();
  }
}
