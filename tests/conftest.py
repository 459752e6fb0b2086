"""Loads the pack once, under the alias ``blockwork``, and orders the tiers from cheap to dear.

The pack root must stay off ``sys.path`` (its ``nodes/`` would shadow ComfyUI's ``nodes.py``), so every
test imports through the alias: ``from blockwork.merge.methods import each``.
"""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TIERS = ("unit", "host", "server", "browser")

sys.path.insert(0, str(ROOT / "tools"))

from refhost.pack import load_pack  # noqa: E402  (needs the path above)

load_pack()


def _tier(item: pytest.Item) -> str:
    return item.path.relative_to(ROOT / "tests").parts[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(_tier(item))
    items.sort(key=lambda item: TIERS.index(_tier(item)))
