"""Which patches of a LoRA file fit a tensor: every adapter type, as core computes them."""

import pytest
import torch
from blockwork.merge.lora.shapes import fits


class Patch:
    """An adapter as core reads it: a name and its tensors."""

    def __init__(self, name: str, *weights):
        self.name, self.weights = name, weights


def new(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


def glora(a1, a2, b1, b2) -> Patch:
    return Patch("glora", new(*a1), new(*a2), new(*b1), new(*b2), 1.0, None)


CASES = [
    (("diff", (new(6, 4),)), (6, 4), True),
    (("diff", (new(4, 6),)), (6, 4), False),
    (Patch("lora", new(6, 2), new(2, 4), 1.0, None, None, None), (6, 4), True),
    (Patch("lora", new(6, 2), new(3, 4), 1.0, None, None, None), (6, 4), False),
    (Patch("lora", new(6, 2), new(2, 4), 1.0, None, None, [9, 4]), (6, 4), False),
    (Patch("lora", new(6, 2, 1, 1), new(2, 4, 1, 1), 1.0, new(2, 2, 3, 3), None, None), (6, 4, 3, 3), True),
    (Patch("lora", new(6, 2, 1, 1), new(2, 4, 1, 1), 1.0, new(2, 3, 3, 3), None, None), (6, 4, 3, 3), False),
    (Patch("lora", new(6, 2, 1, 1), new(2, 4, 1, 1), 1.0, new(2, 2, 1, 1), None, None), (6, 4, 3, 3), False),
    (Patch("loha", new(6, 2), new(2, 4), 1.0, new(6, 3), new(3, 4), None, None, None), (6, 4), True),
    (Patch("loha", new(6, 2), new(2, 4), 1.0, new(6, 3), new(3, 5), None, None, None), (6, 4), False),
    (Patch("loha", new(2, 6), new(2, 4), 1.0, new(2, 6), new(2, 4), *[new(2, 2, 3, 3)] * 2, None), (6, 4, 3, 3), True),
    (Patch("loha", new(2, 6), new(2, 4), 1.0, new(2, 6), new(2, 4), new(2, 2, 3, 3), None, None), (6, 4, 3, 3), False),
    (Patch("loha", new(3, 6), new(2, 4), 1.0, new(3, 6), new(2, 4), *[new(2, 2, 3, 3)] * 2, None), (6, 4, 3, 3), False),
    (Patch("lokr", new(2, 2), new(3, 2), 1.0, *[None] * 6), (6, 4), True),
    (Patch("lokr", new(2, 2), new(3, 3), 1.0, *[None] * 6), (6, 4), False),
    (Patch("lokr", new(2, 2), None, 1.0, None, None, new(2, 3), new(2, 2), new(2, 2, 3, 3), None), (6, 4, 3, 3), True),
    (Patch("lokr", new(2, 2), None, 1.0, None, None, new(4, 3), new(2, 2), new(2, 2, 3, 3), None), (6, 4, 3, 3), False),
    (Patch("lokr", new(2, 2), None, 1.0, None, None, None, None, None, None), (6, 4), False),
    (glora((4, 2), (2, 4), (6, 2), (2, 4)), (6, 4), True),
    (glora((4, 2), (2, 5), (6, 2), (2, 4)), (6, 4), False),
    (glora((2, 4), (4, 2), (2, 4), (6, 2)), (6, 4), True),  # the old order
    (glora((2, 4), (4, 2), (2, 4), (4, 2)), (4, 4), True),
    (glora((2, 4), (4, 2), (2, 4), (6, 2)), (8, 4), False),
    (glora((4, 2), (3, 4), (6, 2), (2, 4)), (6, 4), False),
    (Patch("oft", new(3, 2, 2), None, None, None), (6, 4), True),
    (Patch("oft", new(4, 2, 2), None, None, None), (6, 4), False),
    (Patch("oft", new(3, 2, 1), None, None, None), (6, 4), False),
    (Patch("boft", new(2, 2, 4, 4), new(8, 1), 1.0, None), (8, 4), True),
    (Patch("boft", new(2, 2, 4, 4), None, None, None), (8, 4), False),  # core cannot apply it without an alpha
    (Patch("boft", new(3, 2, 4, 4), None, 1.0, None), (8, 4), False),
    (Patch("boft", new(2, 3, 4, 4), None, 1.0, None), (8, 4), False),
    (Patch("boft", new(2, 2, 4, 4), new(6, 1), 1.0, None), (8, 4), False),
    (Patch("a type of tomorrow", 1), (8, 4), True),
]  # fmt: skip


@pytest.mark.parametrize(("patch", "shape", "expected"), CASES)
def test_which_patches_fit(patch, shape, expected):
    assert fits(patch, shape) is expected
