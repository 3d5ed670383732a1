// Sampling: of one packet in four the length and the first bytes go to whoever loaded the program,
// by a ring buffer; of one in eight by perf.
#include "bpf.h"

struct sample { u32 number, len; u8 head[32]; };

struct {
    __uint(type, RINGBUF);
    __uint(max_entries, 65536);
} samples SEC(".maps");

struct {
    __uint(type, PERF_EVENT_ARRAY);
    __uint(key_size, 4);
    __uint(value_size, 4);
} events SEC(".maps");

u32 number;
u32 full;

SEC("xdp") int sample(struct xdp_md *ctx) {
    u8 *data = DATA(ctx), *end = END(ctx);
    u32 n = __sync_fetch_and_add(&number, 1);
    struct sample *s;
    u32 len = end - data;

    if (n % 8 == 1)
        perf_event_output(ctx, &events, CURRENT_CPU | (u64)(len < 20 ? len : 20) << 32, &n, sizeof(n));
    if (n % 4)
        return PASS;
    s = ringbuf_reserve(&samples, sizeof(*s), 0);
    if (!s) {
        __sync_fetch_and_add(&full, 1);
        return PASS;
    }
    if ((void *)(data + sizeof(s->head)) > (void *)end) {
        ringbuf_discard(s, 0);
        return DROP;
    }
    s->number = n;
    s->len = len;
    __builtin_memcpy(s->head, data, sizeof(s->head));
    ringbuf_submit(s, 0);
    return PASS;
}

// perf_event_output wants a license of this kind in the kernel.
char _license[] SEC("license") = "Dual MIT/GPL";
