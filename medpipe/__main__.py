"""The `medpipe` command where its script is not on the path: python -m medpipe doctor."""

from medpipe.cli import main

if __name__ == "__main__":
    main()
