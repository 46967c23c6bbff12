// A CUDA launch on the host: every thread a fiber, in one process thread, under a scheduler that a seed makes hostile.
//
// emulate.py includes this text, precompiled, in front of a kernel's. It defines EMULATOR, CUDA's words, and host twins of ptx.cuh. A warp's
// collectives (shuffles, ballots, mma, ldmatrix) wait for the lanes of their mask; mma and ldmatrix have the fragment
// layout of the PTX manual. What is not seen: weak memory order between blocks, and time.
#pragma once
#include <csetjmp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <algorithm>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#include <sys/mman.h>
#include <ucontext.h>

#define EMULATOR 1
#define __device__
#define __host__
#define __global__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define LINE int line = __builtin_LINE()

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct alignas(4) ushort2 { unsigned short x, y; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace emulator {

constexpr size_t STACK = 1 << 16, GUARD = 4096, STATIC = 48 << 10;
enum State { READY, BARRIER, WARP, POLLING, DONE };

struct Block;
struct Fiber {
    Block* block;
    uint3 index;
    unsigned warp, lane;
    State state;
    bool started;
    const char* what;  // it waits for
    int line, value;   // where; what it brought to a __syncthreads_or and its like
    jmp_buf context;
    ucontext_t start;
};
struct Group { unsigned mask, arrived; const char* what; int line; };  // lanes of a warp on their way to a collective
struct Warp { Group groups[32]; void* slots[32]; };
struct Block {
    uint3 index;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<unsigned char> memory;
    unsigned char* shared;   // static, then dynamic, then a guard
    int waiting, living, result;
    long asleep;             // turns
    int late;                // the warp that is held back until the others can do no more, or -1
};

static std::vector<Block> blocks;
static std::function<void()> body;
static Fiber* current;
static jmp_buf scheduler;
static ucontext_t unused;
static std::string failure;
static uint64_t seed;
static bool hostile, late_warps, happened;  // happened: in this turn something other than to ask in vain
static long polls;              // since memory changed or a thread ended
static size_t statics, dynamics;
static long launches;

inline uint64_t draw(uint64_t below) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return (seed >> 11) % below;
}
inline void progress() { happened = true, polls = 0; }

__attribute__((noinline)) inline void suspend(State state, const char* what, int line) {
    current->state = state, current->what = what, current->line = line;
    if (!_setjmp(current->context)) _longjmp(scheduler, 1);
}

inline std::string place(const Fiber& f) {
    char words[200];
    snprintf(words, sizeof words, "block (%u, %u) thread %u", f.block->index.x, f.block->index.y, f.index.x);
    return words;
}

inline void fail(const std::string& words, int line) {
    if (failure.empty())
        failure = words + ": " + place(*current) + (line ? ", line " + std::to_string(line) : "");
    suspend(DONE, "", line);
}

inline void poll(const char* what, int line) {
    polls++;
    suspend(POLLING, what, line);
}

// Where another thread may come in between.
inline void yield(int line) {
    if (hostile && !draw(16)) suspend(READY, "", line);
}
inline void pause(int line) {
    happened = true;
    yield(line);
}

template <typename T> void check_aligned(const T* at, int line) {
    if ((uintptr_t)at % sizeof(T)) fail("an address that is not aligned", line);
}

inline void barrier(const char* what, int line) {
    Block& b = *current->block;
    for (const Fiber& f : b.fibers)
        if (f.state == BARRIER && (f.line != line || f.what != what))
            return fail("threads of one block at different barriers, also line " + std::to_string(f.line), line);
        else if (f.state == BARRIER) break;
    b.waiting++;
    suspend(BARRIER, what, line);
}

// All lanes of mask bring a slot; the last one to arrive runs operation(slots) for all of them.
template <typename Operation>
void collective(unsigned mask, const char* what, int line, void* slot, Operation operation) {
    Warp& warp = current->block->warps[current->warp];
    if (!(mask >> current->lane & 1)) return fail(std::string(what) + " by a lane that is not in its mask", line);
    Group& group = warp.groups[__builtin_ctz(mask)];
    if (!group.arrived) group = {mask, 0, what, line};
    if (group.mask != mask || group.line != line || group.what != what)
        return fail("lanes of one warp at different collectives: " + std::string(group.what) + " line "
                    + std::to_string(group.line) + " and " + what, line);
    warp.slots[current->lane] = slot;
    group.arrived |= 1u << current->lane;
    if (group.arrived != mask) return suspend(WARP, what, line);
    operation(warp.slots);
    group.arrived = 0;
    for (Fiber& f : current->block->fibers)
        if (f.warp == current->warp && mask >> f.lane & 1) f.state = READY;
    happened = true;
}

inline void entry() {
    body();
    current->block->living--;
    progress();
    suspend(DONE, "", 0);
}

__attribute__((noinline)) inline void resume(Fiber& f) {
    current = &f, threadIdx = f.index, blockIdx = f.block->index, f.state = READY;
    if (_setjmp(scheduler)) return;
    if (f.started) _longjmp(f.context, 1);
    f.started = true;
    setcontext(&f.start);
}

inline void release(Block& b) {
    if (b.living < (int)b.fibers.size()) {
        for (Fiber& f : b.fibers)
            if (f.state == BARRIER) current = &f;
        if (failure.empty())
            failure = "a barrier that some threads of the block never reach: " + place(*current) + ", line "
                      + std::to_string(current->line);
        return;
    }
    b.waiting = 0, happened = true;
    for (Fiber& f : b.fibers) f.state = READY;
}

// One turn of a block: passes over its threads, in an order of the seed's, until they only wait or the turn is over.
inline void turn(Block& b) {
    const int n = b.fibers.size();
    if (late_warps && b.late < 0 && !draw(8)) b.late = draw(b.warps.size());
    for (int pass = hostile ? 1 + draw(12) : 1 << 20; pass > 0 && b.living && failure.empty(); pass--) {
        const int warps = b.warps.size(), first = hostile ? draw(warps) : 0, flip = hostile ? draw(32) : 0;
        bool ran = false;
        for (int k = 0; k < warps * 32 && failure.empty(); k++) {
            const int at = (k / 32 + first) % warps * 32 + (k % 32 ^ flip);
            if (at >= n) continue;
            Fiber& f = b.fibers[at];
            if ((int)f.warp == b.late) continue;
            ran |= f.state == READY;
            if (f.state == READY || f.state == POLLING) resume(f);
        }
        if (b.living && b.waiting == b.living) release(b), ran = true;
        if (!ran && (b.late < 0 || draw(4))) return;
        if (!ran) b.late = -1;
    }
}

inline void deadlock() {
    failure = "deadlock:";
    int shown = 0;
    for (Block& b : blocks) {
        const char* last = nullptr;
        for (Fiber& f : b.fibers)
            if (f.state != DONE && f.what != last && f.what && shown++ < 12)
                failure += " " + place(f) + " at " + (last = f.what) + " line " + std::to_string(f.line) + ";";
    }
}

inline void start(Block& b, uint3 index, char* stacks) {
    const size_t threads = (size_t)blockDim.x * blockDim.y * blockDim.z;
    b.index = index, b.waiting = b.asleep = 0, b.late = -1, b.living = threads;
    b.memory.assign(STATIC + dynamics + GUARD + 1024, 0xFF);  // not a number, in every format
    b.shared = (unsigned char*)(((uintptr_t)b.memory.data() + 1023) & ~(uintptr_t)1023);
    b.fibers.assign(threads, Fiber());
    b.warps.assign((threads + 31) / 32, Warp());
    ucontext_t here;  // asked for once: it is a call of the system's
    getcontext(&here);
    for (size_t k = 0; k < threads; k++) {
        Fiber& f = b.fibers[k];
        f.block = &b, f.warp = k / 32, f.lane = k % 32;
        f.index = {unsigned(k % blockDim.x), unsigned(k / blockDim.x % blockDim.y), unsigned(k / blockDim.x / blockDim.y)};
        f.start = here;
        f.start.uc_stack.ss_sp = stacks + k * STACK, f.start.uc_stack.ss_size = STACK, f.start.uc_link = &unused;
        makecontext(&f.start, entry, 0);
    }
}

inline void finish(Block& b) {
    for (size_t k = 0; k < GUARD && failure.empty(); k++)
        if (b.shared[STATIC + dynamics + k] != 0xFF) failure = "a write beyond the dynamic shared memory";
}

// Blocks take turns at random. Now and then one is held back until the others can do no more; with an odd seed, so
// is a warp.
inline void run(size_t count, size_t resident, char* stacks) {
    size_t begun = 0, ended = 0, held = 0;
    long idle = 0;
    const size_t threads = (size_t)blockDim.x * blockDim.y * blockDim.z;
    auto next = [&](Block& b) {
        const unsigned k = begun++;
        start(b, {k % gridDim.x, k / gridDim.x % gridDim.y, k / gridDim.x / gridDim.y},
              stacks + (&b - blocks.data()) * threads * STACK);
    };
    for (Block& b : blocks) next(b);
    for (size_t k = 0; ended < count && failure.empty(); k++) {
        const size_t at = hostile ? draw(resident) : k % resident;
        Block& b = blocks[at];
        if (!b.living) continue;
        if (hostile && (b.asleep-- > 0 || (at == held && idle < 8 * (long)resident))) { idle++; continue; }
        if (hostile && idle >= 8 * (long)resident) held = draw(2 * resident);  // half the time, nobody
        if (hostile && !draw(8)) b.asleep = draw(4 * resident);
        happened = false;
        turn(b);
        idle = happened ? 0 : idle + 1;
        if (!b.living) {
            finish(b), ended++;
            if (begun < count) next(b);
        }
        if (failure.empty() && (idle > 400 * (long)resident + 1000 || polls > 3000000)) deadlock();
    }
}

// kept: memory for so many bytes of stacks, which earlier launches have touched already; a launch of more threads has its own.
inline const char* launch(dim3 grid, dim3 block, size_t dynamic, bool cooperative, unsigned seed_, char* kept, size_t bytes,
                          std::function<void()> f) {
    const size_t count = (size_t)grid.x * grid.y * grid.z, threads = (size_t)block.x * block.y * block.z;
    gridDim = grid, blockDim = block, dynamics = dynamic, body = std::move(f), failure.clear(), polls = 0;
    statics = 0, launches++;
    hostile = seed_, late_warps = seed_ % 2, seed = 0x9E3779B97F4A7C15ull * (seed_ + 1);
    const size_t resident = cooperative ? count : std::min<size_t>(count, 8), room = resident * threads * STACK;
    char* stacks = kept;
    if (room > bytes)
        stacks = (char*)mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) return "no memory for the threads' stacks";
    blocks = std::vector<Block>(resident);
    run(count, resident, stacks);
    if (stacks != kept) munmap(stacks, room);
    blocks.clear();
    return failure.empty() ? nullptr : failure.c_str();
}

