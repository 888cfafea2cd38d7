"""`python -m deployments.doctor` is `headtail doctor`."""

import sys

from deployments.doctor.cli import main

sys.exit(main())
