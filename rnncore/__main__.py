"""`python -m rnncore` is the `rnncore` command."""
from .cli import main

if __name__ == "__main__":
    main()
