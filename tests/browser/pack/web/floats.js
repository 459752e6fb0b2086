// A deck as a mere view over 25 stock number widgets, which are hidden and are what is saved and queued.
import { app } from "../../scripts/app.js";
import { words } from "../blockwork/deck/messages.mjs";
import { OwnPresets } from "../blockwork/deck/own_presets.mjs";
import { parse } from "../blockwork/deck/weights.mjs";
import { WeightsDeck } from "../blockwork/deck/weights_deck.mjs";

app.registerExtension({
  name: "deck_test.floats",
  nodeCreated(node) {
    if (node.comfyClass !== "DeckTestHiddenFloats") return;
    const floats = [...node.widgets];
    const text = () => floats.map((widget) => widget.value).join(", ");
    const deck = new WeightsDeck({
      write(next) {
        parse(next).values.forEach((value, index) => { floats[index].value = value; });
        deck.show(text());
      },
      neutral: 0, undo() {}, forward() {}, presets: new OwnPresets(), layout: () => "sd1", words: words("en"),
    });
    for (const widget of floats) {
      widget.hidden = true; // the classic canvas
      widget.options.hidden = true; // Nodes 2.0 of 1.47
    }
    const view = node.addDOMWidget("view", "BLOCKWORK_VIEW", deck.element, {
      getValue: text, setValue() {}, getMinHeight: () => deck.minHeight, serialize: false, margin: 4,
    });
    view.serialize = false;
    const configured = node.onConfigure;
    node.onConfigure = function (...given) {
      configured?.apply(this, given);
      deck.show(text());
    };
    deck.show(text());
  },
});
