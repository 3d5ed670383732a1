// What objects are made of: variables of all kinds, functions in other sections, callbacks, tail
// calls, messages, several programs, one of them in need of what is not there.
#include "bpf.h"

const u32 weights[4] = { 3, 5, 7, 11 };
u32 begun = 41;
u64 total;
static u32 calls;

static __noinline u32 weigh(const u8 *bytes, u32 n) {
    u32 sum = 0;
    for (u32 i = 0; i < n && i < 8; i++)
        sum += bytes[i] * weights[i & 3];
    calls++;
    return sum;
}

// In .text, global: a function of its own for the verifier.
__noinline int clamp(int value, int most) {
    return value > most ? most : value;
}

SEC("xdp/whole") int whole(struct xdp_md *ctx) {
    u8 copy[8] = {};

    if (load_bytes(ctx, 0, copy, sizeof(copy)))
        return ABORTED;
    begun++;
    __sync_fetch_and_add(&total, weigh(copy, sizeof(copy)));
    return clamp(copy[0] & 7, TX);
}

struct sum { u32 sum, until; };

static long add(u32 i, struct sum *sum) {
    sum->sum += i * i;
    return i == sum->until;
}

SEC("xdp/loop") int looping(struct xdp_md *ctx) {
    struct sum sum = { 0, 9 };
    long n = loop(100, add, &sum, 0);
    __sync_fetch_and_add(&total, sum.sum + n);
    return PASS;
}

int second(struct xdp_md *ctx);
int third(struct xdp_md *ctx);

struct {
    __uint(type, PROG_ARRAY);
    __uint(max_entries, 4);
    __uint(key_size, 4);
    __array(values, int(struct xdp_md *));
} next SEC(".maps") = {
    .values = { [1] = (void *)&second, [3] = (void *)&third },
};

SEC("xdp/first") int first(struct xdp_md *ctx) {
    u8 *data = DATA(ctx);
    if ((void *)(data + 1) > END(ctx))
        return ABORTED;
    tail_call(ctx, &next, data[0] & 3);
    return DROP;
}

SEC("xdp/second") int second(struct xdp_md *ctx) {
    static const char text[] = "second: %d bytes";
    trace_printk(text, sizeof(text), (int)(END(ctx) - DATA(ctx)));
    return PASS;
}

SEC("xdp/third") int third(struct xdp_md *ctx) {
    begun += 100;
    return TX;
}

struct {
    __uint(type, DEVMAP);
    __uint(max_entries, 8);
    __type(key, u32);
    __type(value, u32);
} ports SEC(".maps");

SEC("xdp/forward") int forward(struct xdp_md *ctx) {
    u8 *data = DATA(ctx);
    if ((void *)(data + 1) > END(ctx))
        return ABORTED;
    return redirect_map(&ports, data[0] & 7, PASS);
}

static u64 (*get_current_task)(void) = (void *)35;

SEC("xdp/lacking") int lacking(struct xdp_md *ctx) {
    return get_current_task() ? PASS : DROP;
}

char _license[] SEC("license") = "GPL";
