"""`python -m tapefuse` is the command `tapefuse`."""

import sys

from tapefuse.cli import main

sys.exit(main())
