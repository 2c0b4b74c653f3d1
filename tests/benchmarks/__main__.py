"""`python -m tests.benchmarks`: runs one benchmark by name."""

import sys

from tests.benchmarks.runner import main

sys.exit(main())
