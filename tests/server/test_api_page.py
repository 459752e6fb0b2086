"""The script of docs/api.md runs as it is printed."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_script_of_the_page_runs(server, tmp_path):
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.S)
    assert code
    script = tmp_path / "queue_template.py"
    script.write_text(code.group(1))
    template = ROOT / "example_workflows" / "api" / "demo_words.json"
    done = subprocess.run(
        [sys.executable, script, server.url, template],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ".png" in done.stdout

    template = tmp_path / "broken.json"
    template.write_text('{"1": {"class_type": "BlockworkScaleBlocks", "inputs": {}}}')
    done = subprocess.run(
        [sys.executable, script, server.url, template],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1 and "no outputs" in done.stderr
