// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Attempts to connect (active opens), in the connecting process; with CONNECT_OUTCOME, how they
 * ended.
 *
 * An attempt begins with the transition CLOSE -> SYN_SENT, in process context, when the socket may
 * have no port yet. Filters are applied there, and the event waits in `attempts`. It is reported
 *   - when the port is known and the SYN has left (`connect_launched`): at the return of
 *     tcp_v4_connect or tcp_v6_connect with fentry and kprobe; with tracepoint at the return of
 *     connect(2), or when the process sleeps in it; or at the transition out of SYN_SENT, which can
 *     come first, in softirq context; or when the SYN is sent again, where the first write sent it
 *     (TCP_FASTOPEN_CONNECT) and nobody answers;
 *   - with CONNECT_OUTCOME, at that transition only; with CONNECT_FAILED_ONLY, too, only where it
 *     came to nothing.
 * If no SYN has left by then, there was no attempt.
 *
 * What fails inside the host is reported with its error at the same returns (`connect_failed`); it
 * may never have reached SYN_SENT. Of MPTCP, the first subflow makes the attempt; the call is for
 * the whole connection.
 */
struct connect_event {
	struct event head;
	u64 latency_ns;	/* with CONNECT_OUTCOME, from the SYN to the end */
	u32 iss, irs;	/* with it, initial sequence numbers: ours, the peer's */
	s32 error;	/* negative errno */
	u32 end;	/* 0, CONNECT_ESTABLISHED or CONNECT_CLOSED */
	u32 retransmits;	/* of the SYN */
	u32 reserved;
};
_Static_assert(sizeof(struct connect_event) == SIZE_CONNECT, "connect/records.py: Connect differs");

/* A socket address; sockaddr_in and sockaddr_in6 share the first two fields. */
struct connect_address {
	u16 family;
	__be16 port;
	u8 bytes[20];	/* IPv4: 4 of address; IPv6: 4 of flow label, 16 of address */
};

#define CONNECT_IPV4_LENGTH 16	/* of an address of IPv4 */

struct connect_attempt {
	struct connect_event event;
	u32 sent_before;	/* segments */
};

/* Attempts that were not reported yet: for microseconds, or with CONNECT_OUTCOME until they end. */
#ifdef CONNECT_OUTCOME
#define ATTEMPTS 65536
#else
#define ATTEMPTS 4096
#endif
BPF_HASH(attempts, struct sock *, struct connect_attempt, ATTEMPTS);

#ifndef CONNECT_OUTCOME
/* Attempts whose call has returned before the SYN left. A process can leave any number of sockets
 * so: they take no place from others, and the one that was used least recently is forgotten. */
BPF_TABLE("lru_hash", struct sock *, struct connect_attempt, put_off, 16384);
#endif

static __always_inline struct connect_attempt *connect_find(struct sock *sk)
{
	struct connect_attempt *found = attempts.lookup(&sk);

#ifndef CONNECT_OUTCOME
	if (!found)
		found = put_off.lookup(&sk);
#endif
	return found;
}

static __always_inline void connect_forget(struct sock *sk)
{
	attempts.delete(&sk);
#ifndef CONNECT_OUTCOME
	put_off.delete(&sk);
#endif
}

/* A call to connect that has not returned, by thread. */
struct connect_call {
	struct sock *sk;
	struct sock *tcp;	/* what makes the attempt; of MPTCP unknown until SYN_SENT */
	bool launched;	/* SYN_SENT was reached in it */
	struct connect_address to;
};
BPF_TABLE("lru_hash", u32, struct connect_call, connect_calls, 16384);

#ifdef CONNECT_COUNTS
struct connect_count_key {	/* probes/connect/counts.py: COUNT_KEY */
	u8 laddr[16];
	u8 raddr[16];
	u16 lport;	/* 0 unless CONNECT_COUNT_LPORT */
	u16 rport;
	u32 family;
};
_Static_assert(sizeof(struct connect_count_key) == SIZE_COUNT_KEY, "COUNT_KEY differs");
BPF_HASH(counts, struct connect_count_key, u64, 65536);

