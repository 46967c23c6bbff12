"""The text in CUDA C++ that several kernels are made of: the gate arithmetic and the random numbers."""
from pathlib import Path

HERE = Path(__file__).parent  # the text that the processor's loops have too lies above
TANH = """
__device__ inline float tanh_of(float z) { return tanhf(z); }
__device__ inline double tanh_of(double z) { return tanh(z); }
"""


def source(*names: str) -> str:
    """Return the text of these files of kernels/ and kernels/cuda/, one after the other."""
    paths = ((HERE if (HERE / name).is_file() else HERE.parent) / name for name in names)
    return "".join(path.read_text(encoding="utf-8") for path in paths)


GATES = TANH + source("gates.cuh")
PHILOX = source("philox.cuh")
