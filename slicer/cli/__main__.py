"""`python -m slicer.cli` is `headtail slice`: nodes of a cluster need not have the project installed."""

import sys

from slicer.cli import main

sys.exit(main())
