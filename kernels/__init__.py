"""kernels is the only folder that knows one array library from another: a module a device, the same functions in each.

`load(device)` gives the module for a device name, `of(array)` the module whose arrays these are. Every module has

    xp                                         the array library itself: numpy or cupy
    to_device(a), to_host(a)                   a NumPy array to the device and back
    ids_to_device(ids)                         symbols' ids to the device, in the one type that they have there
    cores(), shares(threads), memory()         how many shares of a batch are worth making, and are made; bytes
    speed()                                    parameters times characters a second that a share trains, about
    single_threaded()                          a context in which a matrix product uses one thread of this process
    synchronize()                              waits until the device has done what it was given
    path(name, precision, config)              how the work of a model is done (paths.py); why_not: whether it can be
    rule(precision, config, n, writing)        the paths for a model, the fastest first, and why one does not fit
    product, row_sums                          a matrix product, and the sum of each row, as its path makes them
    timer()                                    a context that times what runs inside, by the device's own clock
    products(w, x, out)                        a run of matrix products, one after the other
    gates_forward, gates_factors, gates_backward   one time step of the LSTM cell, all four gates
    recurrence(dtype)                          the time loops over those and a stack's step, compiled, or None
    writer(...)                                what writes text in a few launches, or None
    softmax_cross_entropy                      loss and its gradient at the logits
    gather, scatter_add, scatter_workspace     columns of a table by id, and the sum of columns back into it
    adam, muon_momentum, muon_apply            updates of parameters
    philox, dropout_mask                       the counter-based generator, and a mask made of it

Functions write into the arrays that they are given; nothing in a time loop allocates.
"""
from .cards import describe, why_no_cuda
from .cpu import ops as host  # text, files and drawn symbols live on the host, whatever the device
from .devices import DeviceError, load, of

__all__ = ["DeviceError", "describe", "host", "load", "of", "why_no_cuda"]
