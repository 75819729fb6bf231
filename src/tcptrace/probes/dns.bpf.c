// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * DNS messages: what processes send to servers' ports and receive from them, over UDP and TCP.
 *
 * With every backend the hooks are the entries and exits of the system calls that send and receive,
 * in process context; the socket is found from the descriptor, the message in the caller's own
 * buffers, whose layout is ABI. So an answer is in the ring buffer before its receiver can connect
 * to what it names. Not seen: io_uring, and the system calls of 32-bit processes, which the kernel's
 * tracepoints leave out.
 *
 * Only sockets of UDP, and of TCP connected to a server's port, get past the first look; it costs
 * a read(2) or write(2) of something else some 0.1 us. What a peer sends is never more than bytes
 * here: Python takes TCP's stream apart and reads the messages.
 *
 * With ANSWERS_ONLY the probe is a companion: only answers are reported, of all processes whatever
 * the filters, which are for the other probe.
 */
#define CAPTURED 4096	/* bytes of a message; a power of two */
#define MOST_SEGMENTS 4
#define MOST_MESSAGES 8

struct dns_event {
	struct event head;	/* the remote end is the server */
	u64 socket;	/* which one, as long as it is open */
	u32 length;	/* of the message, or of the piece of TCP's stream */
	u32 flags;	/* enum dns_flag */
};
_Static_assert(sizeof(struct dns_event) == SIZE_DNS, "probes/dns.py: Message differs");

/* probes/dns.py: SENT, TCP */
enum dns_flag { DNS_SENT = 1, DNS_TCP = 2 };

/* The most that append can write: CAPTURED - 1 behind the beginning, and a mask's worth. */
struct dns_scratch {
	struct dns_event event;
	u8 payload[3 * CAPTURED];
};
BPF_PERCPU_ARRAY(dns_scratches, struct dns_scratch, 2);

/* include/linux/socket.h, include/uapi/linux/uio.h */
struct dns_segment {
	u64 base;
	u64 length;
};

struct dns_msghdr {
	u64 name;
	u32 name_length;
	u64 segments;
	u64 segment_count;
	u64 control[2];
	u32 flags;
};

struct dns_mmsghdr {
	struct dns_msghdr header;
	u32 length;
};

#define DNS_MSG_PEEK 2
#define DNS_MSG_ERRQUEUE 0x2000

/* Where a call to receive will put what it receives. */
enum dns_form { DNS_BUFFER, DNS_SEGMENTS, DNS_MESSAGE, DNS_MESSAGES };

struct dns_call {
	struct sock *sk;
	u64 where;
	u64 size;	/* bytes of DNS_BUFFER, number of DNS_SEGMENTS */
	u64 name;
	u64 form;
};
BPF_TABLE("lru_hash", u32, struct dns_call, dns_calls, 16384);

/* A socket address as IPv4 and IPv6 have it. */
struct dns_address {
	u16 family;
	__be16 port;
	u8 bytes[20];	/* IPv4: 4 of address; IPv6: 4 of flow label, 16 of address */
};

/* Where an unconnected socket last sent to: recv(2) does not tell where from. */
struct dns_asked {
	struct dns_address server;
	u16 lport;
};
BPF_TABLE("lru_hash", struct sock *, struct dns_asked, dns_servers, 4096);

static __always_inline bool is_server_port(u16 port)
{
#ifdef ANSWERS_ONLY
	return port == 53;
#else
	return keep_port(port);
#endif
}

/* Fill what concerns the current task and judge all but the message. */
static __always_inline bool keep_dns(struct event *event)
{
#ifdef ANSWERS_ONLY
	fill_task(event);
	return event->netns != SELF_TEST_NETNS && is_server_port(event->rport);
#else
	return keep_sock(event) && is_server_port(event->rport) && fill_task(event);
#endif
}

static __always_inline u16 remote_port(struct sock *sk)
{
	u16 port = 0;

	read(port, &sk->__sk_common.skc_dport);
	return bpf_ntohs(port);
}

