"""An empty user folder and the nodes of ``search_kit`` for every test of a search."""

import folder_paths
import pytest
from blockwork.tests.support import executor_kit as kit
from blockwork.tests.support.search_kit import CALLS, DRAWN, FAULTS, NODES, PlusOne, SlowPlus

import nodes as core


@pytest.fixture(autouse=True)
def things(tmp_path, monkeypatch):
    known, user = dict(core.NODE_CLASS_MAPPINGS), folder_paths.get_user_directory()
    kit.register()
    core.NODE_CLASS_MAPPINGS.update(NODES)
    folder_paths.set_user_directory(str(tmp_path))
    CALLS.clear()
    DRAWN.clear()
    FAULTS.clear()
    SlowPlus.events.clear()
    PlusOne.calls = 0
    yield
    kit.KEPT.clear()
    core.NODE_CLASS_MAPPINGS.clear()
    core.NODE_CLASS_MAPPINGS.update(known)
    folder_paths.set_user_directory(user)
