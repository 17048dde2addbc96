"""``python -m genlab``."""

from genlab.cli import main

if __name__ == "__main__":
    main()
