// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * DNS messages where functions can be hooked, with fentry and kprobe; process context.
 *
 * What is sent: udp_sendmsg, tcp_sendmsg and their likes, with the caller's buffers. A datagram is
 * received where skb_consume_udp lets go of it: its own headers tell the ends, and it is read from
 * the packet if that is in one piece, else from the buffers that the entry of udp_recvmsg has seen.
 * TCP's bytes are in the buffers of tcp_recvmsg when the raw tracepoint tcp_rcv_space_adjust is
 * passed; how far the socket's copied_seq has moved tells how many.
 */
#ifndef HOOK_TRACEPOINT
/* include/linux/fs.h: flags of iov_iter.type where it has no iter_type */
#define DNS_ITER_FLAGS 1

#ifdef HAVE_ITER_IOV
#define DNS_IOV __iov
#else
#define DNS_IOV iov
#endif

/* Take the caller's buffers from a message; false where they are not a process's memory. */
static __always_inline bool dns_take_buffers(struct dns_call *call, struct msghdr *message)
{
	struct iov_iter *iter = &message->msg_iter;
	u32 kind;
#ifdef HAVE_ITER_TYPE
	u8 type = 0;

	read(type, &iter->iter_type);
	kind = type;
#else
	unsigned int type = 0;

	read(type, &iter->type);
	kind = type & ~DNS_ITER_FLAGS;
#endif
	if (kind == ITER_IOVEC) {
		call->form = DNS_SEGMENTS;
		read(call->where, &iter->DNS_IOV);
		read(call->size, &iter->nr_segs);
		return true;
	}
#ifdef HAVE_ITER_UBUF
	if (kind == ITER_UBUF) {
		u64 offset = 0;

		call->form = DNS_BUFFER;
		read(call->where, &iter->ubuf);
		read(offset, &iter->iov_offset);
		read(call->size, &iter->count);
		call->where += offset;
		return true;
	}
#endif
	return false;
}

/* Copy `length` bytes of the caller's buffers, from the `skip`th on. */
static __always_inline void dns_copy_buffers(struct dns_scratch *scratch, struct dns_call *call,
					     u64 skip, u64 length)
{
	if (call->form == DNS_SEGMENTS)
		dns_gather(scratch, call->where, call->size, skip, length);
	else if (skip < call->size)
		dns_append(scratch, call->where + skip, call->size - skip, length);
}

/* udp_sendmsg(struct sock *sk, struct msghdr *msg, size_t len), and udpv6_sendmsg, which calls it
 * for an IPv4-mapped address: that is one message, the outer one's; tcp_sendmsg. */
static __always_inline int dns_send_message(struct sock *sk, struct msghdr *message, u32 length)
{
	struct dns_call call = {};
	struct dns_scratch *scratch;
	u32 which = DNS_SENT;
	u64 name = 0;

	if (!dns_may_ask(sk) || !dns_take_buffers(&call, message))
		return 0;
	read(name, &message->msg_name);
	scratch = dns_scratches.lookup(&which);
	if (scratch && dns_begin(scratch, sk, name, DNS_SENT)) {
		dns_copy_buffers(scratch, &call, 0, length);
		dns_report(scratch, length);
	}
	return 0;
}

static __always_inline bool dns_is_family(struct sock *sk, u16 wanted)
{
	u16 family = 0;

	read(family, &sk->__sk_common.skc_family);
	return family == wanted;
}

int dns_enter_udp_sendmsg(hook_ctx *ctx)
{
	struct sock *sk = ARG1(ctx);

	return dns_is_family(sk, AF_INET) ? dns_send_message(sk, ARG2(ctx), (u64)ARG3(ctx)) : 0;
}

int dns_enter_udpv6_sendmsg(hook_ctx *ctx)
{
	return dns_send_message(ARG1(ctx), ARG2(ctx), (u64)ARG3(ctx));
}

int dns_enter_tcp_sendmsg(hook_ctx *ctx)
{
	return dns_send_message(ARG1(ctx), ARG2(ctx), (u64)ARG3(ctx));
}

#ifndef DNS_ANSWERS_ONLY
#ifdef HOOK_FENTRY
#define DNS_SENDMSG_RESULT(ctx) ((int)(ctx)[3])	/* behind three arguments */
#else
#define DNS_SENDMSG_RESULT(ctx) ((int)PT_REGS_RC(ctx))
#endif

/* Within udpv6_sendmsg, udp_sendmsg has the same outcome, and tells it first. */
int dns_exit_udp_sendmsg(hook_ctx *ctx)
{
	return dns_end_send(DNS_SENDMSG_RESULT(ctx));
}

int dns_exit_udpv6_sendmsg(hook_ctx *ctx)
{
	return dns_end_send(DNS_SENDMSG_RESULT(ctx));
}
#endif

