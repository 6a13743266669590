"""See what norms have learned: ``python analyze.py runs/style_transfer -o report/``."""

import sys

from mixing_analysis.command import main

if __name__ == "__main__":
    sys.exit(main())
