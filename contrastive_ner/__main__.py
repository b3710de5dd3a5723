"""`python -m contrastive_ner` is the command `contrastive-ner`."""

import sys

from contrastive_ner.cli import main

if __name__ == "__main__":
    sys.exit(main())
