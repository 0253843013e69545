"""`python -m omniavatar`: see `omniavatar.serving.cli`."""

import os
import sys

from omniavatar.serving.cli import main

if __name__ == "__main__":
    # Waiting threads that spin make a laptop with other work several times slower; read by OpenMP
    # when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main())
