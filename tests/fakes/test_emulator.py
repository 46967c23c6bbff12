"""The emulator that kernels are tested on: what it computes is right, and what a kernel does wrong is an error."""
import shutil

import emulate
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")


def run(body: str, parameters: str, *args, grid=1, block=32, shared_mem=0, seed=0, cooperative=True, before=""):
    code = f'{before}\nextern "C" __global__ void trial({parameters}) {{\n{body}\n}}'
    emulate.kernel(code, "trial")(grid, block, args, shared_mem, seed=seed, cooperative=cooperative)
    return args[0]


def test_every_thread_of_every_block_knows_where_it_is():
    out = run("out[blockIdx.x * blockDim.x + threadIdx.x] = 100 * blockIdx.x + threadIdx.x + gridDim.x * add;",
              "int* out, int add", np.zeros(20, np.int32), np.int32(7), grid=4, block=5)
    assert (out == [100 * b + t + 28 for b in range(4) for t in range(5)]).all()


def test_a_launch_that_is_not_cooperative_runs_more_blocks_than_are_there_at_once():
    assert (run("out[blockIdx.x] = blockIdx.x;", "int* out", np.zeros(50, np.int32), grid=50, cooperative=False)
            == np.arange(50)).all()


@pytest.mark.parametrize("seed", range(4))
def test_a_sum_over_a_block_in_shared_memory(seed):
    body = """
    __shared__ float part[64];
    extern __shared__ float whole[];
    part[threadIdx.x] = in[threadIdx.x];
    for (int half = 32; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    }
    if (threadIdx.x == 0) whole[0] = part[0];
    __syncthreads();
    out[threadIdx.x] = whole[0];"""
    draw = np.random.default_rng(seed).integers(0, 100, 64).astype(np.float32)
    assert (run(body, "float* out, const float* in", np.zeros(64, np.float32), draw, block=64, shared_mem=4, seed=seed)
            == draw.sum()).all()


def test_a_missing_barrier_is_seen():
    body = """
    __shared__ int at[64];
    at[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = at[63 - threadIdx.x];"""
    assert not (run(body, "int* out", np.zeros(64, np.int32), block=64) == np.arange(64)[::-1]).all()


def test_shuffles_and_ballots():
    body = """
    const int lane = threadIdx.x;
    out[lane] = __shfl_sync(~0u, lane, 5);
    out[32 + lane] = __shfl_down_sync(~0u, lane, 1);
    out[64 + lane] = __shfl_xor_sync(~0u, lane, 16);
    out[96 + lane] = __ballot_sync(~0u, lane % 3 == 0);
    out[128 + lane] = __shfl_up_sync(~0u, lane, 2, 8);
    if (lane < 16) out[160 + lane] = __shfl_sync(0xFFFFu, lane, 3);"""
    found = run(body, "int* out", np.zeros(192, np.int32)).reshape(6, 32)
    lane = np.arange(32)
    wanted = [0 * lane + 5, np.minimum(lane + 1, 31), lane ^ 16, 0 * lane + 0x49249249, np.where(lane % 8 < 2, lane, lane - 2),
              np.where(lane < 16, 3, 0)]
    assert (found == wanted).all()


