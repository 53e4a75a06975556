"""`python -m kappamask.cli`."""

import sys

from kappamask.cli import main

sys.exit(main())
