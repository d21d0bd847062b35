"""`python -m regrow_cli` is the command `regrow`."""

import sys

from .main import main

sys.exit(main())