static __always_inline void connect_report(struct connect_event *event)
{
	struct connect_count_key key = {
		.rport = event->head.rport,
		.family = event->head.family,
	};
	u64 none = 0, *number;

	if (!keep_place(event->head.cgroup_id))
		return;
	if (is_open_place(event->head.cgroup_id)) {	/* whether to count it is not known */
		emit(event, sizeof(*event));
		return;
	}
#ifdef CONNECT_COUNT_LPORT
	key.lport = event->head.lport;
#endif
	__builtin_memcpy(key.laddr, event->head.laddr, sizeof(key.laddr));
	__builtin_memcpy(key.raddr, event->head.raddr, sizeof(key.raddr));
	number = counts.lookup(&key);
	if (!number) {
		counts.insert(&key, &none);	/* unless another processor has, just now */
		number = counts.lookup(&key);
	}
	if (number)
		__sync_fetch_and_add(number, 1);
	else
		count(COUNT_UNTRACKED);
}
#else
static __always_inline void connect_report(struct connect_event *event)
{
#ifdef CONNECT_FAILED_ONLY
	if (event->end == CONNECT_ESTABLISHED)
		return;
#endif
#ifdef CONNECT_SLOWER_NS
	if (event->latency_ns < CONNECT_SLOWER_NS)
		return;
#endif
	emit(event, sizeof(*event));
}
#endif

static __always_inline void connect_fill_port(struct event *event, struct sock *sk)
{
	u16 port = 0;

	read(port, &((struct inet_sock *)sk)->inet_sport);
	event->lport = bpf_ntohs(port);
}

/* The remote end as the caller of connect named it; an address of another family names none. */
static __always_inline void connect_fill_remote(struct event *event, struct connect_address *to)
{
	u32 *raddr = (u32 *)event->raddr;

	if (to->family != AF_INET && to->family != AF_INET6)
		return;
	event->rport = bpf_ntohs(to->port);
	if (to->family == AF_INET) {
		event->family = 4;
		__builtin_memcpy(raddr, to->bytes, 4);
		raddr[1] = raddr[2] = raddr[3] = 0;
	} else {
		event->family = 6;
		__builtin_memcpy(raddr, to->bytes + 4, 16);
		if (is_ipv4_mapped(event->raddr)) {
			unmap(event->raddr);
			event->family = 4;
		}
	}
}

/* Begin a call; what has entered SYN_SENT in it is known later. */
static __always_inline void connect_start_call(struct connect_call *call, struct sock *sk)
{
	u16 protocol = 0;

	read(protocol, &sk->sk_protocol);
	call->sk = sk;
	call->tcp = protocol == IPPROTO_MPTCP ? NULL : sk;
}

/* Whether sk makes the attempt of a call, or will be what makes it. */
static __always_inline bool connect_is_of_call(struct connect_call *call, struct sock *sk)
{
	return call && call->tcp == sk;
}

/* The port of an attempt is known, and if its SYN has left, it is reported. */
static __always_inline void connect_launched(struct sock *sk)
{
#ifndef CONNECT_OUTCOME
	struct connect_attempt *waiting = connect_find(sk);
	struct connect_event event;

	if (!waiting)
		return;
	if (segments_sent(sk) == waiting->sent_before) {
		put_off.update(&sk, waiting);
		attempts.delete(&sk);
		return;
	}
	event = waiting->event;
	connect_forget(sk);
	connect_fill_port(&event.head, sk);
	connect_report(&event);
#endif
}

/* An attempt failed inside the host. */
static __always_inline void connect_failed(struct connect_call *call, s32 error)
{
	struct sock *sk = call->tcp ? call->tcp : call->sk;
	struct connect_attempt *waiting = connect_find(sk);
	struct connect_event event = {};

	if (waiting) {
		event = waiting->event;
		if (segments_sent(sk) != waiting->sent_before)
			event.latency_ns = bpf_ktime_get_ns() - event.head.ts_ns;
		connect_forget(sk);
	} else if (is_added_subflow(sk)) {
		return;
	} else {
		event.head.kind = KIND_CONNECT;
		fill_sock(&event.head, sk);
		connect_fill_remote(&event.head, &call->to);
		if (!keep_sock(&event.head) || !keep_ports(event.head.lport, event.head.rport) ||
		    !fill_task(&event.head))
			return;
	}
	event.error = error;
#ifdef CONNECT_OUTCOME
	event.end = CONNECT_CLOSED;
#endif
	connect_report(&event);
}

#ifdef HOOK_TRACEPOINT
/* The thread that runs on this CPU has begun an attempt. It goes on until it sleeps or is
 * preempted; then the port is known. */
struct connect_beginning {
	struct sock *sk;
	u32 tid;
};
BPF_PERCPU_ARRAY(beginnings, struct connect_beginning, 1);

static __always_inline void connect_watch_switch(struct sock *sk, u32 tid)
{
	u32 zero = 0;
	struct connect_beginning *beginning = beginnings.lookup(&zero);

	if (beginning) {
		beginning->sk = sk;
		beginning->tid = tid;
	}
}
#else
static __always_inline void connect_watch_switch(struct sock *sk, u32 tid)
{
}
#endif