// A `__shared__` declaration: its place is the same in every block.
template <typename T, int> T& shared(int line) {
    static size_t offset;
    static long of_launch = 0;
    if (of_launch != launches) {
        of_launch = launches;
        offset = (statics + alignof(T) - 1) / alignof(T) * alignof(T);
        statics = offset + sizeof(T);
    }
    if (statics > STATIC) fail("more than 48 KB of static shared memory", line);
    return *(T*)(current->block->shared + offset);
}
template <typename T> T* dynamic_shared() { return (T*)(current->block->shared + STATIC); }

// What a parameter takes, for emulate.py: p pointer, i u f number, then the size of it or of what it points to.
template <typename T> std::string kind() {
    if constexpr (std::is_pointer_v<T>) {
        typedef std::remove_cv_t<std::remove_pointer_t<T>> P;
        if constexpr (std::is_arithmetic_v<P>) return "p" + kind<P>();
        else return "p*";
    } else {
        return (std::is_floating_point_v<T> ? "f" : std::is_signed_v<T> ? "i" : "u") + std::to_string(sizeof(T));
    }
}
template <typename... A> std::string kinds(void (*)(A...)) { return ((kind<A>() + " ") + ... + ""); }
template <typename... A, size_t... K> void call(void (*f)(A...), void** args, std::index_sequence<K...>) {
    f(*(std::remove_cv_t<A>*)args[K]...);
}
template <typename... A> void call(void (*f)(A...), void** args) { call(f, args, std::index_sequence_for<A...>()); }

}  // namespace emulator

