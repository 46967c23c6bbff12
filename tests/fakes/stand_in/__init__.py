"""What tests/fakes/cupy_stand_in.py is put together from: memory, streams, arrays, and two kinds of kernels."""
