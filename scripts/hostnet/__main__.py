"""`python -m hostnet` is the `hostnet` command."""

import sys

from hostnet.cli import main

sys.exit(main())
