"""`python -m regrow_registry`."""

import sys

from .main import main

sys.exit(main())
