"""Train all runs of a sweep: ``python sweep.py configs/sweep_norms.yaml``."""

import sys

from sweeping.command import main

if __name__ == "__main__":
    sys.exit(main())
