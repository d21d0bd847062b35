"""`python -m regrow_agent_gateway`."""

import sys

from .main import main

sys.exit(main())
