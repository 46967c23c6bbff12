"""Run the command `rnncore` as `python -m rnncore`."""
from .cli import main

if __name__ == "__main__":
    main()
