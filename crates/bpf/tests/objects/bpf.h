// What programs need of the kernel's interface, so that clang alone makes these objects.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long s64;

#define SEC(name) __attribute__((section(name), used))
#define __noinline __attribute__((noinline))
#define inline inline __attribute__((always_inline))
#define __uint(name, value) int (*name)[value]
#define __type(name, value) typeof(value) *name
#define __array(name, value) typeof(value) *name[]
#define htons(x) ((u16)__builtin_bswap16(x))
#define ntohs(x) ((u16)__builtin_bswap16(x))

enum { ABORTED, DROP, PASS, TX, REDIRECT };
enum {
    HASH = 1, ARRAY = 2, PROG_ARRAY = 3, PERF_EVENT_ARRAY = 4, PERCPU_HASH = 5, PERCPU_ARRAY = 6,
    LRU_HASH = 9, LPM_TRIE = 11, DEVMAP = 14, RINGBUF = 27,
};
enum { ANY, NOEXIST, EXIST };
#define NO_PREALLOC 1
#define CURRENT_CPU 0xffffffffULL

struct xdp_md {
    u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static long (*map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*map_delete)(void *map, const void *key) = (void *)3;
static u64 (*ktime_get_ns)(void) = (void *)5;
static long (*trace_printk)(const char *fmt, u32 size, ...) = (void *)6;
static long (*tail_call)(void *ctx, void *map, u32 index) = (void *)12;
static long (*perf_event_output)(void *ctx, void *map, u64 flags, void *data, u64 size) = (void *)25;
static s64 (*csum_diff)(void *from, u32 from_size, void *to, u32 to_size, u32 seed) = (void *)28;
static long (*adjust_head)(struct xdp_md *ctx, int delta) = (void *)44;
static long (*redirect_map)(void *map, u64 key, u64 flags) = (void *)51;
static long (*adjust_meta)(struct xdp_md *ctx, int delta) = (void *)54;
static long (*adjust_tail)(struct xdp_md *ctx, int delta) = (void *)65;
static void *(*ringbuf_reserve)(void *ring, u64 size, u64 flags) = (void *)131;
static void (*ringbuf_submit)(void *data, u64 flags) = (void *)132;
static void (*ringbuf_discard)(void *data, u64 flags) = (void *)133;
static long (*loop)(u32 times, void *callback, void *ctx, u64 flags) = (void *)181;
static u64 (*get_buff_len)(struct xdp_md *ctx) = (void *)188;
static long (*load_bytes)(struct xdp_md *ctx, u32 off, void *buf, u32 len) = (void *)189;

struct eth { u8 dst[6], src[6]; u16 proto; } __attribute__((packed));
struct ipv4 {
    u8 ihl_version, tos; u16 len, id, frag; u8 ttl, proto; u16 check; u32 src, dst;
} __attribute__((packed));
struct ipv6 {
    u32 flow; u16 len; u8 next, hops; u8 src[16], dst[16];
} __attribute__((packed));
struct ports { u16 src, dst; };

// The packet's beginning and end.
#define DATA(ctx) ((void *)(long)(ctx)->data)
#define END(ctx) ((void *)(long)(ctx)->data_end)
