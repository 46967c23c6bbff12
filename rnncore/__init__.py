"""rnncore is a character-level LSTM engine written from scratch on raw arrays: NumPy on a CPU, CuPy on a GPU.

The public names below are handed on lazily (PEP 562), so `import rnncore` and `rnncore --help` load no NumPy. With
libraries that are too old to compute right, `import rnncore` raises ImportError (requirements.py).
"""
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

_root = Path(__file__).resolve().parent.parent  # a checkout that was not installed: find its kernels/, data/ and cli/
if (_root / "setup.cfg").is_file() and (_root / "kernels" / "__init__.py").is_file():
    __path__.append(str(_root))

from . import requirements  # noqa: E402, it may lie in a checkout's folder, and needs none of the others

if not requirements.is_command():  # the command line says so itself, where it computes
    requirements.check()

__version__ = "0.1.0"

_HOME = {
    "ModelConfig": "config", "TrainConfig": "config", "SampleConfig": "config",
    "Vocab": "data.vocab", "Batches": "data.batches",
    "CharLM": "model", "State": "nn.lstm", "Parameters": "params",
    "fit": "train", "Training": "train", "Progress": "train",
    "generate": "sample", "score": "measure.evaluate", "check_gradients": "measure.gradcheck",
    "save": "runs.checkpoint", "load": "runs.checkpoint",
}
__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Callable[..., Any]:
    if name not in _HOME:
        raise AttributeError(f"module 'rnncore' has no attribute {name!r}")
    value = getattr(import_module(f"rnncore.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
