// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * DNS messages by tracepoints alone: entries and exits of the system calls; process context.
 *
 * The socket is found among the process's descriptors, and the message in the caller's buffers,
 * whose layout is ABI. Not seen: io_uring, and 32-bit processes, which the kernel's tracepoints
 * leave out. All calls of write(2) pay for it while the trace runs, those of files as well: some 0.1
 * us, or twice as much where memory is not read by loads. So do those of read(2), unless they are
 * hooked where sockets alone come by (DNS_ON_RECEIVED).
 */
#ifdef HOOK_TRACEPOINT
static __always_inline bool dns_is_client(struct sock *sk)
{
	u16 protocol = 0;

	if (!dns_may_ask(sk) || is_raw(sk))
		return false;
	read(protocol, &sk->sk_protocol);
	return protocol == IPPROTO_UDP || dns_is_tcp(sk);
}

/* The socket behind a descriptor, or NULL where it cannot be a DNS client's. */
static __always_inline struct sock *dns_sock(s32 fd)
{
	struct socket *sock = fd_socket(fd);
	struct sock *sk = NULL;

	if (!sock)
		return NULL;
	read(sk, &sock->sk);
	return sk && dns_is_client(sk) ? sk : NULL;
}

/* A message of `length` bytes in one buffer of `size`. */
static __always_inline void dns_report_buffer(struct sock *sk, u64 base, u64 size, u64 name,
					  u32 length, u32 flags)
{
	u32 which = flags & DNS_SENT;
	struct dns_scratch *scratch = dns_scratches.lookup(&which);

	if (length >= size && !(flags & DNS_SENT))
		flags |= DNS_CUT;
	if (scratch && dns_begin(scratch, sk, name, flags)) {
		dns_append(scratch, base, size, length);
		dns_report(scratch, length);
	}
}

#define DNS_MOST_LENGTHS 16

/* The bytes of a message in segments; more than there are in `DNS_MOST_LENGTHS` of them if it has
 * more. */
static __always_inline u32 dns_total_length(u64 segments, u64 count)
{
	struct dns_segment segment;
	u64 length = count > DNS_MOST_LENGTHS;

	for (int i = 0; i < DNS_MOST_LENGTHS; i++) {
		if (i >= count)
			break;
		if (dns_read_caller(&segment, sizeof(segment), segments + i * sizeof(segment)))
			break;
		length += segment.length;
	}
	return length;
}

/* A message of `length` bytes in segments; the length of one that is sent is theirs. */
static __always_inline void dns_report_segments(struct sock *sk, u64 segments, u64 count, u64 name,
					    u32 length, u32 flags)
{
	u32 which = flags & DNS_SENT;
	struct dns_scratch *scratch = dns_scratches.lookup(&which);

	if (!scratch || !dns_begin(scratch, sk, name, flags))
		return;
	dns_gather(scratch, segments, count, 0, length);
	if (flags & DNS_SENT)
		length = dns_total_length(segments, count);
	dns_report(scratch, length);
}

/* What the kernel says of a message that was received. */
static __always_inline u32 dns_cut_flag(struct dns_msghdr *header, u32 flags)
{
	return !(flags & DNS_SENT) && header->flags & DNS_MSG_TRUNC ? flags | DNS_CUT : flags;
}

static __always_inline void dns_report_message(struct sock *sk, u64 where, u32 length, u32 flags)
{
	struct dns_msghdr header = {};

	if (!dns_read_caller(&header, sizeof(header), where))
		dns_report_segments(sk, header.segments, header.segment_count,
				header.name_length ? header.name : 0, length,
				dns_cut_flag(&header, flags));
}

/* Count that messages were not read, of a socket that has asked something; what waits for an answer
 * there may have got it. */
