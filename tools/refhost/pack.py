"""Imports the pack outside ComfyUI, under the one alias that tests and benchmarks share."""

import importlib.util
import sys
from types import ModuleType

from . import layout

ALIAS = "blockwork"


def load_pack() -> ModuleType:
    """The pack as the package ``blockwork``, loaded once; the pack root stays off ``sys.path``."""
    if ALIAS in sys.modules:
        return sys.modules[ALIAS]
    spec = importlib.util.spec_from_file_location(
        ALIAS, layout.ROOT / "__init__.py", submodule_search_locations=[str(layout.ROOT)]
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[ALIAS] = module
    spec.loader.exec_module(module)
    return module


def use_comfyui(*, cpu: bool = True) -> None:
    """Put the reference ComfyUI on ``sys.path``; with ``cpu`` pinned to the CPU before anything reads its flags."""
    sys.path.insert(0, str(layout.comfyui_path()))
    import comfy.cli_args

    comfy.cli_args.args.cpu = cpu
    import comfy.model_management
