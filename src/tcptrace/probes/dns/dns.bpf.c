// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * DNS messages: what processes send to servers' ports and receive from them, over UDP and TCP.
 *
 * All hooks are in process context, and the event names the process that sends or receives:
 *   fentry, kprobe: the functions that send and receive, in functions.bpf.c;
 *   tracepoint:     the system calls, in syscalls.bpf.c.
 * So an answer is in the ring buffer before its receiver can connect to what it names.
 *
 * Whether a message could be sent is known when the call returns: from the raw tracepoint
 * sock_send_length (Linux 6.4), in the sender's context, or else from the return of udp_sendmsg or
 * the system call. What a sender is told later, as by ICMP, comes from inet_sk_error_report (5.14),
 * in any context: that event names a process only where it is amid the call.
 *
 * Only sockets that may be a DNS client's get past the first look. What a peer sends is never more
 * than bytes here: Python takes TCP's stream apart and reads the messages.
 *
 * With DNS_ANSWERS_ONLY, answers alone are reported.
 */
#define DNS_CAPTURED 4096	/* bytes of a message; a power of two */
#define DNS_MOST_SEGMENTS 4
#define DNS_MOST_MESSAGES 8

struct dns_event {
	struct event head;	/* the remote end is the server */
	u64 socket;	/* which one, as long as it is open */
	u32 length;	/* of the message, or of the piece of TCP's stream */
	u32 flags;	/* DNS_SENT and the like: see probes/dns/probe.py */
	u32 error;	/* of DNS_FAILED: errno */
	u32 sent;	/* of DNS_FAILED: messages of the call under way that were sent */
};
_Static_assert(sizeof(struct dns_event) == SIZE_MESSAGE, "probes/dns/probe.py: Message differs");

