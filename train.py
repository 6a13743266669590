"""Train a model: ``python train.py fit --config configs/style_transfer.yaml``."""

import sys

from training.command import main

if __name__ == "__main__":
    sys.exit(main())