/* Whether the ports can pass the filters: before a connect has found one, there is no local port.
 * */
static __always_inline bool connect_keep_remote(struct event *head)
{
	return keep_ports(head->lport ? head->lport : head->rport, head->rport);
}

static __always_inline void connect_begin(struct sock *sk)
{
	struct connect_attempt attempt = { .event.head.kind = KIND_CONNECT };
	struct event *head = &attempt.event.head;
	u32 tid = bpf_get_current_pid_tgid();
	struct connect_call *call = connect_calls.lookup(&tid);

	if (is_added_subflow(sk))
		return;
	if (call && !call->tcp)
		call->tcp = sk;
	if (connect_is_of_call(call, sk))
		call->launched = true;
	fill_sock(head, sk);
	if (!keep_sock(head) || !connect_keep_remote(head) || !fill_task(head))
		return;
	attempt.sent_before = segments_sent(sk);
	if (attempts.update(&sk, &attempt))
		count(COUNT_UNTRACKED);
	connect_watch_switch(sk, tid);
}

/* Fill how an attempt ended, and when it began: when its SYN left. */
static __always_inline void connect_fill_end(struct connect_event *event, struct sock *sk, int from,
					     int to)
{
	u64 now = bpf_ktime_get_ns();
	int error = 0;

	event->head.ts_ns = syn_left(sk, event->head.ts_ns, now, from == TCP_SYN_SENT);
#ifdef CONNECT_OUTCOME
	read(error, &sk->sk_err);
	event->end = to == TCP_CLOSE ? CONNECT_CLOSED : CONNECT_ESTABLISHED;
	event->error = to == TCP_CLOSE ? -error : 0;
	event->latency_ns = now - event->head.ts_ns;
	read(event->retransmits, &((struct tcp_sock *)sk)->total_retrans);
	if (to != TCP_CLOSE)
		fill_initial(&event->iss, &event->irs, sk, true);
#endif
}

/* Out of SYN_SENT: established, or closed with sk_err. Process or softirq context. */
static __always_inline void connect_end(struct sock *sk, int from, int to)
{
	struct connect_attempt *waiting = connect_find(sk);
	u32 tid = bpf_get_current_pid_tgid();
	struct connect_event event;
	bool was_sent;
	int error = 0;

	if (!waiting)
		return;
	read(error, &sk->sk_err);
	/* Closed by the connect call itself: its return tells the error. */
	if (to == TCP_CLOSE && !error && connect_is_of_call(connect_calls.lookup(&tid), sk))
		return;
	was_sent = segments_sent(sk) != waiting->sent_before;
	event = waiting->event;
	connect_forget(sk);
	if (to == TCP_CLOSE && !was_sent)
		return;
	connect_fill_end(&event, sk, from, to);
	connect_fill_port(&event.head, sk);
	if (keep_ports(event.head.lport, event.head.rport))
		connect_report(&event);
}

/* inet_sock_set_state(const struct sock *sk, int oldstate, int newstate) */
static __always_inline void connect_state(struct sock *sk, int from, int to)
{
	u16 protocol = 0;

	read(protocol, &sk->sk_protocol);
	if (protocol != IPPROTO_TCP)
		return;
	if (to == TCP_SYN_SENT)
		connect_begin(sk);
	else
		connect_end(sk, from, to);
}

int connect_on_state(struct bpf_raw_tracepoint_args *ctx)
{
	int from = ctx->args[1], to = ctx->args[2];
	bool begins = to == TCP_SYN_SENT;
	bool ends = (from == TCP_SYN_SENT || from == TCP_SYN_RECV) &&
		    (to == TCP_ESTABLISHED || to == TCP_CLOSE);

	if ((begins || ends) && enter_program(CONNECT_STATE)) {
		connect_state((struct sock *)ctx->args[0], from, to);
		leave_program(CONNECT_STATE);
	}
	return 0;
}

/* tcp_retransmit_skb(const struct sock *sk, ...): with TCP_FASTOPEN_CONNECT no call returns when
 * the SYN has left. */
int connect_on_retransmit(struct bpf_raw_tracepoint_args *ctx)
{
	struct sock *sk = (struct sock *)ctx->args[0];
	struct connect_attempt *waiting = connect_find(sk);

	if (waiting) {
		waiting->event.head.ts_ns = syn_left(sk, waiting->event.head.ts_ns,
						     bpf_ktime_get_ns(), false);
		connect_launched(sk);
	}
	return 0;
}
