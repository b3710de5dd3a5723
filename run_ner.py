#!/usr/bin/env python3
"""The command `contrastive-ner` in a clone; the code is in `contrastive_ner/cli/`."""

import sys

from contrastive_ner.cli import main

if __name__ == "__main__":
    sys.exit(main())
