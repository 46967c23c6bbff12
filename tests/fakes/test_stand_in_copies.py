"""The stand-in's pinned memory and its copies to and from the host: CuPy's pool, and copies as late as CUDA allows."""
import shutil

import cupy_stand_in
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler (c++) on this machine")


@pytest.fixture
def xp(on_cuda):
    return on_cuda.xp


def pinned(xp, dtype, count: int) -> np.ndarray:
    """An array in pinned memory of CuPy's."""
    return np.frombuffer(xp.cuda.alloc_pinned_memory(count * np.dtype(dtype).itemsize), dtype, count)


def test_pinned_memory_comes_from_a_pool_that_gives_out_last_what_was_freed_first(xp):
    first, second = pinned(xp, "int64", 1), pinned(xp, "int32", 100)
    places, view = [a.ctypes.data for a in (first, second)], first[:0]
    assert abs(places[0] - places[1]) >= 512 and xp.cuda.alloc_pinned_memory(0).size() == 0
    assert [xp.cuda.alloc_pinned_memory(size).size() for size in (1, 512, 513, 1025)] == [512, 512, 1024, 2048]
    del first
    assert pinned(xp, "int64", 1).ctypes.data not in places  # a view holds the block
    del view, second
    assert [pinned(xp, "int8", 512).ctypes.data for _ in range(2)] == [places[1], places[1]]
    held = [pinned(xp, "float32", 128) for _ in range(2)]
    assert [a.ctypes.data for a in held] == places[::-1] and np.isnan(held[0]).all()


def test_a_copy_to_pinned_memory_is_made_when_the_host_waits_for_it(xp):
    x, begun = xp.arange(3), xp.cuda.get_current_stream().record()
    out, early = pinned(xp, "int64", 3), xp.cuda.Event()
    assert x.get(out=out, blocking=False) is out and begun.done and early.done
    x.fill(7)  # after the copy
    event = xp.cuda.get_current_stream().record()
    later = xp.ones(2).get(out=pinned(xp, "float64", 2), blocking=False)
    assert (out == -1).all() and not event.done and not xp.cuda.get_current_stream().done
    event.synchronize()
    assert out.tolist() == [0, 1, 2] and event.done and np.isnan(later).all()
    xp.cuda.get_current_stream().synchronize()
    assert later.tolist() == [1, 1] and xp.cuda.get_current_stream().done
    ordinary = np.zeros(3, "int64")
    assert x.get(out=ordinary, blocking=False).tolist() == [7, 7, 7]  # CUDA waits


def test_a_wait_for_one_stream_is_a_wait_for_what_it_waited_for(xp):
    x, out, stream = xp.arange(3), pinned(xp, "int64", 3), xp.cuda.Stream(non_blocking=True)
    x.get(out=out, blocking=False)
    xp.cuda.Stream(non_blocking=True).synchronize()
    assert (out == -1).all()
    stream.wait_event(xp.cuda.get_current_stream().record())
    stream.synchronize()
    assert out.tolist() == [0, 1, 2]


def test_what_get_cannot_copy_into_is_refused(xp):
    x = xp.ones((3, 4))
    for out, error in ((np.empty((3, 4), "float32"), TypeError), (np.empty((4, 3)), ValueError), (x, TypeError),
                       (np.empty((6, 8))[::2, ::2], RuntimeError)):
        with pytest.raises(error):
            x.get(out=out)
    assert (xp.asnumpy(x.T, out=np.zeros((4, 3))) == 1).all()


def test_a_copy_from_the_host_reads_its_block_behind_the_copies_that_go_on(xp):
    """A block that is given back too early: what was to go to the card is overwritten by what comes from it."""
    ids, place = xp.arange(5, 69, dtype="int32"), pinned(xp, "int8", 1).ctypes.data
    ids.get(out=pinned(xp, "int32", 64), blocking=False)
    assert pinned(xp, "int64", 1).ctypes.data == place
    wrong = xp.asarray(np.array([3]))
    assert wrong.get().tolist() == [6 << 32 | 5]
    out = pinned(xp, "int32", 64)
    ids.get(out=out, blocking=False)
    assert xp.asarray(np.array([3])).get().tolist() == [3]


def test_the_block_of_a_copy_from_the_host_is_held_until_it_is_made(xp):
    out, place = pinned(xp, "int64", 3), pinned(xp, "int64", 1).ctypes.data
    xp.asarray(np.array([9]))
    assert pinned(xp, "int64", 1).ctypes.data == place  # it is made
    xp.arange(3).get(out=out, blocking=False)
    values = [xp.asarray(np.array([k])) for k in range(4)]
    assert pinned(xp, "int64", 1).ctypes.data != place  # the copy to `out` comes first
    assert [int(value[0]) for value in values] == [0, 1, 2, 3]
    assert pinned(xp, "int64", 1).ctypes.data != out.ctypes.data


def test_a_copy_from_pinned_memory_takes_no_block_and_holds_what_it_reads(xp):
    out, other = pinned(xp, "int64", 4), pinned(xp, "int64", 4)
    xp.arange(4).get(out=other, blocking=False)  # so that nothing behind it is done
    out[...], place = [5, 6, 7, 8], out.ctypes.data
    y = xp.asarray(out[1:3])
    del out
    assert pinned(xp, "int64", 1).ctypes.data != place and y.get().tolist() == [6, 7]
    assert pinned(xp, "int64", 1).ctypes.data == place and other.tolist() == [0, 1, 2, 3]


def test_a_copy_from_a_block_that_another_stream_still_writes_is_a_race(xp):
    x, out, stream = xp.arange(4), pinned(xp, "int64", 4), xp.cuda.Stream(non_blocking=True)
    x.get(out=out, blocking=False)
    with stream, pytest.raises(cupy_stand_in.Race):
        xp.asarray(out)
    with stream:
        stream.wait_event(xp.cuda.Stream.null.record())
        assert xp.asarray(out).get().tolist() == [0, 1, 2, 3]
