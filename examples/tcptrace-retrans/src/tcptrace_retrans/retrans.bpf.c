// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * TCP segments that are sent again.
 *
 * Hook: the raw tracepoint tcp_retransmit_skb(sk, skb[, err]) (net/ipv4/tcp_output.c). Some kernels
 * add err, and then tell of segments that could not be sent, too.
 * Context: softirq most often, a timer or the peer's packet. The current task is then any task, so
 * fill_task() is left out: pid, tid, uid and comm stay 0, which means "not known".
 */
struct retrans_event {
	struct event head;
	u32 state;	/* enum in net/tcp_states.h */
	u32 reserved;
};
_Static_assert(sizeof(struct retrans_event) == SIZE_RETRANS, "Retrans differs");

int on_retransmit(struct bpf_raw_tracepoint_args *ctx)
{
	struct retrans_event event = { .head.kind = KIND_RETRANS };
	struct sock *sk = (struct sock *)ctx->args[0];
	u8 state = 0;

	if (!is_tcp(sk))
		return 0;
	fill_sock(&event.head, sk);
	if (!keep_sock(&event.head) || !keep_ports(event.head.lport, event.head.rport))
		return 0;
	event.head.ts_ns = bpf_ktime_get_ns();
	read(state, &sk->__sk_common.skc_state);
	event.state = state;
	emit(&event, sizeof(event));
	return 0;
}
