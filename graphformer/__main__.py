"""`python -m graphformer` is the command `graphformer`."""

from __future__ import annotations

from graphformer.cli import main

if __name__ == "__main__":
    main()