/* The socket behind a descriptor, or NULL where it cannot be a DNS client's. A TCP socket without a
 * port may be about to connect by sending (MSG_FASTOPEN). */
static __always_inline struct sock *dns_sock(s32 fd)
{
	struct socket *sock = fd_socket(fd);
	struct sock *sk = NULL;
	u16 family = 0, protocol = 0, port;

	if (!sock)
		return NULL;
	read(sk, &sock->sk);
	if (!sk)
		return NULL;
	read(family, &sk->__sk_common.skc_family);
	if (family != AF_INET && family != AF_INET6)
		return NULL;
	port = remote_port(sk);
	if (port && !is_server_port(port))
		return NULL;
	read(protocol, &sk->sk_protocol);
	return protocol == IPPROTO_UDP || protocol == IPPROTO_TCP ? sk : NULL;
}

static __always_inline bool is_dns_tcp(struct sock *sk)
{
	u16 protocol = 0;

	read(protocol, &sk->sk_protocol);
	return protocol == IPPROTO_TCP;
}

/* Make an address the event's remote end. */
static __always_inline void fill_server(struct event *event, struct dns_address *server)
{
	event->rport = bpf_ntohs(server->port);
	__builtin_memset(event->raddr, 0, sizeof(event->raddr));
	if (server->family == AF_INET) {
		event->family = 4;
		__builtin_memcpy(event->raddr, server->bytes, 4);
	} else if (server->family == AF_INET6) {
		event->family = 6;
		__builtin_memcpy(event->raddr, server->bytes + 4, 16);
		if (is_ipv4_mapped(event->raddr)) {
			unmap(event->raddr);
			event->family = 4;
		}
	}
	if (event->family == 4 && is_ipv4_mapped(event->laddr))
		unmap(event->laddr);
}

/* Begin an event; `name` is the user's address of the other end, or 0. */
static __always_inline bool begin_dns(struct dns_scratch *scratch, struct sock *sk, u64 name,
				      u32 flags)
{
	struct dns_event *event = &scratch->event;
	struct dns_asked asked = {}, *found;

	__builtin_memset(event, 0, sizeof(*event));
	event->head.kind = KIND_DNS;
	event->socket = (u64)sk;
	event->flags = flags | (is_dns_tcp(sk) ? DNS_TCP : 0);
	fill_sock(&event->head, sk);
	if (name)
		bpf_probe_read_user(&asked.server.family, 2, (void *)name);
	if (asked.server.family == AF_INET)
		bpf_probe_read_user(&asked.server, 8, (void *)name);
	else if (asked.server.family == AF_INET6)
		bpf_probe_read_user(&asked.server, sizeof(asked.server), (void *)name);
	else
		name = 0;
	if (name && (!event->head.rport || flags & DNS_SENT)) {
		fill_server(&event->head, &asked.server);
		if (flags & DNS_SENT && is_server_port(event->head.rport)) {
			asked.lport = event->head.lport;
			dns_servers.update(&sk, &asked);
		}
	} else if (!event->head.rport) {
		found = dns_servers.lookup(&sk);
		if (found && (!found->lport || found->lport == event->head.lport))
			fill_server(&event->head, &found->server);
	}
	return keep_dns(&event->head);
}

/* Copy one more segment behind the `at` bytes that are there, `left` at most; return how many bytes
 * are there now. More than the user's segment is never read: that might be another page. */
static __always_inline u64 append(struct dns_scratch *scratch, u64 at, u64 base, u64 length,
				  u64 left)
{
	u64 size = length, place = at;

	if (at >= CAPTURED)
		return at;
	if (size > left)
		size = left;
	if (size > CAPTURED)
		size = CAPTURED;
	/* clang would drop masks that it knows to do nothing; the verifier knows less. */
	asm volatile("" : "+r"(size), "+r"(place));
	size &= 2 * CAPTURED - 1;
	place &= CAPTURED - 1;
	if (!size || bpf_probe_read_user(scratch->payload + place, size, (void *)base))
		return at;
	return at + size;
}