// g++ -fsanitize=alignment,bounds calls these; the first thing they get is where: file, line, column.
struct Where { const char* file; uint32_t line, column; };
extern "C" void __ubsan_handle_type_mismatch_v1(Where* at, uintptr_t) { emulator::fail("an address that is not aligned", at->line); }
extern "C" void __ubsan_handle_out_of_bounds(Where* at, uintptr_t) { emulator::fail("an index outside its array", at->line); }

inline void __syncthreads(LINE) { emulator::barrier("__syncthreads", line); }
inline int syncthreads_vote(const char* what, int value, int line) {
    emulator::current->value = value;
    emulator::barrier(what, line);
    int found = 0;
    for (const auto& f : emulator::current->block->fibers) found += f.value != 0;
    emulator::barrier(what, line);  // before anybody brings the next value
    return found;
}
inline int __syncthreads_count(int value, LINE) { return syncthreads_vote("__syncthreads_count", value, line); }
inline int __syncthreads_or(int value, LINE) { return syncthreads_vote("__syncthreads_or", value, line) > 0; }
inline int __syncthreads_and(int value, LINE) {
    return syncthreads_vote("__syncthreads_and", value, line) == (int)emulator::current->block->fibers.size();
}
inline void __syncwarp(unsigned mask = ~0u, LINE) { emulator::collective(mask, "__syncwarp", line, nullptr, [](void**) {}); }
inline void __threadfence(LINE) { emulator::pause(line); }
inline void __threadfence_block(LINE) { emulator::pause(line); }
inline void __nanosleep(unsigned, LINE) { emulator::poll("__nanosleep", line); }
inline void __trap(LINE) { emulator::fail("__trap", line); }
inline long long clock64() { static long long now = 0; return now += 1000; }

