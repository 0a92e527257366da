"""`python -m beit.cli`: the command line, for launchers such as torchrun."""

import sys

from beit.cli import main

if __name__ == "__main__":
    sys.exit(main())
