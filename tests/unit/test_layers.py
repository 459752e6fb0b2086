"""The three layers, checked: packages are plain torch, only their ``host`` files import ComfyUI, no import runs in a circle."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("blocks", "merge", "study", "search", "injection", "deprojector", "cascade", "demo_models")
ALLOWED = {"torch", "numpy", "einops", "safetensors", "PIL", "scipy", "optuna"} | set(sys.stdlib_module_names)


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def is_host(path: Path) -> bool:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return any(part == "host" or part.startswith("host_") for part in parts)


def imported(path: Path, *, top_level: bool = False) -> list[str]:
    """The modules a file imports, ours as ``blocks.names``, others by their full name."""
    here = list(path.relative_to(ROOT).with_suffix("").parts)
    package = here[:-1]
    tree = ast.parse(path.read_text())
    found = []
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.append(node.module or "")
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.append(module)
            found += [f"{module}.{alias.name}" for alias in node.names if is_module(f"{module}.{alias.name}")]
    return found


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_plain_torch(package):
    for path in sources(package):
        if is_host(path):
            continue
        for name in imported(path):
            first = name.partition(".")[0]
            ours = first in (package, "blocks")
            assert ours or first in ALLOWED, f"{path.relative_to(ROOT)} imports {name}"
            assert not ours or not is_host(ROOT.joinpath(*name.split("."))), (
                f"{path.relative_to(ROOT)} imports {name}, which imports ComfyUI"
            )


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_never_imports_nodes(package):
    for path in sources(package):
        assert not [name for name in imported(path) if name.partition(".")[0] == "nodes"], path


def test_imports_run_in_no_circle():
    graph: dict[str, set[str]] = {}
    for path in sources(*PACKAGES, "nodes"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        graph[name] = {target for target in imported(path, top_level=True) if is_module(target)} - {name}
    for name, targets in graph.items():  # `from . import x` in a package names the package itself
        graph[name] = {t for t in targets if not name.startswith(f"{t}.")}
    done: set[str] = set()

    def walk(name: str, trail: list[str]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for target in graph.get(name, ()):
                walk(target, [*trail, name])
            done.add(name)

    for name in graph:
        walk(name, [])


def test_no_file_is_much_longer_than_300_lines():
    long = {
        path.relative_to(ROOT).as_posix(): count
        for path in sources(*PACKAGES, "nodes", "tools", "benchmarks")
        if (count := len(path.read_text().splitlines())) > 320
    }
    assert not long
