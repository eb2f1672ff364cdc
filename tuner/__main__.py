"""`python -m tuner [COMMAND]`: search over the trainer's settings, report on a sweep, promote its best."""

import sys

from tuner.main import main

if __name__ == "__main__":
    sys.exit(main())