/* The most that append can write: DNS_CAPTURED - 1 behind the beginning, and a mask's worth. */
struct dns_scratch {
	struct dns_event event;
	u8 payload[3 * DNS_CAPTURED];
	u64 size;
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
#define DNS_MSG_TRUNC 0x20
#define DNS_MSG_ERRQUEUE 0x2000

/* Where a call to receive will put what it receives. */
enum dns_form { DNS_BUFFER, DNS_SEGMENTS, DNS_MESSAGE, DNS_MESSAGES };

struct dns_call {
	struct sock *sk;
	u64 where;
	u64 size;	/* bytes of DNS_BUFFER, number of DNS_SEGMENTS */
	u64 name;
	u32 form;
	u32 copied_seq;	/* of TCP, when the call began */
	u64 done;	/* how much of what was received has been reported */
};
BPF_TABLE("lru_hash", u32, struct dns_call, dns_calls, 16384);

/* A call to send that is under way, and that has been reported. Deleted when its outcome is known;
 * what never gets that far, as where a policy forbids it, is replaced by the thread's next. */
struct dns_send {
	struct sock *sk;
	u64 since;
	u32 sent;	/* how many of its messages were sent */
	u32 count;	/* how many it has */
};
BPF_TABLE("lru_hash", u32, struct dns_send, dns_sends, 4096);

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
BPF_TABLE("lru_hash", struct sock *, struct dns_asked, dns_servers, 32768);

static __always_inline bool dns_is_server_port(u16 port)
{
	return keep_port(port);
}

/* Fill what concerns the current task and judge all but the message. */
static __always_inline bool dns_keep(struct event *event)
{
	return keep_sock(event) && dns_is_server_port(event->rport) && fill_task(event);
}

static __always_inline u16 dns_remote_port(struct sock *sk)
{
	u16 port = 0;

	read(port, &sk->__sk_common.skc_dport);
	return bpf_ntohs(port);
}

/* Whether a socket can be a DNS client's. Without a port it is an unconnected one, or TCP that may
 * be about to connect by sending (MSG_FASTOPEN). */
static __always_inline bool dns_may_ask(struct sock *sk)
{
	u16 family = 0, port = dns_remote_port(sk);

	if (port && !dns_is_server_port(port))
		return false;
	read(family, &sk->__sk_common.skc_family);
	return family == AF_INET || family == AF_INET6;
}

static __always_inline bool dns_is_tcp(struct sock *sk)
{
	u16 protocol = 0;

	read(protocol, &sk->sk_protocol);
	return protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP;
}

/* Make an address the event's remote end. */
static __always_inline void dns_fill_server(struct event *event, struct dns_address *server)
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

/* How many bytes of a message are there. Kept in memory, so that the verifier goes on once for all
 * sizes, and not from each way out of what has found them. */
static __always_inline void dns_set_size(struct dns_scratch *scratch, u64 size)
{
	*(volatile u64 *)&scratch->size = size;
}

static __always_inline u64 dns_size(struct dns_scratch *scratch)
{
	return *(volatile u64 *)&scratch->size;
}

static __always_inline void dns_start(struct dns_scratch *scratch, struct sock *sk, u32 flags)
{
	struct dns_event *event = &scratch->event;

	__builtin_memset(event, 0, sizeof(*event));
	event->head.kind = KIND_MESSAGE;
	event->socket = (u64)sk;
	event->flags = flags | (dns_is_tcp(sk) ? DNS_TCP : 0);
	fill_sock(&event->head, sk);
	dns_set_size(scratch, 0);
}

/* Read what a caller's message is described by: with functions as hooks, the kernel's copy. */
static __always_inline int dns_read_caller(void *to, u32 size, u64 from)
{
#ifdef HOOK_TRACEPOINT
	return bpf_probe_read_user(to, size, (void *)from);
#else
	return bpf_probe_read_kernel(to, size, (void *)from);
#endif
}

/* Remember that the current thread sends the event's message. */
static __always_inline void dns_begin_send(struct dns_event *event)
{
#ifndef DNS_ANSWERS_ONLY
	u32 tid = event->head.tid;
	struct dns_send send = {
		.sk = (struct sock *)event->socket,
		.since = event->head.ts_ns,
		.count = 1,
	};

	dns_sends.update(&tid, &send);
#endif
}

/* Begin an event; `name` is the caller's address of the other end, or 0. */
static __always_inline bool dns_begin(struct dns_scratch *scratch, struct sock *sk, u64 name,
				      u32 flags)
{
	struct dns_event *event = &scratch->event;
	struct dns_asked asked = {}, *found;

	dns_start(scratch, sk, flags);
	if (name)
		dns_read_caller(&asked.server.family, 2, name);
	if (asked.server.family == AF_INET)
		dns_read_caller(&asked.server, 8, name);
	else if (asked.server.family == AF_INET6)
		dns_read_caller(&asked.server, sizeof(asked.server), name);
	else
		name = 0;
	if (name && (!event->head.rport || flags & DNS_SENT)) {
		dns_fill_server(&event->head, &asked.server);
		if (flags & DNS_SENT && dns_is_server_port(event->head.rport)) {
			asked.lport = event->head.lport;
			dns_servers.update(&sk, &asked);
		}
	} else if (!event->head.rport) {
		found = dns_servers.lookup(&sk);
		if (found && (!found->lport || found->lport == event->head.lport)) {
			dns_fill_server(&event->head, &found->server);
			event->flags |= DNS_ASSUMED;
		}
	}
#ifdef DNS_ANSWERS_ONLY	/* of what is sent, all that they need is to whom */
	if (flags & DNS_SENT)
		return false;
#endif
	if (!dns_keep(&event->head))
		return false;
	if (flags & DNS_SENT)
		dns_begin_send(event);
	return true;
}

/* Copy one more segment behind the bytes that are there, up to `most` bytes of all. More than the
 * user's segment is never read: that might be another page. */
static __always_inline void dns_append(struct dns_scratch *scratch, u64 base, u64 length, u64 most)
{
	u64 at = dns_size(scratch), size = length, place = at;

	if (at >= DNS_CAPTURED)
		return;
	if (size > most - at)
		size = most - at;
	if (size > DNS_CAPTURED)
		size = DNS_CAPTURED;
	/* clang would drop masks that it knows to do nothing; the verifier knows less. */
	asm volatile("" : "+r"(size), "+r"(place));
	size &= 2 * DNS_CAPTURED - 1;
	place &= DNS_CAPTURED - 1;
	if (size && !bpf_probe_read_user(scratch->payload + place, size, (void *)base))
		dns_set_size(scratch, at + size);
}

/* Copy `length` bytes of the segments, from the `skip`th on. */
static __always_inline void dns_gather(struct dns_scratch *scratch, u64 segments, u64 count,
				       u64 skip, u64 length)
{
	struct dns_segment segment;

	for (int i = 0; i < DNS_MOST_SEGMENTS; i++) {
		if (i >= count || dns_size(scratch) >= length)
			break;
		if (dns_read_caller(&segment, sizeof(segment), segments + i * sizeof(segment)))
			break;
		if (skip >= segment.length) {
			skip -= segment.length;
			continue;
		}
		dns_append(scratch, segment.base + skip, segment.length - skip, length);
		skip = 0;
	}
}

#define DNS_HEADER 12
#define DNS_PREFIX 2	/* bytes of length before each message over TCP */

static __always_inline u32 dns_big_endian(const u8 *bytes)
{
	return bytes[0] << 8 | bytes[1];
}

/* 1 if one number is less than the other, else 0; without a branch, of which the verifier would go both
 * ways, and each way anew through all that is behind it. */
static __always_inline u64 dns_less(u64 less, u64 more)
{
	u64 difference = less - more;

	FORGET(difference);
	return difference >> 63;
}

#define DNS_OPCODES 0x77	/* those that there are, a bit for each: all up to 6 but 3 */
#define DNS_STATEFUL 0x40

/* is_header of probes/dns/messages.py, for the twelve bytes at `header`. */
static __always_inline u64 dns_is_header(const u8 *header, u32 length)
{
	u64 opcode = 1 << (header[2] >> 3 & 15), questions = dns_big_endian(header + 4);
	u64 records = dns_big_endian(header + 6) + dns_big_endian(header + 8) +
		      dns_big_endian(header + 10);
	u64 least = DNS_HEADER + 5 * questions + 11 * records;
	u64 is_response = header[2] >> 7, is_stateful = dns_less(0, opcode & DNS_STATEFUL);
	u64 is_cut = is_response & header[2] >> 1;	/* by its sender */
	u64 is_bare = dns_less(length, DNS_HEADER + 1), is_empty = dns_less(questions + records, 1);
	u64 has_room = (is_cut & dns_less(questions, 65) & dns_less(least, 65536)) |
		       (~is_cut & dns_less(least, length + 1));

	return dns_less(DNS_HEADER - 1, length) & dns_less(0, opcode & DNS_OPCODES) &
	       ((is_bare & (is_response | is_stateful)) |
		(~is_bare & (~is_empty | is_stateful) & has_room)) & 1;
}

/* Whether it can name an address: a response with answers. TCP's pieces may begin anywhere. */
static __always_inline bool dns_may_answer(struct dns_scratch *scratch)
{
#ifdef DNS_ANSWERS_ONLY
	u8 *header = scratch->payload;

	return dns_less(0, scratch->event.flags & DNS_TCP) |
	       (dns_less(DNS_HEADER, dns_size(scratch)) & header[2] >> 7 &
		dns_less(0, header[6] | header[7]));
#else
	return true;
#endif
}

/* Whether a piece of a stream of which `size` bytes are there can begin with a message; what is too
 * short to tell can. */
static __always_inline bool dns_may_begin(struct dns_scratch *scratch)
{
	u64 size = dns_size(scratch), length = dns_big_endian(scratch->payload);
	u64 is_tiny = dns_less(size, DNS_PREFIX), is_short = dns_less(size, DNS_PREFIX + DNS_HEADER);

	return is_tiny | (is_short & dns_less(DNS_HEADER - 1, length)) |
	       (~is_short & dns_is_header(scratch->payload + DNS_PREFIX, length));
}

/* What is known of a socket. One with another local port is another one at the same address. */
enum dns_way { WAY_UNKNOWN, WAY_DNS, WAY_STRANGER };
struct dns_socket {
	u64 window;
	u32 bytes;	/* that were reported in this window, and in how many events */
	u32 events;
	u16 lport;
	u8 ways[2];	/* what is received, and what is sent: enum dns_way */
	u16 announced[2];	/* of a stranger: the two bytes before, if they came alone */
};
BPF_TABLE("lru_hash", u64, struct dns_socket, dns_sockets, 16384);

/* Whether a piece of a stream is worth reading. A stream that does not begin as DNS does is not
 * DNS: its first piece tells so. The trace may have begun amid a message, though: so what begins as
 * a message does is read again, and what may be the length of one with the piece behind it. */
static __always_inline bool dns_keep_stream(struct dns_scratch *scratch, struct dns_socket *socket)
{
	u32 way = scratch->event.flags & DNS_SENT & 1, announced = socket->announced[way];
	bool may = dns_may_begin(scratch);

	if (socket->ways[way] == WAY_DNS)
		return true;
	if (socket->ways[way] == WAY_UNKNOWN) {
		socket->ways[way] = may ? WAY_DNS : WAY_STRANGER;
		return true;
	}
	socket->announced[way] = 0;
	if (scratch->event.length == DNS_PREFIX && dns_size(scratch) == DNS_PREFIX) {
		socket->announced[way] = dns_big_endian(scratch->payload);
		return true;
	}
	if (dns_size(scratch) >= DNS_PREFIX + DNS_HEADER && may)
		socket->ways[way] = WAY_DNS;
	if (announced && dns_size(scratch) >= DNS_HEADER && dns_is_header(scratch->payload, announced))
		socket->ways[way] = WAY_DNS;
	return socket->ways[way] == WAY_DNS;
}

/* So much may a socket report within this time, in bytes and in events: what is more is lost, so
 * that others' messages have room, and whoever reads has time for them. */
#define DNS_WINDOW_SHIFT 27	/* 134 ms */
#define DNS_SHARE (BUFFER_BYTES / 2)
#define DNS_SHARE_EVENTS (BUFFER_BYTES / 2048)

static __always_inline bool dns_keep_share(struct dns_event *event, struct dns_socket *socket,
					   u64 size)
{
	u64 window = event->head.ts_ns >> DNS_WINDOW_SHIFT;

	if (socket->window != window) {
		socket->window = window;
		socket->bytes = socket->events = 0;
	}
	if (socket->bytes > DNS_SHARE || socket->events > DNS_SHARE_EVENTS) {
		count(COUNT_LOST);
		return false;
	}
	socket->bytes += sizeof(*event) + size;
	socket->events++;
	return true;
}

static __always_inline bool dns_keep_flow(struct dns_scratch *scratch)
{
	u64 key = scratch->event.socket;
	struct dns_socket *socket = dns_sockets.lookup(&key);
	struct dns_socket unknown = { .lport = scratch->event.head.lport };

	if (socket && !socket->lport)	/* its first piece has bound it (MSG_FASTOPEN) */
		socket->lport = unknown.lport;
	if (!socket || socket->lport != unknown.lport) {
		dns_sockets.update(&key, &unknown);
		socket = dns_sockets.lookup(&key);
	}
	if (!socket)
		return true;
	if (scratch->event.flags & DNS_TCP && !dns_keep_stream(scratch, socket))
		return false;
	return dns_keep_share(&scratch->event, socket, dns_size(scratch));
}

static __always_inline void dns_report(struct dns_scratch *scratch, u32 length)
{
	u64 size;

	scratch->event.length = length;
	if (!dns_may_answer(scratch) || !dns_keep_flow(scratch))
		return;
	size = dns_size(scratch);
	if (size > DNS_CAPTURED)
		size = DNS_CAPTURED;
	asm volatile("" : "+r"(size));
	size &= 2 * DNS_CAPTURED - 1;
	emit(scratch, sizeof(scratch->event) + size);
}

#ifndef DNS_ANSWERS_ONLY
static __always_inline void dns_report_failure(struct dns_send *send, u32 error, u32 sent)
{
	struct dns_event event = {
		.head.kind = KIND_MESSAGE,
		.socket = (u64)send->sk,
		.flags = DNS_FAILED | DNS_SENT,
		.error = error,
		.sent = sent,
	};

	fill_sock(&event.head, send->sk);
	describe_task(&event.head);
	event.head.ts_ns = send->since;
	emit(&event, sizeof(event));
}

/* sock_send_length(struct sock *sk, int ret, int flags): the outcome of one message. */
int dns_on_sent(struct bpf_raw_tracepoint_args *ctx)
{
	struct sock *sk = (struct sock *)ctx->args[0];
	u32 tid = bpf_get_current_pid_tgid();
	struct dns_send *send = dns_sends.lookup(&tid);
	int ret = ctx->args[1];

	if (!send || send->sk != sk)
		return 0;
	if (ret >= 0 && ++send->sent < send->count)
		return 0;
	if (ret < 0)
		dns_report_failure(send, -ret, send->sent);
	dns_sends.delete(&tid);
	return 0;
}

/* The outcome of a call: an error, or how many messages of several were sent. */
static __always_inline int dns_end_send(long ret)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct dns_send *send = dns_sends.lookup(&tid);

