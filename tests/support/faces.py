"""Which front-ends a browser test runs on; without a mark, on both releases in both renderers."""

import pytest

PINNED = "1.47.12"  # what ComfyUI 0.30.0 installs
NEWER = "1.58.1"
FACES = [(version, nodes2) for version in (PINNED, NEWER) for nodes2 in (False, True)]

# Each release and each renderer once: for slow tests of what does not depend on the pair.
each_once = pytest.mark.parametrize("page", [(PINNED, False), (NEWER, True)], indirect=True, ids=str)
