"""Make the page of an experiment: ``python -m experiments NAME``."""

import sys

from experiments.command import main

if __name__ == "__main__":
    sys.exit(main())
