"""`python -m omniavatar`: see `omniavatar.serving.cli`."""

import sys

from omniavatar.serving.cli import main

if __name__ == "__main__":
    sys.exit(main())
