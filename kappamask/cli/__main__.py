"""`python -m kappamask.cli`. Row 7."""

import sys

from kappamask.cli import main

sys.exit(main())
