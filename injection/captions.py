"""Captions for training concepts: concepts as text, templates, and the captions of each image."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

NAME = re.compile(r"[^\s<>(){}:,\\/]{1,64}")
TEMPLATES = {
    "object": (
        "{}",
        "a photo of {}",
        "a picture of {}",
        "one {}",
        "a close view of {}",
        "{} seen from the side",
        "{} in good light",
        "{} in the dark",
        "a small {}",
        "a large {}",
        "a sharp photo of {}",
        "an old photo of {}",
        "a drawing of {}",
        "this is {}",
    ),
    "style": (
        "{}",
        "in the style of {}",
        "a picture in the style of {}",
        "a painting in the style of {}",
        "a drawing in the style of {}",
        "a person in the style of {}",
        "a landscape in the style of {}",
        "a building in the style of {}",
        "an animal in the style of {}",
        "a detail in the style of {}",
        "a bright picture in the style of {}",
        "a dark picture in the style of {}",
    ),
}


class CaptionError(ValueError):
    """Concepts or captions that are not valid; the message says which."""


@dataclass(frozen=True)
class NamedConcept:
    """A concept to train: its ``name``, written ``<name>`` in captions, and the ``word`` it starts from."""

    name: str
    word: str


def read_concepts(text: str) -> list[NamedConcept]:
    """Lines of ``name: word`` as concepts. Raises CaptionError for lines of another form and for equal names."""
    found: list[NamedConcept] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, word = (part.strip() for part in line.partition(":"))
        name = name.removeprefix("<").removesuffix(">")
        if not colon or not word or not NAME.fullmatch(name):
            raise CaptionError(
                f"{line[:80]!r} is not a valid concept. Write the name, a colon and the word to start from: 'gem: star'. A "
                "name has no spaces, brackets, commas or slashes."
            )
        if name in (one.name for one in found):
            raise CaptionError(f"Two concepts have the name {name!r}. Give each its own name.")
        found.append(NamedConcept(name, word))
    if not found:
        raise CaptionError("There is no concept to train. Write a line such as 'gem: star'.")
    return found


def templates(kind: str, custom: str = "") -> tuple[str, ...]:
    """The templates of a kind, or the lines of ``custom``. Raises CaptionError for a line without ``{}``."""
    lines = tuple(filter(None, map(str.strip, custom.splitlines()))) or TEMPLATES[kind]
    if wrong := [line for line in lines if "{}" not in line]:
        raise CaptionError(
            f"The template {wrong[0][:80]!r} does not say where the token belongs. Write {{}} there."
        )
    return lines


def image_captions(
    captions: Sequence[str], images: int, concepts: Sequence[NamedConcept], lines: Sequence[str]
) -> list[tuple[str, ...]]:
    """The captions that each image may be trained with, with ``<name>`` for each concept.

    ``captions`` has one per image, or none at all. ``{}`` in a caption is the only concept, ``<name>`` one of several.
    A caption that is empty or only a mark is written with each of the templates ``lines``. Raises CaptionError for a
    caption that marks no concept and for a concept that no caption marks.
    """
    if captions and len(captions) != images:
        raise CaptionError(
            f"There are {len(captions)} captions and {images} images. Connect one caption per image, or none."
        )
    marks = [f"<{one.name}>" for one in concepts]
    found, seen = [], set()
    for number, caption in enumerate(captions or [""] * images, 1):
        text = caption.strip() or "{}"
        if "{}" in text and len(marks) > 1:
            raise CaptionError(
                f"Caption {number} ({text[:60]!r}) does not say which of {', '.join(marks)} it shows. Write one of them in "
                "the caption of each image."
            )
        text = text.replace("{}", marks[0])
        if not (used := [mark for mark in marks if mark in text]):
            raise CaptionError(
                f"Caption {number} ({text[:60]!r}) does not mark the token. Write {{}} or {marks[0]} where it belongs."
            )
        seen.update(used)
        found.append(tuple(line.replace("{}", text) for line in lines) if text in marks else (text,))
    if unused := [mark for mark in marks if mark not in seen]:
        raise CaptionError(f"No caption uses {', '.join(unused)}. Write it in the captions of its images.")
    return found
