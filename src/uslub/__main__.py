"""`python -m uslub`: the same as the `uslub` command."""

import sys

from uslub.tools.cli import main

if __name__ == "__main__":
    sys.exit(main())
