"""`python -m tapefuse.cli` is the command `tapefuse`."""

import sys

from tapefuse.cli import main

sys.exit(main())
