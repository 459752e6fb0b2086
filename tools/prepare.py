"""Sets up the reference host: `python3 tools/prepare.py [--tests]`; done again it does nothing."""

import sys

from refhost import install, layout


def main() -> int:
    try:
        install.ensure(tests="--tests" in sys.argv[1:])
    except layout.HostError as error:
        print(f"set-up failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