static __always_inline u64 gather(struct dns_scratch *scratch, u64 segments, u64 count, u64 length)
{
	struct dns_segment segment;
	u64 at = 0;

	for (int i = 0; i < MOST_SEGMENTS; i++) {
		if (i >= count || at >= length)
			break;
		if (bpf_probe_read_user(&segment, sizeof(segment),
					(void *)segments + i * sizeof(segment)))
			break;
		at = append(scratch, at, segment.base, segment.length, length - at);
	}
	return at;
}

#define DNS_HEADER 12

/* Whether it can name an address: a response with answers. TCP's pieces may begin anywhere. */
static __always_inline bool may_answer(struct dns_scratch *scratch, u64 size)
{
#ifdef ANSWERS_ONLY
	u8 *header = scratch->payload;

	if (scratch->event.flags & DNS_SENT)
		return false;
	if (!(scratch->event.flags & DNS_TCP))
		return size > DNS_HEADER && header[2] & 0x80 && (header[6] || header[7]);
#endif
	return true;
}

static __always_inline void report_dns(struct dns_scratch *scratch, u64 size, u32 length)
{
	scratch->event.length = length;
	if (!may_answer(scratch, size))
		return;
	if (size > CAPTURED)
		size = CAPTURED;
	asm volatile("" : "+r"(size));
	size &= 2 * CAPTURED - 1;
	emit(scratch, sizeof(scratch->event) + size);
}

/* A message of `length` bytes in one buffer of `size`. */
static __always_inline void report_buffer(struct sock *sk, u64 base, u64 size, u64 name, u32 length,
					  u32 flags)
{
	u32 which = flags & DNS_SENT;
	struct dns_scratch *scratch = dns_scratches.lookup(&which);

	if (scratch && begin_dns(scratch, sk, name, flags))
		report_dns(scratch, append(scratch, 0, base, size, length), length);
}

#define ANY_LENGTH 0x7fffffff

/* A message of `length` bytes in segments; the length of one that is sent is theirs. */
static __always_inline void report_segments(struct sock *sk, u64 segments, u64 count, u64 name,
					    u32 length, u32 flags)
{
	u32 which = flags & DNS_SENT;
	struct dns_scratch *scratch = dns_scratches.lookup(&which);
	u64 size;

	if (!scratch || !begin_dns(scratch, sk, name, flags))
		return;
	size = gather(scratch, segments, count, length);
	report_dns(scratch, size, length == ANY_LENGTH ? size : length);
}

static __always_inline void report_message(struct sock *sk, u64 where, u32 length, u32 flags)
{
	struct dns_msghdr header = {};

	if (!bpf_probe_read_user(&header, sizeof(header), (void *)where))
		report_segments(sk, header.segments, header.segment_count,
				header.name_length ? header.name : 0, length, flags);
}

static __always_inline void report_messages(struct sock *sk, u64 where, u64 number, u32 flags)
{
	struct dns_mmsghdr message;

	for (int i = 0; i < MOST_MESSAGES; i++) {
		if (i >= number)
			return;
		if (bpf_probe_read_user(&message, sizeof(message),
					(void *)where + i * sizeof(message)))
			return;
		report_segments(sk, message.header.segments, message.header.segment_count,
				message.header.name_length ? message.header.name : 0,
				flags & DNS_SENT ? ANY_LENGTH : message.length, flags);
	}
	if (number > MOST_MESSAGES)
		count(COUNT_UNTRACKED);
}

/* What is sent is there when the call begins. */

/* sendto(fd, buffer, size, flags, name, name_length) */
int enter_dns_sendto(struct trace_event_raw_sys_enter *ctx)
{
	struct sock *sk = dns_sock(ctx->args[0]);

	if (sk)
		report_buffer(sk, ctx->args[1], ctx->args[2], ctx->args[4], ctx->args[2], DNS_SENT);
	return 0;
}

