// Headers come and go: IPv4 in IPv4, and out again; a mark before the packet, a shorter packet.
#include "bpf.h"

static u16 fold(u32 sum) {
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

SEC("xdp/wrap") int wrap(struct xdp_md *ctx) {
    struct eth *eth = DATA(ctx), *new;
    struct ipv4 *ip = (void *)(eth + 1), *outer;
    struct eth old;
    u16 len;

    if ((void *)(ip + 1) > END(ctx) || eth->proto != htons(0x0800))
        return PASS;
    old = *eth;
    len = ntohs(ip->len);
    if (adjust_head(ctx, -(int)sizeof(*outer)))
        return ABORTED;
    new = DATA(ctx);
    outer = (void *)(new + 1);
    if ((void *)(outer + 1) > END(ctx))
        return DROP;
    *new = old;
    outer->ihl_version = 0x45;
    outer->tos = 0;
    outer->len = htons(len + sizeof(*outer));
    outer->id = 0;
    outer->frag = htons(0x4000);
    outer->ttl = 64;
    outer->proto = 4;
    outer->check = 0;
    outer->src = 0x0100000a;
    outer->dst = 0x0200000a;
    outer->check = ~fold(csum_diff(0, 0, outer, sizeof(*outer), 0));
    return TX;
}

SEC("xdp/unwrap") int unwrap(struct xdp_md *ctx) {
    struct eth *eth = DATA(ctx), *new;
    struct ipv4 *ip = (void *)(eth + 1);
    struct eth old;

    if ((void *)(ip + 1) > END(ctx) || eth->proto != htons(0x0800) || ip->proto != 4)
        return PASS;
    old = *eth;
    if (adjust_head(ctx, sizeof(*ip)))
        return DROP;
    new = DATA(ctx);
    if ((void *)(new + 1) > END(ctx))
        return DROP;
    *new = old;
    return PASS;
}

// A mark of four bytes before the packet, of what the packet says about itself.
SEC("xdp/mark") int mark(struct xdp_md *ctx) {
    u32 *mark;
    u8 *data;

    if (adjust_meta(ctx, -(int)sizeof(*mark)))
        return ABORTED;
    data = DATA(ctx);
    mark = (void *)(long)ctx->data_meta;
    if ((void *)(mark + 1) > (void *)data || (void *)(data + 14) > END(ctx))
        return DROP;
    *mark = data[12] << 8 | data[13];
    // The length afterwards tells whether it was there.
    if (*mark == 0x0800 && adjust_tail(ctx, 2))
        return DROP;
    return PASS;
}

// Only the first 64 bytes go on.
SEC("xdp.frags/cut") int cut(struct xdp_md *ctx) {
    u64 len = get_buff_len(ctx);
    u32 first = 0;

    if (load_bytes(ctx, 14, &first, 4))
        return ABORTED;
    if (len > 64 && adjust_tail(ctx, 64 - (int)len))
        return DROP;
    return (u8)first == 0x45 ? TX : PASS;
}

char _license[] SEC("license") = "MIT";
