"""The `rnncore` command line: each command is one module, which parses options, calls the library and prints."""
from .main import main

__all__ = ["main"]
