/* tests/cuda-emu/fibers.cc -- runs a block's threads as fibers of one thread of the system.
 *
 * They stand in a ring.  A fiber runs until it waits for others at a barrier, then gives way to the
 * next in the ring; the last to arrive goes straight on.  Switching is a dozen instructions on x86-64
 * and AArch64 and swapcontext elsewhere. */
#include "tests/cuda-emu/emu.h"

#include <stdlib.h>
#include <sys/mman.h>
#if !defined __x86_64__ && !defined __aarch64__
#include <ucontext.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace emu {

__thread struct block *now;

enum { STACK = 64 << 10 };

/* ---- switching ---- */

#if defined __x86_64__
extern "C" void emu_switch(void **save, void *to) asm("emu_switch") __attribute__((visibility("hidden")));
asm(R"(
    .text
    .hidden emu_switch
    .type emu_switch, @function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emu_switch, .-emu_switch
)");
typedef void *context;
static void jump(context *from, context *to) { emu_switch(from, *to); }
static void prepare(context *c, char *stack, void (*entry)())
{
    void **top = (void **)(void *)(stack + STACK) - 1;
    *--top = (void *)entry;                /* ret finds it; then the stack is as after a call */
    *c = top - 6;
}
#elif defined __aarch64__
extern "C" void emu_switch(void **save, void *to) asm("emu_switch") __attribute__((visibility("hidden")));
asm(R"(
    .text
    .hidden emu_switch
    .type emu_switch, %function
emu_switch:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size emu_switch, .-emu_switch
)");
typedef void *context;
static void jump(context *from, context *to) { emu_switch(from, *to); }
static void prepare(context *c, char *stack, void (*entry)())
{
    char *top = stack + STACK - 160;
    *(void **)(void *)(top + 88) = (void *)entry;
    *c = top;
}
#else
typedef ucontext_t context;
static void jump(context *from, context *to) { swapcontext(from, to); }
static void prepare(context *c, char *stack, void (*entry)())
{
    getcontext(c);
    c->uc_stack.ss_sp = stack;
    c->uc_stack.ss_size = STACK;
    c->uc_link = NULL;
    makecontext(c, entry, 0);
}
#endif

/* ---- the ring ---- */

/* What a thread of the system needs to run blocks; made at its first launch, gone with it. */
struct machine {
    struct block block;
    context host, fiber[MAX_THREADS];
    unsigned next[MAX_THREADS], before[MAX_THREADS];
    unsigned idle;                         /* switches since anybody got on                  */
    void (*kernel)(const void *);
    const void *args;
    char *stack;                           /* [MAX_THREADS][STACK]                           */
#ifdef __SANITIZE_ADDRESS__
    const void *host_stack;
    size_t host_size;
#endif
};
static thread_local machine *m;

void die(const char *what)
{
    fprintf(stderr, "cuda-emu: %s (thread %u, block %u,%u,%u)\n", what, now->thread, now->index.x, now->index.y,
            now->index.z);
    abort();
}

static char *stack_of(unsigned fiber)
{
    return m->stack + (size_t)fiber * STACK;
}

/* The sanitiser wants to know which stack it is on */
static void leave(context *from, context *to, const void *stack, size_t size, bool for_good)
{
#ifdef __SANITIZE_ADDRESS__
    void *fake = NULL;
    __sanitizer_start_switch_fiber(for_good ? NULL : &fake, stack, size);
    jump(from, to);
    __sanitizer_finish_switch_fiber(fake, NULL, NULL);
#else
    (void)stack, (void)size, (void)for_good;
    jump(from, to);
#endif
}

static void give_way()
{
    unsigned me = now->thread, to = m->next[me];
    if (to == me || ++m->idle > 2 * now->dim.x)
        die("threads wait at a barrier that others never reach");
    now->thread = to;
    leave(&m->fiber[me], &m->fiber[to], stack_of(to), STACK, false);
}

