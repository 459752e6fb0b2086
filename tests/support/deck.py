"""A user's hands on one deck: bars, buttons, the sheet, the text."""

import time
from typing import Any

from playwright.sync_api import ElementHandle
from refhost.canvas import Canvas

BLOCKS = [f"IN{n:02}" for n in range(12)] + ["M00"] + [f"OUT{n:02}" for n in range(12)]
XL_BLOCKS = [f"IN{n:02}" for n in range(9)] + ["M00"] + [f"OUT{n:02}" for n in range(9)]
ELEMENT = "app.graph.getNodeById(id)?.widgets.find((w) => w.name === name)?.element"


class Deck:
    """The deck on a node: ``Deck(canvas, "BlockworkBlockWeights")`` adds the node."""

    def __init__(
        self,
        canvas: Canvas,
        node_type: str = "",
        *,
        at: tuple[int, int] = (40, 60),
        node: str = "",
        hidden: bool = False,
    ):
        self.canvas = canvas
        self.page = canvas.page
        self.node = node or canvas.add(node_type, at)
        self.name: str = self.page.evaluate(
            "(id) => app.graph.getNodeById(id).widgets.find((w) => w.type.startsWith('BLOCKWORK_')).name",
            self.node,
        )
        if not hidden:
            shown = f"([id, name]) => {ELEMENT}?.checkVisibility()"
            self.page.wait_for_function(shown, arg=[self.node, self.name])

    @property
    def root(self) -> ElementHandle:
        """The deck's element, in whichever renderer shows it."""
        handle = self.page.evaluate_handle(f"([id, name]) => {ELEMENT}", [self.node, self.name])
        element = handle.as_element()
        assert element
        return element

    @property
    def text(self) -> str:
        """The widget's value: what is saved and queued."""
        return self.canvas.value(self.node, self.name)

    @text.setter
    def text(self, value: str) -> None:
        self.canvas.set_value(self.node, self.name, value)

    @property
    def shown(self) -> str:
        """The text in the deck's own field."""
        return self.find(".bw-text").input_value()

    @property
    def sent(self) -> Any:
        """What the API prompt holds for the input."""
        return self.canvas.prompt()[self.node]["inputs"].get(self.name)

    def after(self, text: str, patience: float = 8.0) -> str:
        """The text, once it is ``text`` and shown (undo answers late), or what it is when patience ends."""
        deadline = time.monotonic() + patience
        while True:
            self.page.wait_for_timeout(50)
            attached = self.page.evaluate("(id) => Boolean(app.graph.getNodeById(id))", self.node)
            if attached and self.root.is_visible() and self.text == self.shown == text:
                return text
            if time.monotonic() > deadline:
                return self.text if attached else "the node is gone"

    def find(self, selector: str) -> ElementHandle:
        found = self.root.query_selector(selector)
        assert found, f"no {selector} in the deck"
        return found

    def bar(self, key: str, track: int = 0) -> ElementHandle:
        return self.find(f'.bw-bar.bw-track{track}[data-key="{key}"]')

    def painted(self, track: int = 0) -> list[str]:
        """The numbers on the bars of the U."""
        bars = self.root.query_selector_all(f".bw-u .bw-bar.bw-track{track}")
        return [bar.get_attribute("data-value") or "" for bar in bars]

    def values_painted(self, track: int = 0) -> list[float]:
        """The values of the bars of the U, as a screen reader gets them."""
        bars = self.root.query_selector_all(f".bw-u .bw-bar.bw-track{track}")
        return [float(bar.get_attribute("aria-valuenow") or "nan") for bar in bars]

    def wait(self, condition: str) -> None:
        """Wait until an expression of ``root`` holds."""
        self.page.wait_for_function(
            f"([id, name]) => {{ const root = {ELEMENT}; return Boolean({condition}); }}",
            arg=[self.node, self.name],
        )

    def values(self) -> list[float]:
        """The numbers of the text, when it is a plain list."""
        return [float(number) for number in self.text.split(",")]

    def press(self, label: str) -> None:
        """Press the button with this label."""
        found = [button for button in self.root.query_selector_all("button") if button.inner_text() == label]
        box = found[0].bounding_box() if found else None
        if box is None:
            raise AssertionError(f"no button {label!r}")
        # By place: a press on Undo takes its own button away, which a click on the element would report.
        self.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        self.canvas.settle()

    def drag(self, key: str, start: float, end: float, track: int = 0, modifier: str = "") -> None:
        """Drag on a bar from one share of its width to another."""
        box = self.bar(key, track).bounding_box()
        assert box
        y = box["y"] + box["height"] / 2
        if modifier:
            self.page.keyboard.down(modifier)
        self.page.mouse.move(box["x"] + start * box["width"], y)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + (start + end) / 2 * box["width"], y, steps=2)
        self.page.mouse.move(box["x"] + end * box["width"], y, steps=2)
        self.page.mouse.up()
        if modifier:
            self.page.keyboard.up(modifier)
        self.canvas.settle()

    def keys(self, key: str, *presses: str) -> None:
        """Focus a bar and press keys."""
        self.bar(key).focus()
        for press in presses:
            self.page.keyboard.press(press)
        self.canvas.settle()

    def contrasts(self) -> dict[str, float]:
        """WCAG contrast of the deck's texts on what they stand on, as the browser resolves the colours."""
        return self.root.evaluate(CONTRASTS)


CONTRASTS = """(root) => {
  const pen = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d', { willReadFrequently: true });
  const rgb = (...layers) => { pen.clearRect(0, 0, 1, 1);
    for (const colour of layers) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3); };
  const light = (c) => c.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const style = (selector) => getComputedStyle(root.querySelector(selector));
  const ground = rgb(getComputedStyle(root).backgroundColor);
  const under = `rgb(${ground})`;
  const found = { name: ratio(rgb(under, style('.bw-u .bw-name').color), ground),
    button: ratio(rgb(style('.bw-tools .bw-button').color), rgb(under, style('.bw-tools .bw-button').backgroundColor)),
    field: ratio(rgb(style('.bw-text').color), rgb(under, style('.bw-text').backgroundColor)) };
  for (const bar of root.querySelectorAll('.bw-u .bw-bar')) {
    const probe = root.appendChild(document.createElement('i'));
    probe.style.cssText = `color: ${getComputedStyle(bar).getPropertyValue('--fill')}`;
    found[bar.dataset.key] = ratio(rgb(getComputedStyle(bar).color), rgb(under, getComputedStyle(probe).color));
    probe.remove();
  }
  return found;
}"""