template <typename T> struct Exchange { T value; int from; };
template <typename T, typename From> T shuffle(unsigned mask, const char* what, int line, T value, int width, From from) {
    const int lane = emulator::current->lane, base = lane / width * width, at = from(lane - base);
    Exchange<T> mine = {value, at < 0 || at >= width ? lane : base + at};
    emulator::collective(mask, what, line, &mine, [mask](void** slots) {
        T found[32];
        for (int k = 0; k < 32; k++) {
            if (!(mask >> k & 1)) continue;
            const int from = ((Exchange<T>*)slots[k])->from;
            if (mask >> from & 1) found[k] = ((Exchange<T>*)slots[from])->value;
            else memset(&found[k], 0xFF, sizeof(T));
        }
        for (int k = 0; k < 32; k++) if (mask >> k & 1) ((Exchange<T>*)slots[k])->value = found[k];
    });
    return mine.value;
}
template <typename T> T __shfl_sync(unsigned mask, T value, int source, int width = 32, LINE) {
    return shuffle(mask, "__shfl_sync", line, value, width, [=](int) { return source & (width - 1); });
}
template <typename T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, LINE) {
    return shuffle(mask, "__shfl_up_sync", line, value, width, [=](int at) { return at - (int)delta; });
}
template <typename T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, LINE) {
    return shuffle(mask, "__shfl_down_sync", line, value, width, [=](int at) { return at + (int)delta; });
}
template <typename T> T __shfl_xor_sync(unsigned mask, T value, int other, int width = 32, LINE) {
    return shuffle(mask, "__shfl_xor_sync", line, value, width, [=](int at) { return at ^ other; });
}
inline unsigned __ballot_sync(unsigned mask, int predicate, LINE) {
    unsigned mine = predicate != 0;
    emulator::collective(mask, "__ballot_sync", line, &mine, [mask](void** slots) {
        unsigned found = 0;
        for (int k = 0; k < 32; k++) if (mask >> k & 1) found |= *(unsigned*)slots[k] << k;
        for (int k = 0; k < 32; k++) if (mask >> k & 1) *(unsigned*)slots[k] = found;
    });
    return mine;
}
inline int __any_sync(unsigned mask, int predicate, LINE) { return __ballot_sync(mask, predicate, line) != 0; }
inline int __all_sync(unsigned mask, int predicate, LINE) { return __ballot_sync(mask, predicate, line) == mask; }

template <typename T, typename Change> T atomic(T* at, int line, Change change) {
    emulator::check_aligned(at, line);
    emulator::pause(line);
    const T old = *at, now = change(old);
    if (memcmp(&old, &now, sizeof(T))) emulator::progress(), *at = now;
    else emulator::poll("an atomic", line);
    return old;
}
template <typename T> using Same = std::common_type_t<T>;  // not deduced
template <typename T> T atomicAdd(T* at, Same<T> v, LINE) { return atomic(at, line, [=](T old) -> T { return old + v; }); }
template <typename T> T atomicSub(T* at, Same<T> v, LINE) { return atomic(at, line, [=](T old) -> T { return old - v; }); }
inline unsigned atomicInc(unsigned* at, unsigned last, LINE) { return atomic(at, line, [=](unsigned old) -> unsigned { return old >= last ? 0 : old + 1; }); }
template <typename T> T atomicMax(T* at, Same<T> v, LINE) { return atomic(at, line, [=](T old) -> T { return std::max(old, v); }); }
template <typename T> T atomicMin(T* at, Same<T> v, LINE) { return atomic(at, line, [=](T old) -> T { return std::min(old, v); }); }
template <typename T> T atomicOr(T* at, Same<T> v, LINE) { return atomic(at, line, [=](T old) -> T { return old | v; }); }
template <typename T> T atomicAnd(T* at, Same<T> v, LINE) { return atomic(at, line, [=](T old) -> T { return old & v; }); }
template <typename T> T atomicExch(T* at, Same<T> v, LINE) { return atomic(at, line, [=](T) -> T { return v; }); }
template <typename T> T atomicCAS(T* at, Same<T> if_, Same<T> v, LINE) {
    return atomic(at, line, [=](T old) -> T { return old == if_ ? v : old; });
}

