"""Draw images from a trained GAN: ``python sample.py runs/gan -o samples.png``."""

import sys

from sampling.command import main

if __name__ == "__main__":
    sys.exit(main())
