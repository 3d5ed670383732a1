// A router: what leads elsewhere goes out with new link addresses by the device that the stack's routes
// name; everything else is the stack's.
#include "bpf.h"

struct fib {
    u8 family, l4_protocol;
    u16 sport, dport, tot_len;
    u32 ifindex;
    u8 tos, pad[3];
    u32 src[4], dst[4];
    u16 vlan_proto, vlan_tci;
    u8 smac[6], dmac[6];
};

static long (*fib_lookup)(void *ctx, struct fib *params, int len, u32 flags) = (void *)69;
static long (*redirect)(u32 ifindex, u64 flags) = (void *)23;

struct {
    __uint(type, ARRAY);
    __uint(max_entries, 10);
    __type(key, u32);
    __type(value, u64);
} answers SEC(".maps");

SEC("xdp") int route(struct xdp_md *ctx) {
    struct eth *eth = DATA(ctx);
    struct fib fib = {};
    u8 *hops;
    if ((void *)(eth + 1) > END(ctx))
        return PASS;
    if (eth->proto == htons(0x0800)) {
        struct ipv4 *ip = (void *)(eth + 1);
        if ((void *)(ip + 1) > END(ctx) || ip->ttl <= 1)
            return PASS;
        fib.family = 2;
        fib.tos = ip->tos;
        fib.l4_protocol = ip->proto;
        fib.tot_len = ntohs(ip->len);
        fib.src[0] = ip->src;
        fib.dst[0] = ip->dst;
    } else if (eth->proto == htons(0x86dd)) {
        struct ipv6 *ip = (void *)(eth + 1);
        if ((void *)(ip + 1) > END(ctx) || ip->hops <= 1)
            return PASS;
        fib.family = 10;
        fib.l4_protocol = ip->next;
        fib.tot_len = ntohs(ip->len) + sizeof(*ip);
        __builtin_memcpy(fib.src, ip->src, 16);
        __builtin_memcpy(fib.dst, ip->dst, 16);
    } else
        return PASS;
    fib.ifindex = ctx->ingress_ifindex;
    u32 answer = fib_lookup(ctx, &fib, sizeof(fib), 0);
    if (answer > 9)
        return PASS;
    u64 *count = map_lookup(&answers, &answer);
    if (count)
        __sync_fetch_and_add(count, 1);
    if (answer)
        return PASS;
    if (eth->proto == htons(0x0800)) {
        struct ipv4 *ip = (void *)(eth + 1);
        u32 check = ip->check;
        check += htons(0x0100);
        ip->check = check + (check >= 0xffff);
        ip->ttl--;
    } else {
        struct ipv6 *ip = (void *)(eth + 1);
        ip->hops--;
    }
    __builtin_memcpy(eth->dst, fib.dmac, 6);
    __builtin_memcpy(eth->src, fib.smac, 6);
    return redirect(fib.ifindex, 0);
}

char _license[] SEC("license") = "GPL";
