"""rnncore is a character-level LSTM engine, written from scratch on raw arrays: NumPy on a CPU, CuPy on a GPU.

A public name is imported from its module on first use (PEP 562), so `import rnncore` and `rnncore --help` do not load
NumPy. `import rnncore` raises ImportError if a library that it needs is missing or too old (requirements.py).
"""
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

# setup.cfg maps the folders kernels/, data/ and cli/ into this package. A checkout that is not installed has no such
# map, so Python looks for these three in the root of the checkout, too.
_root = Path(__file__).resolve().parent.parent
if (_root / "setup.cfg").is_file() and (_root / "kernels" / "__init__.py").is_file():
    __path__.append(str(_root))

from . import requirements  # noqa: E402, the path above must be set first

if not requirements.is_command():  # the command checks later, before it computes, because its --help must always work
    requirements.check()

__version__ = "0.1.0"

_HOME = {  # public name -> the module that defines it
    "ModelConfig": "config", "TrainConfig": "config", "SampleConfig": "config",
    "Vocab": "data.vocab", "Batches": "data.batches",
    "CharLM": "model", "State": "nn.lstm", "Parameters": "params",
    "fit": "train", "Training": "train", "Progress": "train",
    "generate": "sample", "score": "measure.evaluate", "check_gradients": "measure.gradcheck",
    "save": "runs.checkpoint", "load": "runs.checkpoint",
}
__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Callable[..., Any]:
    """Import a public name from its module and keep it. Raise AttributeError if rnncore has no such name."""
    if name not in _HOME:
        raise AttributeError(f"module 'rnncore' has no attribute {name!r}")
    value = getattr(import_module(f"rnncore.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, those that are not yet imported included."""
    return __all__
