"""The best weights of a search go to a deck by one click."""

from refhost.canvas import Canvas

CLICK = "(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'use_best').callback()"
VALUE = "(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'weights').value"
RAN = "(id) => app.graph.getNodeById(id).onExecuted({ blockwork_text: ['IN00=0.25, M00=0.5'] })"


def test_the_best_weights_go_to_a_deck(canvas: Canvas):
    result = canvas.add("BlockworkSearchResult", (20, 60))
    deck = canvas.add("BlockworkBlockWeights", (500, 60))
    before = canvas.page.evaluate(VALUE, deck)
    canvas.page.evaluate(CLICK, result)
    assert canvas.page.evaluate(VALUE, deck) == before, "there is nothing to put there yet"
    canvas.page.evaluate(RAN, result)
    canvas.page.evaluate(CLICK, result)
    assert canvas.page.evaluate(VALUE, deck) == "IN00=0.25, M00=0.5"
