"""`python -m gia.data`: the same command as `python -m gia data`, under its earlier name."""

import sys

from gia.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main(["data", *sys.argv[1:]]))