/* udp_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, ...), udpv6_recvmsg, tcp_recvmsg */
static __always_inline int dns_begin_receive(struct sock *sk, struct msghdr *message)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct dns_call call = { .sk = sk };

	if (!dns_may_ask(sk) || !dns_take_buffers(&call, message))
		return 0;
	read(call.copied_seq, &((struct tcp_sock *)sk)->copied_seq);
	dns_calls.update(&tid, &call);
	return 0;
}

int dns_enter_udp_recvmsg(hook_ctx *ctx)
{
	return dns_begin_receive(ARG1(ctx), ARG2(ctx));
}

int dns_enter_udpv6_recvmsg(hook_ctx *ctx)
{
	return dns_begin_receive(ARG1(ctx), ARG2(ctx));
}

int dns_enter_tcp_recvmsg(hook_ctx *ctx)
{
	return dns_begin_receive(ARG1(ctx), ARG2(ctx));
}

/* Fill both ends from a datagram's own headers. */
static __always_inline void dns_fill_ends(struct event *event, struct sk_buff *skb)
{
	unsigned char *head = NULL;
	u16 network = 0, transport = 0;
	__be16 ports[2] = {};
	u8 version = 0;

	read(head, &skb->head);
	read(network, &skb->network_header);
	read(transport, &skb->transport_header);
	read(ports, head + transport);
	event->rport = bpf_ntohs(ports[0]);
	event->lport = bpf_ntohs(ports[1]);
	read(version, head + network);
	__builtin_memset(event->laddr, 0, sizeof(event->laddr));
	__builtin_memset(event->raddr, 0, sizeof(event->raddr));
	if (version >> 4 == 4) {
		event->family = 4;
		bpf_probe_read_kernel(event->raddr, 4, head + network + 12);
		bpf_probe_read_kernel(event->laddr, 4, head + network + 16);
	} else {
		event->family = 6;
		read(event->raddr, head + network + 8);
		read(event->laddr, head + network + 24);
	}
}

static __always_inline void dns_copy_datagram(struct dns_scratch *scratch, struct sk_buff *skb,
					      u64 length)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct dns_call *call;
	void *data = NULL;
	u32 elsewhere = 0;

	read(elsewhere, &skb->data_len);
	if (elsewhere) {
		call = dns_calls.lookup(&tid);
		if (call && call->sk == (struct sock *)scratch->event.socket)
			dns_copy_buffers(scratch, call, 0, length);
		return;
	}
	read(data, &skb->data);
	if (length > DNS_CAPTURED)
		length = DNS_CAPTURED;
	asm volatile("" : "+r"(length));
	length &= 2 * DNS_CAPTURED - 1;
	if (length && !bpf_probe_read_kernel(scratch->payload, length, data))
		dns_set_size(scratch, length);
}

/* skb_consume_udp(struct sock *sk, struct sk_buff *skb, int len); len < 0 for MSG_PEEK. */
int dns_enter_skb_consume_udp(hook_ctx *ctx)
{
	struct sock *sk = ARG1(ctx);
	struct sk_buff *skb = ARG2(ctx);
	struct dns_scratch *scratch;
	u32 which = 0, length = 0;

	if ((int)(u64)ARG3(ctx) <= 0 || !dns_may_ask(sk))
		return 0;
	scratch = dns_scratches.lookup(&which);
	if (!scratch)
		return 0;
	dns_start(scratch, sk, 0);
	dns_fill_ends(&scratch->event.head, skb);
	read(length, &skb->len);
	if (dns_keep(&scratch->event.head)) {
		dns_copy_datagram(scratch, skb, length);
		dns_report(scratch, length);
	}
	return 0;
}

/* tcp_rcv_space_adjust(struct sock *sk): a piece has been copied to the caller, and taken away
 * unless it was MSG_PEEK. */
int dns_on_copied(struct bpf_raw_tracepoint_args *ctx)
{
	struct sock *sk = (struct sock *)ctx->args[0];
	u32 tid = bpf_get_current_pid_tgid(), which = 0, copied_seq = 0;
	struct dns_call *call = dns_calls.lookup(&tid);
	struct dns_scratch *scratch;
	u64 from, length;

	if (!call || call->sk != sk)
		return 0;
	read(copied_seq, &((struct tcp_sock *)sk)->copied_seq);
	from = call->done;
	length = (u32)(copied_seq - call->copied_seq) - from;
	if (!length || length > DNS_ANY_LENGTH)
		return 0;
	call->done = from + length;
	scratch = dns_scratches.lookup(&which);
	if (scratch && dns_begin(scratch, sk, 0, 0)) {
		dns_copy_buffers(scratch, call, from, length);
		dns_report(scratch, length);
	}
	return 0;
}
#endif
