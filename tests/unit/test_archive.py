"""The published archive holds what users need, and nothing else."""

import ast
import re
import shutil
import subprocess
import zipfile

import pytest
from blockwork.tests.support.archive import ROOT, packed, tracked

PACKAGES = (
    "blocks",
    "merge",
    "study",
    "search",
    "injection",
    "deprojector",
    "cascade",
    "demo_models",
    "nodes",
)
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def archive() -> set[str]:
    return packed()


@pytest.mark.skipif(not shutil.which("comfy"), reason="comfy-cli is not installed")
def test_comfy_cli_packs_the_same_files(archive, tmp_path):
    """`comfy node pack` itself, in a clone of the checkout."""
    clone = tmp_path / "blockwork"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", ROOT, clone], check=True)
    command = ["comfy", "--skip-prompt", "--no-enable-telemetry", "node", "pack"]
    subprocess.run(command, cwd=clone, check=True, timeout=120)
    listed = subprocess.run(["git", "ls-files"], cwd=clone, capture_output=True, text=True, check=True)
    committed = set(listed.stdout.splitlines())
    with zipfile.ZipFile(clone / "node.zip") as packed_by_cli:
        assert set(packed_by_cli.namelist()) == {name for name in archive if name in committed}


def test_everything_that_the_pack_uses_is_in_it(archive):
    needed = ("locales", "web", "example_workflows", "subgraphs", "docs", *PACKAGES)
    for name in tracked():
        if name.startswith(tuple(f"{folder}/" for folder in needed)) and not name.startswith(
            "demo_models/logs/"
        ):
            assert name in archive
    assert {"__init__.py", "pyproject.toml", "README.md", "LICENSE"} <= archive
    assert sum(name.startswith("web/docs/") and name.endswith(".md") for name in archive) > 50


def test_nothing_that_users_do_not_need_is_in_it(archive):
    unwanted = ("tests/", ".ci/", ".github/", "tools/demo_models/")
    assert not [name for name in archive if name.startswith(unwanted)]
    assert sum((ROOT / name).stat().st_size for name in archive) < 60e6


def test_links_lead_to_files_of_the_archive(archive):
    for name in sorted(archive):
        if not name.endswith(".md"):
            continue
        for link in LINK.findall((ROOT / name).read_text(encoding="utf-8")):
            target = link.partition("#")[0]
            if not target or "://" in target or target.startswith("mailto:"):
                continue
            # The front-end reads the links of help pages in every language from web/docs.
            folder = ROOT / "web" / "docs" if name.startswith("web/docs/") else (ROOT / name).parent
            path = folder.joinpath(target).resolve()
            assert path.exists(), f"{name} links to {link}, which does not exist"
            inside = path.relative_to(ROOT).as_posix()
            assert inside in archive or any(entry.startswith(f"{inside}/") for entry in archive), (
                f"{name} links to {link}, which the archive leaves out"
            )


def test_tools_that_help_pages_name_are_shipped(archive):
    for page in (ROOT / "web" / "docs").rglob("*.md"):
        for tool in re.findall(r"tools/\w+\.py", page.read_text(encoding="utf-8")):
            assert tool in archive, f"{page.name} names {tool}"


def test_shipped_code_has_nothing_that_the_registry_flags():
    """No subprocess, shell, eval, exec, runtime pip, requests, encoded strings or routes that serve files, in what ComfyUI imports."""
    modules = {"subprocess", "requests", "pip", "base64", "marshal", "socket", "ctypes"}
    serves_files = {"FileResponse", "add_static"}
    calls = {"eval", "exec", "__import__", "system", "popen"}
    for package in (*PACKAGES, "__init__.py"):
        for path in [ROOT / package] if package.endswith(".py") else (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    used = {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    used = {(node.module or "").partition(".")[0]}
                else:
                    used = set()
                assert not used & modules, f"{path.relative_to(ROOT)} imports {used & modules}"
                if isinstance(node, ast.Attribute):
                    assert node.attr not in serves_files, (
                        f"{path.relative_to(ROOT)}:{node.lineno}: {node.attr}"
                    )
                if isinstance(node, ast.Call):
                    name = (
                        node.func.id
                        if isinstance(node.func, ast.Name)
                        else getattr(node.func, "attr", "")
                        if isinstance(node.func, ast.Attribute)
                        and isinstance(node.func.value, ast.Name)
                        and node.func.value.id == "os"
                        else ""
                    )
                    assert name not in calls, f"{path.relative_to(ROOT)}:{node.lineno} calls {name}"