def fragments(a, b, depth: int):
    """The registers of m16n8k(depth) by the tables of the PTX manual: a (16, K), b (K, 8) of 16-bit words."""
    lane = np.arange(32)
    group, inside = lane // 4, lane % 4

    def pair(low, high):
        return low.astype(np.uint32) | high.astype(np.uint32) << 16
    rows = [(group, 0), (group + 8, 0), (group, 8), (group + 8, 8)]
    a_registers = [pair(a[r, 2 * inside + k], a[r, 2 * inside + k + 1]) for r, k in rows[:depth // 4]]
    b_registers = [pair(b[2 * inside + k, group], b[2 * inside + k + 1, group]) for k in (0, 8)[:depth // 8]]
    return np.array(a_registers, np.uint32).T.copy(), np.array(b_registers, np.uint32).T.copy()


def bits(x, kind: str):
    """x (float32, exact in both formats) as 16-bit words."""
    return x.astype(np.float16).view(np.uint16) if kind == "f16" else (x.view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize(("kind", "depth"), [("f16", 16), ("bf16", 16), ("f16", 8)])
def test_mma_has_the_layout_of_the_manual(kind, depth):
    draw = np.random.default_rng(0)
    a, b, c = (draw.integers(-9, 9, shape).astype(np.float32) for shape in ((16, depth), (depth, 8), (16, 8)))
    lane = np.arange(32)
    at = [(lane // 4 + r, lane % 4 * 2 + n) for r in (0, 8) for n in (0, 1)]
    d = np.array([c[where] for where in at]).T.copy()
    body = f"""
    const int lane = threadIdx.x;
    mma_{kind}_k{depth}(d + 4 * lane, a + {depth // 4} * lane, b + {depth // 8} * lane);"""
    run(body, "float* d, const unsigned* a, const unsigned* b", d, *fragments(bits(a, kind), bits(b, kind), depth))
    assert (np.array([(a @ b + c)[where] for where in at]).T == d).all()


def test_ldmatrix_gives_the_fragments_of_mma():
    a = np.arange(256, dtype=np.uint16).reshape(16, 16)
    body = """
    __shared__ __align__(16) unsigned short tile[256];
    const int lane = threadIdx.x;
    for (int k = lane; k < 256; k += 32) tile[k] = in[k];
    __syncwarp();
    ldmatrix_x4(out + 4 * lane, tile + lane % 16 * 16 + lane / 16 * 8);
    ldmatrix_x2_trans(b + 2 * lane, tile + lane % 16 * 16);"""
    wanted_a, wanted_b = fragments(a, a[:, :8], 16)
    out, b = np.zeros((32, 4), np.uint32), np.zeros((32, 2), np.uint32)
    run(body, "unsigned* out, unsigned* b, const unsigned short* in", out, b, a)
    assert (out == wanted_a).all() and (b == wanted_b).all()


def test_sixteen_bit_numbers_round_to_the_nearest():
    with np.errstate(over="ignore"):
        x = np.concatenate([np.random.default_rng(0).standard_normal(4000) * 10.0 ** np.arange(-8, 6).repeat(4000 // 14 + 1)[:4000],
                            [0, -0.0, 65504, 65519.9, 65520, 2.0 ** -24, 2.0 ** -25, 1 + 2.0 ** -11, 1 + 3 * 2.0 ** -11, np.inf]]
                           ).astype(np.float32)
        half = x.astype(np.float16)
    found, back, coarse = np.zeros(x.size, np.uint16), np.zeros(x.size, np.float32), np.zeros(x.size, np.float32)
    body = """
    for (int k = threadIdx.x; k < n; k += 32)
        half[k] = to_f16(x[k]), back[k] = from_f16(pack_f16(1, x[k]) >> 16), coarse[k] = from_bf16(to_bf16(x[k]));"""
    run(body, "unsigned short* half, float* back, float* coarse, const float* x, int n", found, back, coarse, x, np.int32(x.size))
    assert (found == half.view(np.uint16)).all() and (back == half.astype(np.float32)).all()
    spacing = np.exp2(np.floor(np.log2(np.abs(np.where(x == 0, 1, x)))) - 7)
    assert (np.abs(coarse[:-1] - x[:-1]) <= spacing[:-1] / 2).all() and (coarse.view(np.uint32) % 2 ** 16 == 0).all() and coarse[-1] == np.inf


RING = """
    for (unsigned turn = 1; turn <= 3; turn++) {
        if (threadIdx.x == 0) while (load_acquire(flag) < turn * gridDim.x + blockIdx.x - gridDim.x) {}
        __syncthreads();
        if (threadIdx.x == 3) out[turn * gridDim.x + blockIdx.x - gridDim.x] = 10 * turn + blockIdx.x;
        __syncthreads();
        if (threadIdx.x == 0) store_release(flag, turn * gridDim.x + blockIdx.x + 1 - gridDim.x);
    }"""


@pytest.mark.parametrize("seed", range(5))
def test_blocks_wait_for_each_other(seed):
    out = run(RING, "int* out, unsigned* flag", np.zeros(15, np.int32), np.zeros(1, np.uint32), grid=5, block=4, seed=seed)
    assert (out.reshape(3, 5) == [[10 * t + b for b in range(5)] for t in (1, 2, 3)]).all()


@pytest.mark.parametrize("seed", range(3))
def test_atomics(seed):
    body = """
    atomicAdd(sum, 0.5f);
    atomicMax(largest, threadIdx.x);
    while (atomicCAS(lock, 0u, 1u) != 0) {}
    *count = *count + 1;
    atomicExch(lock, 0u);"""
    args = np.zeros(1, np.float32), np.zeros(1, np.uint32), np.zeros(1, np.uint32), np.zeros(1, np.int32)
    run(body, "float* sum, unsigned* largest, unsigned* lock, int* count", *args, grid=3, block=40, seed=seed)
    assert [int(a[0]) for a in args] == [60, 39, 0, 120]


FAULTS = {
    "deadlock: block .* at load_acquire line 4": "while (load_acquire(out) == 0) {}",
    "deadlock: block .* at __shfl_sync line 5": "if (threadIdx.x != 3) out[0] = __shfl_sync(~0u, 1, 0);",
    "a barrier that some threads of the block never reach": "if (threadIdx.x < 9) __syncthreads();",
    "threads of one block at different barriers": "if (threadIdx.x < 9) __syncthreads(); else\n __syncthreads();",
    "lanes of one warp at different collectives": "if (threadIdx.x < 9) __syncwarp(); else out[0] = __ballot_sync(~0u, 1);",
    "not in its mask": "out[0] = __ballot_sync(0xFFFFu, 1);",
    "a write outside an array": "out[-1 - (int)threadIdx.x] = 1;",
    "a write beyond the dynamic shared memory": "extern __shared__ int x[]; x[threadIdx.x + 16] = 1;",
    "an index outside its array": "__shared__ int x[31]; x[threadIdx.x] = 1;",
    "an address that is not aligned": "*(uint4*)(out + threadIdx.x) = uint4();",
    "48 KB of static shared memory": "__shared__ float x[(12 << 10) + 1]; x[0] = out[0]; out[0] = x[0];",
    "__trap": "__trap();",
}


@pytest.mark.parametrize("words", FAULTS)
def test_what_a_kernel_must_not_do_is_an_error(words):
    cases = "\n".join(f"case {k}: {{ {body} break; }}" for k, body in enumerate(FAULTS.values()))
    with pytest.raises(emulate.Fault, match=words):
        run(f"switch (which) {{\n{cases}\n}}", "unsigned* out, int which", np.zeros(64, np.uint32),
            np.int32(list(FAULTS).index(words)), shared_mem=64)


def test_a_launch_that_is_not_cooperative_cannot_wait_for_all_its_blocks():
    body = "atomicAdd(out, 1u); while (load_acquire(out) < gridDim.x) {}"
    assert run(body, "unsigned* out", np.zeros(1, np.uint32), grid=20, block=1) == 20
    with pytest.raises(emulate.Fault, match="deadlock"):
        run(body, "unsigned* out", np.zeros(1, np.uint32), grid=20, block=1, cooperative=False)


def test_a_write_outside_a_view_is_an_error_and_a_view_s_address_its_begin():
    whole = np.zeros((4, 10), np.int32)
    run("a[threadIdx.x * ld] = 7;", "int* a, int ld", whole[:, 2:5], np.int32(10), block=4)
    assert (whole[:, 2] == 7).all() and whole.sum() == 28
    with pytest.raises(emulate.Fault, match="outside the view"):
        run("a[threadIdx.x] = 8;", "int* a", whole[:, 2:5], block=4)
    assert whole.sum() == 28


@pytest.mark.parametrize("args", [(np.zeros(1, np.float64), np.int32(1)), (np.zeros(1, np.float32), 1), (np.zeros(1, np.float32),),
                                  (np.zeros(1, np.float32), np.int64(1))])
def test_arguments_must_be_of_the_parameters_types(args):
    with pytest.raises(TypeError):
        run("x[0] = n;", "float* x, int n", *args)


def test_none_is_a_null_pointer():
    assert run("*out = p == nullptr;", "int* out, const float* p", np.zeros(1, np.int32), None, block=1)[0] == 1
