"""Loads the pack once, under the alias ``blockwork``, orders the tiers, and shares the tests out among workers.

The pack root must stay off ``sys.path`` (its ``nodes/`` would shadow ComfyUI's ``nodes.py``), so every
test imports through the alias: ``from blockwork.merge.methods import each``.
"""

import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TIERS = ("unit", "host", "server", "browser")
# The longest unit first, and the browser's event loop last.
WORKER_TIERS = ("server", "host", "unit", "browser")
FRONT_END = re.compile(r"\d+\.\d+\.\d+")  # the release in the id of a browser test

sys.path.insert(0, str(ROOT / "tools"))

from refhost.pack import load_pack  # noqa: E402  (needs the path above)

load_pack()


def _tier(item: pytest.Item) -> str:
    return item.path.relative_to(ROOT / "tests").parts[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(_tier(item))
    order = WORKER_TIERS if "PYTEST_XDIST_WORKER" in os.environ else TIERS
    items.sort(key=lambda item: order.index(_tier(item)))


def _unit(nodeid: str) -> str:
    """The tests that stay together on one worker: they share a server and its base directory, or a module's fixtures."""
    path = nodeid.split("::")[0]
    if "/server/" in path:
        return "server"
    if release := "/browser/" in path and FRONT_END.search(nodeid):
        return f"browser {release.group()}"
    return nodeid if "/dynamic/" in path else path  # each test of dynamic loading is a process of its own


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """How ``pytest -n 2`` shares the tests out: in units, in the order of collection."""
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False

    class Units(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _unit(nodeid)

    return Units(config, log)
