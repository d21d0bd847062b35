"""`python -m regrow_supervisor`."""

import sys

from .main import main

sys.exit(main())
