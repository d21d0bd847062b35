"""`python -m regrow_machine_manager`."""

import sys

from .main import main

sys.exit(main())
