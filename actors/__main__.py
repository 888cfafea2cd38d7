"""`python -m actors` is `headtail load`: nodes of a cluster need not have the project installed."""

import sys

from actors.cli import main

sys.exit(main())
