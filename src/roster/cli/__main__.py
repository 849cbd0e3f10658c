"""`python -m roster.cli` is the command `roster`."""

from roster.cli import main

if __name__ == "__main__":
    main()
