"""Makes random checkpoints: `make_checkpoints.py BASE_DIRECTORY NAME ...`; run by the environment's Python."""

import sys
from pathlib import Path

from refhost.pack import use_comfyui


def main() -> int:
    base, names = Path(sys.argv[1]), sys.argv[2:]
    use_comfyui()
    from refhost import checkpoints

    for path in checkpoints.make_named(names, base):
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