static void entry()
{
#ifdef __SANITIZE_ADDRESS__
    const void *from;
    size_t size;
    __sanitizer_finish_switch_fiber(NULL, &from, &size);
    if (now->alive == now->dim.x && now->thread == 0)
        m->host_stack = from, m->host_size = size;
#endif
    m->kernel(m->args);
    unsigned me = now->thread, to = m->next[me];
    warp &w = now->warp[me / LANES];
    if (now->arrived)
        die("a thread ends while others wait for it at __syncthreads");
    if (w.arrived)
        die("a lane ends while others of its warp wait for it");
    m->idle = 0;
    w.alive--;
    now->alive--;
    m->next[m->before[me]] = to;
    m->before[to] = m->before[me];
    now->thread = to;
    if (now->alive)
        leave(&m->fiber[me], &m->fiber[to], stack_of(to), STACK, true);
    else {
#ifdef __SANITIZE_ADDRESS__
        leave(&m->fiber[me], &m->host, m->host_stack, m->host_size, true);
#else
        leave(&m->fiber[me], &m->host, NULL, 0, true);
#endif
    }
    abort();
}

void block_barrier()
{
    block *b = now;
    unsigned generation = b->generation;
    if (b->alive != b->dim.x)
        die("__syncthreads after a thread of the block has ended");
    if (++b->arrived == b->alive) {
        b->arrived = 0;
        b->any[++b->generation & 1] = 0;
        m->idle = 0;
        return;
    }
    while (b->generation == generation)
        give_way();
}

void warp_barrier()
{
    warp &w = now->warp[now->thread / LANES];
    unsigned generation = w.generation;
    if (w.alive != LANES)
        die("a warp meets after one of its lanes has ended");
    if (++w.arrived == w.alive) {
        w.arrived = 0;
        w.generation++;
        m->idle = 0;
        return;
    }
    while (w.generation == generation)
        give_way();
}

static void run_block(unsigned threads, size_t shared_bytes)
{
    block *b = &m->block;
    memset(b->shared, 0xff, shared_bytes); /* NaN */
    b->arrived = b->generation = 0;
    b->any[0] = b->any[1] = 0;
    b->alive = b->dim.x = threads;
    b->dim.y = b->dim.z = 1;
    b->thread = 0;
    m->idle = 0;
    for (unsigned i = 0; i < threads; i++) {
        prepare(&m->fiber[i], stack_of(i), entry);
        b->copy[i].n = 0;
        m->next[i] = i + 1 < threads ? i + 1 : 0;
        m->before[i] = i ? i - 1 : threads - 1;
    }
    for (unsigned i = 0; i < threads / LANES; i++) {
        b->warp[i].arrived = b->warp[i].generation = 0;
        b->warp[i].alive = LANES;
    }
    leave(&m->host, &m->fiber[0], stack_of(0), STACK, false);
}

struct keeper {
    ~keeper()
    {
        if (m) {
            munmap(m->stack, (size_t)MAX_THREADS * STACK);
            free(m);
        }
        m = NULL;
    }
};

static machine *machine_of_thread()
{
    static thread_local keeper at_exit;
    (void)&at_exit;
    if (m)
        return m;
    machine *made = (machine *)calloc(1, sizeof *made);
    if (!made)
        return NULL;
    void *stack = mmap(NULL, (size_t)MAX_THREADS * STACK, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) {
        free(made);
        return NULL;
    }
    made->stack = (char *)stack;
    return m = made;
}

int run(void (*kernel)(const void *), const void *args, const uint32_t grid[3], uint32_t threads, size_t shared_bytes)
{
    if (!machine_of_thread())
        return -1;
    void *shared = malloc(shared_bytes + !shared_bytes);
    if (!shared)
        return -1;
    now = &m->block;
    if (!threads || threads > MAX_THREADS || threads % LANES)
        die("a block has whole warps, 1024 threads at most");
    m->kernel = kernel;
    m->args = args;
    now->shared = (unsigned char *)shared;
    now->grid = { grid[0], grid[1], grid[2] };
    for (now->index.z = 0; now->index.z < grid[2]; now->index.z++)
        for (now->index.y = 0; now->index.y < grid[1]; now->index.y++)
            for (now->index.x = 0; now->index.x < grid[0]; now->index.x++)
                run_block(threads, shared_bytes);
    free(shared);
    return 0;
}

}
