"""CharLM, the model that a user holds: parameters and vocabulary on one device in one precision.

The columns of a batch are independent. So each thread runs a share of the columns, in a workspace of its own. Then each
thread computes some rows of every gradient, and sums them over the shares in a fixed order. So the same number of
threads gives the same bits.
"""
import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from operator import add
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from . import arguments, kernels, params
from .config import DTYPE, ModelConfig
from .data.vocab import Vocab
from .kernels import Array, Ids, paths
from .nn import Dropout, State, WeightDrop, Workspace, stack

T = TypeVar("T")
R = TypeVar("R")


class Held(threading.local):
    """Objects that a model makes on first use and keeps, such as workspaces. Each calling thread has its own.

    So several threads may use one model at the same time, and the arrays that a call returned to a thread stay valid
    until this thread calls again.
    """

    def __init__(self) -> None:
        self.shares: list[Workspace] = []  # one for each share of the columns
        self.grads: params.Parameters | None = None
        self.pool: ThreadPoolExecutor | None = None
        self.process: int | None = None  # id of the process that made the pool: a fork of it has no such threads
        self.single: Workspace | None = None  # a workspace of one step, for CharLM.step
        self.weight_drop: WeightDrop | None = None


class CharLM:
    """A character-level LSTM language model: embedding, L LSTM layers, linear head over V symbols.

        config     the sizes; config.vocab_size is len(vocab)
        vocab      a data.vocab.Vocab
        device     auto, cpu, cuda or cuda:K; cuda:K makes card K the current card of the calling thread
        dtype      float32 or float64; on a GPU also tf32 or bf16, on a processor with avx512_bf16 also bf16: arrays
                   of float32, products in lower precision
        seed       of the initial parameters; None: all are zero

    Attributes that are not arguments, or differ from them:

        params     the Parameters
        dtype      the type of their numbers: float32 or float64
        precision  the argument dtype
        threads    number of threads that share the columns in `loss_and_grads` and the samples in sample.samples, on a
                   CPU; 1 at first
        path       the way of computing (kernels/paths.py); eager at first

    On a GPU, a model always computes on the current card. A model can be copied with copy.deepcopy, and multiprocessing
    can send it to another process. Raises TypeError or ValueError for an argument of a wrong type, size or value,
    kernels.DeviceError for a device that does not work, MemoryError if there is too little memory.
    """

    def __init__(self, config: ModelConfig, vocab: Vocab, device: str = "auto", dtype: str = DTYPE,
                 seed: int | None = 0):
        for name, value, kind in (("config", config, ModelConfig), ("vocab", vocab, Vocab), ("device", device, str)):
            arguments.of(name, value, kind)
        seed = None if seed is None else arguments.whole("seed", seed, 0, 2 ** 64 - 1)
        if len(vocab) != config.vocab_size:
            raise ValueError(f"the vocabulary has {len(vocab)} symbols, the model {config.vocab_size}")
        self.precision, self.dtype = str(dtype), np.dtype(paths.storage(str(dtype)))
        self.config, self.vocab = config, vocab
        self.kernel = kernels.load(device)
        self.device_path = self.kernel.path("eager", self.precision)
        self.params = params.initial(config, self.kernel, self.dtype, seed)
        self.threads = 1
        self._moving = threading.Lock()
        self._held = Held()

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes of a copy, without the kernel module and without objects that a copy makes anew."""
        anew = {"kernel", "device_path", "_held", "_moving"}
        return {name: value for name, value in vars(self).items() if name not in anew} | {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the attributes of `__getstate__`, and make the others anew."""
        path = state.pop("path")
        vars(self).update(state)
        self.kernel = kernels.of(self.params.flat)
        self.device_path = self.kernel.path(path, self.precision, self.config)
        self._moving, self._held = threading.Lock(), Held()

    @property
    def path(self) -> str:
        """Return the name of the path that the model takes: eager, or on a GPU one of config.PATHS.

        Setting a path that this device, these sizes or this precision do not have raises ValueError.
        """
        return self.device_path.name

    @path.setter
    def path(self, name: str) -> None:
        if name != self.path:
            self.device_path = self.kernel.path(name, self.precision, self.config)
            self._held = Held()  # the old workspaces were made for the old path

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """Return a context: inside it, products on this thread are computed as path and precision say."""
        return self.device_path.computing()

    def loss_and_grads(self, x: ArrayLike, y: ArrayLike, state: State | None = None, *, keep: ArrayLike | None = None,
                       dropout: Dropout | None = None) -> tuple[float, params.Parameters, State]:
        """Run forward, loss and back-propagation through T steps. Return (loss, grads, state).

            x, y     (T, N) ids, and their targets: the ids one symbol later
            state    h and c (L, H, N) before x; None: zeros
            keep     (T, N), 0 where a new document begins, else 1; None: the result of the method `keep`
            dropout  the rates of this step, and the numbers that fix its masks; None: no dropout

        Results: loss, the mean in nats per character; grads, the gradient of the loss, which the next call on this
        thread overwrites; state, a copy of h and c after x. Raises ValueError or TypeError for an argument of another
        shape, type or value (arguments.py).
        """
        x = self.ids(x)
        steps, n = x.shape
        y, state = self.ids(y, (steps, n), "y"), self._state(state, n)
        keep = self.keep(x) if keep is None else arguments.keep(keep, (steps, n), self.kernel, self.dtype)
        dropout, held = arguments.dropout(dropout), self._held
        if held.grads is None:
            held.grads = self.params.like()
        weights, passes = self.weights(dropout), []
        for work in self._workspaces(steps, n):
            mine = slice(work.offset, work.offset + work.n)
            work.begin(None if state is None else State(state.h[:, :, mine], state.c[:, :, mine]))
            keep_mine = None if keep is None else self.kernel.xp.ascontiguousarray(keep[:, mine], self.dtype)
            passes.append(stack.Pass(x[:, mine], work, keep_mine, dropout, y[:, mine]))
        with self.computing():
            stack.gradients(weights, held.grads, passes, x.size, self.each)
        self.mask_gradients(weights, held.grads)
        end = State(*(self.kernel.xp.concatenate(parts, axis=2) for parts in zip(
            *(share.work.state(steps) for share in passes), strict=True)))
        losses = [share.work.loss[:steps].sum() for share in passes]
        return float(reduce(add, losses)) / x.size, held.grads, end  # sum() would begin with an int, of another type

    def keep(self, ids: Ids, out: Array | None = None) -> Array | None:
        """Return the mask (T, N) of ids (T, N) on the device: 0 at END, where the state is reset, else 1.

        Return None if the vocabulary has no END. If `out` (T, N) is given, the mask is written there.
        """
        if self.vocab.end is None:
            return None
        out = self.kernel.xp.empty(ids.shape, self.dtype) if out is None else out
        return self.kernel.xp.not_equal(ids, self.vocab.end, out=out)

    def each(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return function(item) for each item, in order; the model's threads share the calls.

        Products are computed in these threads as on the calling thread (`computing`).
        """
        pool, products = self._held.pool, paths.products()
        if pool is None:
            return list(map(function, items))

        def as_here(item: T) -> R:
            with paths.computing(products) if products else contextlib.nullcontext():
                return function(item)

        return list(pool.map(as_here, items))

    def losses(self, x: ArrayLike, y: ArrayLike, state: State | None, work: Workspace) -> tuple[Array, State]:
        """Run the forward pass alone. Return the loss (T, N) of each symbol in nats, and the state after x.

        Both are views of work, a workspace of N columns and at least T steps. x, y, state: as in `loss_and_grads`.
        Raises ValueError for a workspace of other sizes.
        """
        x = self.ids(x)
        y, state = self.ids(y, x.shape, "y"), self._state(state, x.shape[1])
        if x.shape[1] != work.n or len(x) > work.steps:
            raise ValueError(f"work has room for ({work.steps}, {work.n}), x is {x.shape}")
        work.begin(state)
        with self.computing():
            loss = stack.losses(self.params, stack.Pass(x, work, self.keep(x), targets=y))
        return loss, work.state(len(x))

    def step(self, ids: ArrayLike, state: State | None) -> tuple[Array, State]:
        """Read one symbol a column, ids (N,). Return the logits (V, N) of the next symbol and the new state, as copies.

        state: h and c, each (L, H, N); None: zeros.
        """
        ids, held = self.ids(ids, ("N",), "ids")[None], self._held
        state = self._state(state, ids.shape[1])
        if held.single is None or held.single.n != ids.shape[1]:
            path = self.kernel.path("eager", self.precision)
            held.single = Workspace(self.params, 1, ids.shape[1], training=False, path=path)
        held.single.begin(state)
        with self.computing():
            logits = stack.forward(self.params, stack.Pass(ids, held.single, self.keep(ids)))
        return logits[:, 0].copy(), State(*(array.copy() for array in held.single.state(1)))

    def tensors(self) -> params.Tensors:
        """Return copies of the parameters on the host, by PyTorch's names, with a bias_hh of zeros for each layer.

        `load_state_dict` of a torch module with `embedding`, `lstm` and `head` takes them as they are.
        """
        tensors = {name: np.array(self.kernel.to_host(view)) for name, view in self.params.items()}
        return tensors | {name.replace("bias_ih", "bias_hh"): np.zeros_like(bias)
                          for name, bias in tensors.items() if "bias_ih" in name}

    def assign(self, tensors: Mapping[str, ArrayLike]) -> None:
        """Set every parameter from a mapping with PyTorch's names. The two biases of a layer are added.

        Raises ValueError for a missing name or another shape, TypeError for a tensor that is not of real numbers. After
        an error, the model is as it was.
        """
        arguments.of("tensors", tensors, Mapping)

        def found(name: str, shape: tuple[int, ...]) -> np.ndarray:
            if name not in tensors:
                raise ValueError(f"no tensor {name}")
            tensor = np.asarray(tensors[name])
            if tensor.dtype.kind not in "iuf":
                raise TypeError(f"{name} is of {tensor.dtype}, not of real numbers")
            tensor = tensor.astype(self.dtype, copy=False)
            if tensor.shape != shape:
                raise ValueError(f"{name} has the shape {tensor.shape}, not {shape}")
            return tensor

        # All tensors are read before the first parameter is set, so an error changes nothing.
        wanted = {name: found(name, view.shape) for name, view in self.params.items()}
        for name in wanted:
            twin = name.replace("bias_ih", "bias_hh")
            if twin != name and twin in tensors:
                wanted[name] = wanted[name] + found(twin, wanted[name].shape)
        for name, value in wanted.items():
            self.params[name][...] = self.kernel.to_device(value)

    @contextlib.contextmanager
    def moving(self) -> Iterator[None]:
        """Return a context in which the parameters may be changed. Its end restores them bit for bit.

        Raises RuntimeError if another such context of this model is open: it may have changed the parameters already.
        """
        if not self._moving.acquire(blocking=False):
            raise RuntimeError("the model's parameters are being moved by a dynamic evaluation or a gradient check: "
                               "end it, close its iterator, or work on a copy (copy.deepcopy)")
        before = self.params.flat.copy()
        try:
            yield
        finally:
            self.params.flat[...] = before
            self._moving.release()

    def workspace(self, steps: int, n: int) -> Workspace:
        """Return a workspace for `losses` over at most `steps` steps (T) of n columns (N)."""
        return Workspace(self.params, steps, n, training=False, path=self.device_path)

    def mask_gradients(self, weights: Mapping[str, Array], grads: params.Parameters) -> None:
        """Turn the gradients of the result of `weights` into the gradients of the parameters, in place."""
        if weights is not self.params:
            assert self._held.weight_drop is not None  # `weights` made it on this thread
            self._held.weight_drop.backward(grads)

    def weights(self, dropout: Dropout | None) -> Mapping[str, Array]:
        """Return the parameters for one step, by name. With weight drop, every W_hh is a masked copy."""
        if dropout is None or not dropout.weight_rate:
            return self.params
        if self._held.weight_drop is None:
            self._held.weight_drop = WeightDrop(self.params)
        return self._held.weight_drop.forward(self.params, dropout, self.each)

    def ids(self, ids: ArrayLike, shape: arguments.Shape = ("T", "N"), name: str = "x") -> Ids:
        """Return ids on the device. Raise ValueError for another shape, or a number that is no id (arguments.ids)."""
        return arguments.ids(name, ids, self.config.vocab_size, self.kernel, shape)

    def _state(self, state: State | None, n: int) -> State | None:
        """Return the state, h and c (L, H, N) with N = n, on the device; None for None."""
        sizes = self.config.layers, self.config.hidden, n
        return None if state is None else arguments.state(state, sizes, self.kernel, self.dtype)

    def _workspaces(self, steps: int, n: int) -> list[Workspace]:
        """Return a workspace for each share of n columns. Make new ones only if the old ones have other sizes."""
        threads, held = min(self.kernel.shares(arguments.whole("threads", self.threads, 1)), n), self._held
        shares, forked = held.shares, held.pool and held.process != os.getpid()
        if not shares or len(shares) != threads or shares[0].columns != n or shares[0].steps < steps or forked:
            edges = [n * k // threads for k in range(threads + 1)]
            held.shares = [Workspace(self.params, steps, b - a, offset=a, columns=n, path=self.device_path)
                           for a, b in zip(edges, edges[1:], strict=False)]
            held.pool, held.process = ThreadPoolExecutor(threads) if threads > 1 else None, os.getpid()
        return held.shares
