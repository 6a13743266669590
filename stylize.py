"""Repaint photos: ``python stylize.py runs/style_transfer photo.jpg -o out/``."""

import sys

from stylizing.command import main

if __name__ == "__main__":
    sys.exit(main())