template <typename T> T load_checked(const T* at, int line) { emulator::check_aligned(at, line); emulator::pause(line); return *at; }
template <typename T> void store_checked(T* at, T value, int line) {
    emulator::check_aligned(at, line);
    emulator::pause(line);
    if (memcmp(at, &value, sizeof(T))) emulator::progress();
    *at = value;
}
template <typename T> T __ldg(const T* at, LINE) { return load_checked(at, line); }
template <typename T> T __ldcg(const T* at, LINE) { return load_checked(at, line); }
template <typename T> T __ldcs(const T* at, LINE) { return load_checked(at, line); }
template <typename T> void __stcg(T* at, Same<T> value, LINE) { store_checked(at, value, line); }
template <typename T> void __stcs(T* at, Same<T> value, LINE) { store_checked(at, value, line); }

template <typename To, typename From> To same_bits(From from) { To to; memcpy(&to, &from, sizeof to); return to; }
inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
inline int __float_as_int(float x) { return same_bits<int>(x); }
inline float __uint_as_float(unsigned x) { return same_bits<float>(x); }
inline float __int_as_float(int x) { return same_bits<float>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t)a * b >> 32; }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
using std::min; using std::max; using std::exp; using std::log; using std::sqrt;

// Host twins of ptx.cuh.
inline unsigned load_acquire(const unsigned* at, LINE) { emulator::check_aligned(at, line); emulator::poll("load_acquire", line); return *at; }
inline unsigned load_relaxed(const unsigned* at, LINE) { emulator::check_aligned(at, line); emulator::poll("load_relaxed", line); return *at; }
inline void store_release(unsigned* at, unsigned value, LINE) { store_checked(at, value, line); }
inline void store_relaxed(unsigned* at, unsigned value, LINE) { store_checked(at, value, line); }
typedef unsigned long long Word64;
inline Word64 load_relaxed(const Word64* at, LINE) { emulator::check_aligned(at, line); emulator::poll("load_relaxed", line); return *at; }
inline void store_relaxed(Word64* at, Word64 value, LINE) { store_checked(at, value, line); }
inline void store_relaxed(unsigned short* at, unsigned short value, LINE) { store_checked(at, value, line); }
inline uint2 load_relaxed_4x16(const unsigned short* at, LINE) {  // each number may change before the next is read
    emulator::check_aligned((const uint2*)at, line);
    emulator::poll("load_relaxed_4x16", line);
    unsigned found[4];
    for (int k = 0; k < 4; k++) emulator::yield(line), found[k] = at[k];
    return {found[0] | found[1] << 16, found[2] | found[3] << 16};
}

// As wrong as the PTX manual allows, up or down by the lowest bit of x.
inline float off_by(float y, float x, double share) { return std::isinf(y) ? y : y + y * share * (__float_as_uint(x) & 1 ? 1 : -1); }
inline float flushed(float x) { return std::fabs(x) < 0x1p-126f ? x * 0 : x; }
inline float ex2_approx(float x) { return flushed(off_by(std::exp2(flushed(x)), x, 0x1p-22)); }
inline float rcp_approx(float x) { return flushed(off_by(1 / flushed(x), x, 0x1p-23)); }

