"""`python -m unimatrix` is `unimatrix`."""

import sys

from unimatrix.cli import main

sys.exit(main())
