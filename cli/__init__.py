"""cli is the `rnncore` command: it parses, calls the engine and prints; a module a command, loaded when called."""
from .main import main

__all__ = ["main"]