// To the nearest with ties to even; `mantissa` bits are kept of float's 23.
inline unsigned round_off(unsigned bits, int dropped) { return bits + ((1u << (dropped - 1)) - 1) + (bits >> dropped & 1); }
inline unsigned short to_bf16(float x) {
    const unsigned bits = __float_as_uint(x);
    return x != x ? 0x7FFF : round_off(bits, 16) >> 16;
}
inline float from_bf16(unsigned short x) { return __uint_as_float((unsigned)x << 16); }
inline unsigned short to_f16(float x) {
    const unsigned short sign = __float_as_uint(x) >> 16 & 0x8000;
    const float size = std::fabs(x);
    if (x != x) return 0x7FFF;
    if (size >= 65520.f) return sign | 0x7C00;
    if (size < 0x1p-14f) return sign | (unsigned short)std::nearbyint(size * 0x1p24f);  // subnormal
    return sign | (unsigned short)((round_off(__float_as_uint(size), 13) >> 13) - (112 << 10));
}
inline float from_f16(unsigned short x) {
    const int exponent = x >> 10 & 31, mantissa = x & 1023;
    const float size = exponent == 31 ? (mantissa ? NAN : INFINITY)
                       : exponent ? std::ldexp(1024.f + mantissa, exponent - 25) : std::ldexp((float)mantissa, -24);
    return x & 0x8000 ? -size : size;
}
inline unsigned pack_f16(float low, float high) { return to_f16(low) | (unsigned)to_f16(high) << 16; }
inline unsigned pack_bf16(float low, float high) { return to_bf16(low) | (unsigned)to_bf16(high) << 16; }

// d (16, 8) += a (16, K) b (K, 8): element (row, k) of a is in lane row % 8 * 4 + k % 8 / 2, register row / 8 + k / 8 * 2.
struct Fragments { float* d; const unsigned *a, *b; };
template <int K, float (*from)(unsigned short)> void multiply(void** slots) {
    const auto lane = [=](int at) { return (Fragments*)slots[at]; };
    float a[16][K], b[K][8];
    for (int k = 0; k < K; k++) {
        for (int row = 0; row < 16; row++)
            a[row][k] = from(lane(row % 8 * 4 + k % 8 / 2)->a[row / 8 + k / 8 * 2] >> k % 2 * 16);
        for (int n = 0; n < 8; n++) b[k][n] = from(lane(n * 4 + k % 8 / 2)->b[k / 8] >> k % 2 * 16);
    }
    for (int row = 0; row < 16; row++)
        for (int n = 0; n < 8; n++) {
            float& d = lane(row % 8 * 4 + n / 2)->d[row / 8 * 2 + n % 2];
            for (int k = 0; k < K; k++) d += a[row][k] * b[k][n];
        }
}
inline void mma_f16_k16(float* d, const unsigned* a, const unsigned* b, LINE) {
    Fragments mine = {d, a, b};
    emulator::collective(~0u, "mma_f16_k16", line, &mine, multiply<16, from_f16>);
}
inline void mma_bf16_k16(float* d, const unsigned* a, const unsigned* b, LINE) {
    Fragments mine = {d, a, b};
    emulator::collective(~0u, "mma_bf16_k16", line, &mine, multiply<16, from_bf16>);
}
inline void mma_f16_k8(float* d, const unsigned* a, const unsigned* b, LINE) {
    Fragments mine = {d, a, b};
    emulator::collective(~0u, "mma_f16_k8", line, &mine, multiply<8, from_f16>);
}

// COUNT matrices (8, 8) of 16-bit numbers; lane 8 j + r brings the address of row r of matrix j.
struct Rows { unsigned* r; const unsigned short* row; };
template <int COUNT, bool TRANS> void load_matrices(unsigned* r, const void* row, const char* what, int line) {
    if ((uintptr_t)row % 16) emulator::fail("an address that is not aligned", line);
    Rows mine = {r, (const unsigned short*)row};
    emulator::collective(~0u, what, line, &mine, [](void** slots) {
        for (int k = 0; k < 32; k++)
            for (int j = 0; j < COUNT; j++) {
                const auto at = [=](int i, int m) -> unsigned { return ((Rows*)slots[8 * j + i])->row[m]; };
                const int i = k / 4, m = k % 4 * 2;
                ((Rows*)slots[k])->r[j] = TRANS ? at(m, i) | at(m + 1, i) << 16 : at(i, m) | at(i, m + 1) << 16;
            }
    });
}
inline void ldmatrix_x2(unsigned* r, const void* row, LINE) { load_matrices<2, false>(r, row, "ldmatrix_x2", line); }
inline void ldmatrix_x4(unsigned* r, const void* row, LINE) { load_matrices<4, false>(r, row, "ldmatrix_x4", line); }
inline void ldmatrix_x2_trans(unsigned* r, const void* row, LINE) { load_matrices<2, true>(r, row, "ldmatrix_x2_trans", line); }
inline void ldmatrix_x4_trans(unsigned* r, const void* row, LINE) { load_matrices<4, true>(r, row, "ldmatrix_x4_trans", line); }