static __always_inline void dns_report_missed(struct sock *sk, u32 flags)
{
	struct dns_event *event;
	bool is_wanted = false;

	if (!dns_remote_port(sk) && !dns_servers.lookup(&sk))
		return;
	event = events.ringbuf_reserve(sizeof(*event));	/* the stack has no room for it */
	if (!event) {
		count(COUNT_LOST);
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->head.kind = KIND_MESSAGE;
	event->head.ts_ns = bpf_ktime_get_ns();
	event->socket = (u64)sk;
	event->flags = DNS_FAILED;
	fill_sock(&event->head, sk);
	if (keep_sock(&event->head)) {
		count(COUNT_UNTRACKED);
#ifndef DNS_ANSWERS_ONLY
		is_wanted = !(flags & DNS_SENT);
#endif
	}
	if (is_wanted)
		events.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	else
		events.ringbuf_discard(event, BPF_RB_NO_WAKEUP);
	wake_reader();
}

static __always_inline void dns_report_messages(struct sock *sk, u64 where, u64 number, u32 flags)
{
	struct dns_mmsghdr message;

	for (int i = 0; i < DNS_MOST_MESSAGES; i++) {
		if (i >= number)
			return;
		if (dns_read_caller(&message, sizeof(message), where + i * sizeof(message)))
			return;
		dns_report_segments(sk, message.header.segments, message.header.segment_count,
				message.header.name_length ? message.header.name : 0,
				flags & DNS_SENT ? DNS_ANY_LENGTH : message.length,
				dns_cut_flag(&message.header, flags));
	}
	if (number > DNS_MOST_MESSAGES)
		dns_report_missed(sk, flags);
}

/* What is sent is there when the call begins. */

/* sendto(fd, buffer, size, flags, name, name_length) */
int dns_enter_sendto(syscall_enter *ctx)
{
	struct sock *sk = dns_sock(ctx->args[0]);

	if (sk)
		dns_report_buffer(sk, ctx->args[1], ctx->args[2], ctx->args[4], ctx->args[2],
				  DNS_SENT);
	return 0;
}

/* sendmsg(fd, message, flags) */
int dns_enter_sendmsg(syscall_enter *ctx)
{
	struct sock *sk = dns_sock(ctx->args[0]);

	if (sk)
		dns_report_message(sk, ctx->args[1], DNS_ANY_LENGTH, DNS_SENT);
	return 0;
}

/* What the current thread has begun to send are `number` messages, of one call. */
static __always_inline void dns_begin_sends(u64 since, u32 number)
{
#ifndef DNS_ANSWERS_ONLY
	u32 tid = bpf_get_current_pid_tgid();
	struct dns_send *send = dns_sends.lookup(&tid);

	if (!send || send->since < since)
		return;
	send->since = since;
	send->count = number;
#endif
}

/* sendmmsg(fd, messages, count, flags) */
int dns_enter_sendmmsg(syscall_enter *ctx)
{
	struct sock *sk = dns_sock(ctx->args[0]);
	u64 since = bpf_ktime_get_ns();

	if (!sk)
		return 0;
	dns_report_messages(sk, ctx->args[1], (u32)ctx->args[2], DNS_SENT);
	dns_begin_sends(since, (u32)ctx->args[2]);
	return 0;
}

#ifndef DNS_ANSWERS_ONLY
/* write(fd, buffer, size) */
int dns_enter_write(syscall_enter *ctx)
{
	struct sock *sk = dns_sock(ctx->args[0]);

	if (sk)
		dns_report_buffer(sk, ctx->args[1], ctx->args[2], 0, ctx->args[2], DNS_SENT);
	return 0;
}

/* writev(fd, segments, count) */
int dns_enter_writev(syscall_enter *ctx)
{
	struct sock *sk = dns_sock(ctx->args[0]);

	if (sk)
		dns_report_segments(sk, ctx->args[1], ctx->args[2], 0, DNS_ANY_LENGTH, DNS_SENT);
	return 0;
}

/* All calls to send, where the kernel has no sock_send_length. */
int dns_exit_send(syscall_exit *ctx)
{
	return dns_end_send(ctx->ret);
}
#endif

/* What is received is there when the call ends; its arguments are only here. */
static __always_inline int dns_enter_receive(syscall_enter *ctx, u64 form, u64 name,
					 u32 flags)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct dns_call call = {
		.sk = dns_sock(ctx->args[0]),
		.where = ctx->args[1],
		.size = ctx->args[2],
		.name = name,
		.form = form,
	};

	if (call.sk && !(flags & (DNS_MSG_PEEK | DNS_MSG_ERRQUEUE)))
		dns_calls.update(&tid, &call);
	return 0;
}