	if (!send)
		return 0;
	if (ret < 0)
		dns_report_failure(send, -ret, 0);
	else if (send->count > 1 && ret < send->count)
		dns_report_failure(send, 0, ret);
	dns_sends.delete(&tid);
	return 0;
}

/* inet_sk_error_report(struct sock *sk): what the socket has sent has failed, as ICMP says. */
int dns_on_error(struct bpf_raw_tracepoint_args *ctx)
{
	struct sock *sk = (struct sock *)ctx->args[0];
	struct dns_event event = {
		.head.kind = KIND_MESSAGE,
		.head.ts_ns = bpf_ktime_get_ns(),
		.socket = (u64)sk,
		.flags = DNS_FAILED,
	};
	u64 pid_tgid = bpf_get_current_pid_tgid();
	u32 tid = pid_tgid;
	struct dns_send *send = dns_sends.lookup(&tid);
	int error = 0;

	if (!dns_remote_port(sk) || !dns_may_ask(sk))
		return 0;
	read(error, &sk->sk_err);
	fill_sock(&event.head, sk);
	if (error <= 0 || !keep_sock(&event.head))
		return 0;
	event.error = error;
	if (send && send->sk == sk) {	/* within its call: loopback answers at once */
		event.head.pid = pid_tgid >> 32;
		event.head.tid = tid;
		event.head.ts_ns = send->since;
		event.sent = send->sent + 1;
	}
	emit(&event, sizeof(event));
	return 0;
}
#endif

#define DNS_ANY_LENGTH 0x7fffffff
