"""The source text in CUDA C++ that several kernels share: the gate arithmetic and the random generator."""
from pathlib import Path

HERE = Path(__file__).parent  # gates.cuh and philox.cuh are one folder above
TANH = """
__device__ inline float tanh_of(float z) { return tanhf(z); }
__device__ inline double tanh_of(double z) { return tanh(z); }
"""


def source(*names: str) -> str:
    """Return the text of these files, one after the other. A file is in kernels/cuda/, or else in kernels/.

    Kernels are compiled from one text without an include path, so this takes the place of #include.
    """
    paths = ((HERE if (HERE / name).is_file() else HERE.parent) / name for name in names)
    return "".join(path.read_text(encoding="utf-8") for path in paths)


GATES = TANH + source("gates.cuh")
PHILOX = source("philox.cuh")