/* recvfrom(fd, buffer, size, flags, name, name_length) */
int dns_enter_recvfrom(syscall_enter *ctx)
{
	return dns_enter_receive(ctx, DNS_BUFFER, ctx->args[4], ctx->args[3]);
}

/* recvmsg(fd, message, flags) */
int dns_enter_recvmsg(syscall_enter *ctx)
{
	return dns_enter_receive(ctx, DNS_MESSAGE, 0, ctx->args[2]);
}

/* recvmmsg(fd, messages, count, flags, timeout) */
int dns_enter_recvmmsg(syscall_enter *ctx)
{
	return dns_enter_receive(ctx, DNS_MESSAGES, 0, ctx->args[3]);
}

#ifndef DNS_ON_RECEIVED
/* read(fd, buffer, size) */
int dns_enter_read(syscall_enter *ctx)
{
	return dns_enter_receive(ctx, DNS_BUFFER, 0, 0);
}

/* readv(fd, segments, count) */
int dns_enter_readv(syscall_enter *ctx)
{
	return dns_enter_receive(ctx, DNS_SEGMENTS, 0, 0);
}
#endif

static __always_inline bool dns_take_call(struct dns_call *call)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct dns_call *found = dns_calls.lookup(&tid);

	if (!found)
		return false;
	*call = *found;
	dns_calls.delete(&tid);
	return true;
}

/* recvfrom; read, readv */
int dns_exit_receive(syscall_exit *ctx)
{
	struct dns_call call;
	long ret = ctx->ret;

	if (!dns_take_call(&call) || ret <= 0)
		return 0;
#ifndef DNS_ON_RECEIVED
	if (call.form == DNS_SEGMENTS) {
		dns_report_segments(call.sk, call.where, call.size, 0, ret, 0);
		return 0;
	}
#endif
	dns_report_buffer(call.sk, call.where, call.size, call.name, ret, 0);
	return 0;
}

#ifdef DNS_ON_RECEIVED
/* Helpers that bcc may be too old to have a name for: see enum bpf_func_id. */
static struct task_struct *(*dns_current_task)(void) = (void *)158;
static struct pt_regs *(*dns_registers)(struct task_struct *task) = (void *)175;

#define DNS_CALL_READ 0
#define DNS_CALL_READV 19

/* sock_recv_length(struct sock *sk, int ret, int flags): what a socket has received, by whichever
 * call. The arguments of read and readv are still in the task's registers (x86-64), and what was
 * received is in its buffers. A kernel thread's registers are all 0. */
int dns_on_received(struct bpf_raw_tracepoint_args *ctx)
{
	struct sock *sk = (struct sock *)ctx->args[0];
	int ret = ctx->args[1];
	struct pt_regs *registers;
	u64 call = 0, where = 0, size = 0;

	if (ret <= 0 || !dns_is_client(sk))
		return 0;
	registers = dns_registers(dns_current_task());
	read(call, &registers->orig_ax);
	read(where, &registers->si);
	read(size, &registers->dx);
	if (call == DNS_CALL_READ && ret <= size)
		dns_report_buffer(sk, where, size, 0, ret, 0);
	if (call == DNS_CALL_READV)
		dns_report_segments(sk, where, size, 0, ret, 0);
	return 0;
}
#endif

int dns_exit_recvmsg(syscall_exit *ctx)
{
	struct dns_call call;
	long ret = ctx->ret;

	if (dns_take_call(&call) && ret > 0)
		dns_report_message(call.sk, call.where, ret, 0);
	return 0;
}

int dns_exit_recvmmsg(syscall_exit *ctx)
{
	struct dns_call call;
	long ret = ctx->ret;

	if (dns_take_call(&call) && ret > 0)
		dns_report_messages(call.sk, call.where, ret, 0);
	return 0;
}
#endif
