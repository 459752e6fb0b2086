"""What is trained: concepts, images with captions, and which layers share a token."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .captions import NamedConcept
from .concept import XTI
from .train import Vectors

KINDS = ("XTI", "textual inversion")
APART = (
    "XTI, keys and values apart"  # two tokens per layer, for the study: keys read the one, values the other
)


@dataclass(frozen=True)
class Task:
    """What to train and on what: ``latents`` are single images ``1 c h w``, ``captions`` those each may have."""

    concepts: Sequence[NamedConcept]
    latents: Sequence[Tensor]
    captions: Sequence[tuple[str, ...]]
    kind: str = KINDS[0]
    vectors: int = 1


def concepts_of(vectors: Vectors, what: Task, layers: int, values: bool = False) -> list[XTI]:
    """The concepts as they are now; ``values``: those that values read, where keys and values are apart."""
    found = []
    for number, one in enumerate(what.concepts):
        tokens = []
        for key, tensor in vectors.items():
            if key.startswith(f"{number}/"):
                groups = tensor.detach().cpu().clone().unbind(0)
                own = groups * layers if len(groups) == 1 else groups
                tokens.append(own[-layers:] if values else own[:layers])
        found.append(XTI(one.name, tokens[0], large=tokens[1] if len(tokens) > 1 else ()))
    return found
