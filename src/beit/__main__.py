"""`python -m beit COMMAND`: the same as `beit COMMAND`."""

import sys

from beit.cli import main

if __name__ == "__main__":
    sys.exit(main())