/* sendmsg(fd, message, flags) */
int enter_dns_sendmsg(struct trace_event_raw_sys_enter *ctx)
{
	struct sock *sk = dns_sock(ctx->args[0]);

	if (sk)
		report_message(sk, ctx->args[1], ANY_LENGTH, DNS_SENT);
	return 0;
}

/* sendmmsg(fd, messages, count, flags) */
int enter_dns_sendmmsg(struct trace_event_raw_sys_enter *ctx)
{
	struct sock *sk = dns_sock(ctx->args[0]);

	if (sk)
		report_messages(sk, ctx->args[1], (u32)ctx->args[2], DNS_SENT);
	return 0;
}

#ifndef ANSWERS_ONLY
/* write(fd, buffer, size) */
int enter_dns_write(struct trace_event_raw_sys_enter *ctx)
{
	struct sock *sk = dns_sock(ctx->args[0]);

	if (sk)
		report_buffer(sk, ctx->args[1], ctx->args[2], 0, ctx->args[2], DNS_SENT);
	return 0;
}

/* writev(fd, segments, count) */
int enter_dns_writev(struct trace_event_raw_sys_enter *ctx)
{
	struct sock *sk = dns_sock(ctx->args[0]);

	if (sk)
		report_segments(sk, ctx->args[1], ctx->args[2], 0, ANY_LENGTH, DNS_SENT);
	return 0;
}
#endif

/* What is received is there when the call ends; its arguments are only here. */
static __always_inline int enter_receive(struct trace_event_raw_sys_enter *ctx, u64 form, u64 name,
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
int enter_dns_recvfrom(struct trace_event_raw_sys_enter *ctx)
{
	return enter_receive(ctx, DNS_BUFFER, ctx->args[4], ctx->args[3]);
}

/* recvmsg(fd, message, flags) */
int enter_dns_recvmsg(struct trace_event_raw_sys_enter *ctx)
{
	return enter_receive(ctx, DNS_MESSAGE, 0, ctx->args[2]);
}

/* recvmmsg(fd, messages, count, flags, timeout) */
int enter_dns_recvmmsg(struct trace_event_raw_sys_enter *ctx)
{
	return enter_receive(ctx, DNS_MESSAGES, 0, ctx->args[3]);
}

/* read(fd, buffer, size) */
int enter_dns_read(struct trace_event_raw_sys_enter *ctx)
{
	return enter_receive(ctx, DNS_BUFFER, 0, 0);
}

/* readv(fd, segments, count) */
int enter_dns_readv(struct trace_event_raw_sys_enter *ctx)
{
	return enter_receive(ctx, DNS_SEGMENTS, 0, 0);
}

static __always_inline bool take_call(struct dns_call *call)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct dns_call *found = dns_calls.lookup(&tid);

	if (!found)
		return false;
	*call = *found;
	dns_calls.delete(&tid);
	return true;
}

/* read and recvfrom, readv */
int exit_dns_receive(struct trace_event_raw_sys_exit *ctx)
{
	struct dns_call call;
	long ret = ctx->ret;

	if (!take_call(&call) || ret <= 0)
		return 0;
	if (call.form == DNS_SEGMENTS)
		report_segments(call.sk, call.where, call.size, 0, ret, 0);
	else
		report_buffer(call.sk, call.where, call.size, call.name, ret, 0);
	return 0;
}

int exit_dns_recvmsg(struct trace_event_raw_sys_exit *ctx)
{
	struct dns_call call;
	long ret = ctx->ret;

	if (take_call(&call) && ret > 0)
		report_message(call.sk, call.where, ret, 0);
	return 0;
}

int exit_dns_recvmmsg(struct trace_event_raw_sys_exit *ctx)
{
	struct dns_call call;
	long ret = ctx->ret;

	if (take_call(&call) && ret > 0)
		report_messages(call.sk, call.where, ret, 0);
	return 0;
}
