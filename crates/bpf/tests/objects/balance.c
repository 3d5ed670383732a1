// A load balancer: packets for a service go to one of its backends, chosen by their addresses and
// ports, and stay with it; the destination is rewritten, checksums are adjusted.
#include "bpf.h"

struct service { u32 addr; u16 port; u8 proto, pad; };
struct backends { u32 first, count; };
struct backend { u32 addr; u8 mac[6]; u16 pad; };
struct flow { u32 src, dst; u16 sport, dport; u32 proto; };

struct {
    __uint(type, HASH);
    __uint(max_entries, 64);
    __type(key, struct service);
    __type(value, struct backends);
} services SEC(".maps");

struct {
    __uint(type, ARRAY);
    __uint(max_entries, 256);
    __type(key, u32);
    __type(value, struct backend);
} backends SEC(".maps");

// Which backend a flow has.
struct {
    __uint(type, HASH);
    __uint(max_entries, 1024);
    __type(key, struct flow);
    __type(value, u32);
} flows SEC(".maps");

struct {
    __uint(type, PERCPU_HASH);
    __uint(max_entries, 256);
    __type(key, u32);
    __type(value, u64);
} sent SEC(".maps");

static __noinline u32 hash(const struct flow *flow) {
    const u32 *words = (const u32 *)flow;
    u32 h = 0x9e3779b9;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        h ^= words[i];
        h *= 0x85ebca6b;
        h ^= h >> 13;
    }
    return h;
}

static u16 fold(u64 sum) {
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

// A checksum, when four bytes change from one value to another.
static void adjust(u16 *check, u32 from, u32 to) {
    u32 sum = csum_diff(&from, 4, &to, 4, (u16)~*check);
    *check = ~fold(sum);
}

SEC("xdp/balance") int balance(struct xdp_md *ctx) {
    void *data = DATA(ctx), *end = END(ctx);
    struct eth *eth = data;
    struct ipv4 *ip = (void *)(eth + 1);
    struct ports *ports = (void *)(ip + 1);
    struct service key = {};
    struct flow flow = {};
    struct backends *group;
    struct backend *to;
    u32 number, *known;
    u64 one = 1, *n;
    u16 *check;

    if ((void *)(ports + 1) > end || eth->proto != htons(0x0800) || ip->ihl_version != 0x45)
        return PASS;
    key.addr = ip->dst;
    key.port = ports->dst;
    key.proto = ip->proto;
    group = map_lookup(&services, &key);
    if (!group || group->count == 0)
        return PASS;
    if (ip->proto == 6) {
        check = (void *)ports + 16;
    } else if (ip->proto == 17) {
        check = (void *)ports + 6;
    } else {
        return DROP;
    }
    if ((void *)(check + 1) > end)
        return DROP;
    flow.src = ip->src, flow.dst = ip->dst, flow.proto = ip->proto;
    flow.sport = ports->src, flow.dport = ports->dst;
    known = map_lookup(&flows, &flow);
    if (known) {
        number = *known;
    } else {
        number = group->first + hash(&flow) % group->count;
        // A full table forgets nobody: new flows are chosen by hash alone.
        map_update(&flows, &flow, &number, NOEXIST);
    }
    to = map_lookup(&backends, &number);
    if (!to)
        return ABORTED;
    // Without a checksum, zero, it stays so.
    if (ip->proto == 6 || *check != 0)
        adjust(check, ip->dst, to->addr);
    adjust(&ip->check, ip->dst, to->addr);
    ip->dst = to->addr;
    __builtin_memcpy(eth->src, eth->dst, 6);
    __builtin_memcpy(eth->dst, to->mac, 6);
    n = map_lookup(&sent, &number);
    if (n)
        *n += 1;
    else
        map_update(&sent, &number, &one, NOEXIST);
    return TX;
}

char _license[] SEC("license") = "MIT";
