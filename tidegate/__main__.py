"""`python -m tidegate`: the `tidegate` command where its script is not on the path."""

from tidegate.command import main

if __name__ == "__main__":
    main(prog_name="tidegate")
