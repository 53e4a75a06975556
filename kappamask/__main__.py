"""`python -m kappamask`: the command line."""

import sys

from kappamask.cli import main

if __name__ == "__main__":
    sys.exit(main())
