// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Connections: when a connect established one, when a server accepted one, and when each ended.
 *
 * The raw tracepoint inet_sock_set_state tells all but the accepts, which are accept.bpf.c's:
 *   CLOSE -> SYN_SENT          in process context: the connecting task is kept, by socket
 *   SYN_SENT -> ESTABLISHED    in process or softirq context: reported with that task; also from
 *                              SYN_RECV, where both ends connected to each other
 *   SYN_RECV -> ESTABLISHED    of a child in an accept queue: kept, for its time, without a task
 *   -> FIN_WAIT1, LAST_ACK     what sent the FIN is kept, where that is a process
 *   -> CLOSE                   reported, with the counters as they are in the end
 * tcp_destroy_sock ends what has been reset in an accept queue and was never accepted.
 * So a connection that no process ever had, refused, aborted or never accepted, is not reported.
 */
struct tracer_connect {
	struct event head;
	u64 latency_ns;	/* from the SYN */
	u32 iss, irs;	/* initial sequence numbers: ours, the peer's */
	u32 link;	/* which interface the socket is bound to; 0 for any */
	u32 reserved;
};
_Static_assert(sizeof(struct tracer_connect) == SIZE_CONNECTED, "tracer/records.py differs");

/* Flags, and who ended a connection: TRACER_*, from probes/tracer/probe.py.
 *   TRACER_BY_OWNER	the closer is not known: the task is the owner
 *   TRACER_OLDER	the connection was open before the trace began
 *   TRACER_PASSED	the filters let it pass
 *   TRACER_BY_OPENER	they let the process pass that connected or accepted
 *   TRACER_BY_CLOSER	they let the one pass that closed it
 *   TRACER_ASKED	whether they did or not, the command wants it
 */
struct tracer_close {
	struct event head;
	u64 duration_ns;	/* 0 where it is not known */
	u64 tx_bytes;
	u64 rx_bytes;
	u32 retransmits;
	u32 ended_by;	/* TRACER_LOCAL, TRACER_REMOTE or TRACER_RESET */
	s32 error;	/* negative errno */
	u32 flags;
	u32 iss, irs;	/* as at the beginning; 0 if that was before the trace */
	u32 link;	/* which interface the socket is bound to; 0 for any */
	u32 reserved;
	u64 opened_in;	/* cgroup of the process that connected or accepted; 0 if not known */
};
_Static_assert(sizeof(struct tracer_close) == SIZE_CLOSED, "tracer/records.py differs");

enum stage { CONNECTING, QUEUED, OPEN };

/* The task is the owner, which connected or accepted; later the closer, where that is known. The
 * user remains the owner. */
struct tracer_connection {
	struct event head;
	u64 since_ns;	/* SYN_SENT, later ESTABLISHED; 0 if that was before the trace */
	u32 iss, irs;	/* initial sequence numbers: ours, the peer's */
	u8 stage;
	bool keep;	/* the owner has passed the filters */
	bool keep_closer;	/* the closer has */
	bool closed;	/* the closer is known */
	bool older;
	bool connected;	/* by this end */
	bool followed;	/* it is one of `connections` */
	u64 accepts, ends;	/* changed atomically; see after_accept */
	u64 opened_in;	/* the owner's cgroup */
};

#define MOST_UNDECIDED 16384

/* Connections that the filters keep, until they end. */
BPF_HASH(connections, struct sock *, struct tracer_connection, 65536);	/* or --max-connections */
/* Others, of which something may show yet: those that wait in an accept queue, whose port is not
 * known, or whose owner the filters drop, but perhaps not their closer. Whoever is dropped can make
 * any number of them, so that the one that was used least recently has to go; what is not known
 * then is when it began. */
BPF_TABLE("lru_hash", struct sock *, struct tracer_connection, undecided, MOST_UNDECIDED);

#define PF_KTHREAD 0x00200000	/* include/linux/sched.h */
#define SOCK_DONE 1	/* enum sock_flags in include/net/sock.h: a FIN was received */

static __always_inline bool tracer_is_kernel_thread(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	unsigned int flags = 0;

	read(flags, &task->flags);
	return flags & PF_KTHREAD;
}

/* Fill what concerns the socket; false drops the connection. What the loader connects to test the
 * accept hooks is not to be counted as an accept. */
static __always_inline bool tracer_fill_ends(struct event *head, struct sock *sk)
{
	fill_sock(head, sk);
	return head->netns != SELF_TEST_NETNS && keep_sock(head) && !is_added_subflow(sk);
}

static __always_inline struct tracer_connection *tracer_find(struct sock *sk)
{
	struct tracer_connection *found = connections.lookup(&sk);

	return found ? found : undecided.lookup(&sk);
}

/* To look first costs less than to delete what is not there, as mostly. */
static __always_inline void tracer_forget_undecided(struct sock *sk)
{
	if (undecided.lookup(&sk))
		undecided.delete(&sk);
}

static __always_inline void tracer_forget(struct sock *sk)
{
	if (connections.lookup(&sk))
		connections.delete(&sk);
	tracer_forget_undecided(sk);
}

/* Follow a connection to its end, which the filters keep; false where there is no room. */
static __always_inline bool tracer_follow(struct sock *sk, struct tracer_connection *connection)
{
	connection->followed = true;
	if (!connections.update(&sk, connection))
		return true;
	count(COUNT_UNTRACKED);
	connection->followed = false;
	return false;
}

/* Remember what may be followed later. */
static __always_inline void tracer_remember(struct sock *sk, struct tracer_connection *connection)
{
	undecided.update(&sk, connection);
}

/* Whether the filters let the owner pass; what they say of its cgroup may have come later. */
static __always_inline bool tracer_keeps_owner(struct tracer_connection *connection)
{
	return connection->keep && keep_place(connection->opened_in);
}

static __always_inline bool tracer_keeps_closer(struct tracer_connection *connection)
{
	return connection->keep_closer && keep_place(connection->head.cgroup_id);
}

static __always_inline bool tracer_passes(struct tracer_connection *connection)
{
	return tracer_keeps_owner(connection) || tracer_keeps_closer(connection) ||
	       (!connection->head.pid && keep_without_task(&connection->head));
}

/* Whether the end of a connection is to be shown, or with TRACER_EXISTING the command is to decide.
 * */
static __always_inline bool tracer_is_kept(struct tracer_connection *connection)
{
#ifdef TRACER_EXISTING	/* the command knows who had the older ones */
	if (connection->older)
		return true;
#endif
	return tracer_passes(connection);
}

/* CLOSE -> SYN_SENT. The local port may not be known yet. */
static __always_inline void tracer_connecting(struct sock *sk)
{
	struct tracer_connection connection = { .stage = CONNECTING, .connected = true };
	struct event *head = &connection.head;
	bool is_kept;

	tracer_forget(sk);
	if (!tracer_fill_ends(head, sk))
		return;
	is_kept = keep_ports(head->lport ? head->lport : head->rport, head->rport);
	if (head->lport && !is_kept)
		return;
	connection.keep = fill_task(head);
	connection.opened_in = head->cgroup_id;
	connection.since_ns = head->ts_ns;
	if (connection.keep && is_kept)
		tracer_follow(sk, &connection);
	else
		tracer_remember(sk, &connection);
}

static __always_inline void tracer_fill_owner_uid(struct event *head, struct sock *sk)
{
	read(head->uid, &sk->sk_uid);
}

static __always_inline void tracer_report_connect(struct tracer_connection *connection,
						  struct sock *sk, u64 now, u64 latency_ns)
{
	struct tracer_connect event = {
		.head = connection->head,
		.latency_ns = latency_ns,
		.link = link_of(sk),
	};

	fill_initial(&event.iss, &event.irs, sk, true);
	connection->iss = event.iss;
	connection->irs = event.irs;

	event.head.kind = KIND_CONNECTED;
	event.head.ts_ns = now;
	emit(&event, sizeof(event));
}

/* SYN_SENT, or SYN_RECV where both ends connected to each other, -> ESTABLISHED. */
static __always_inline void tracer_connected(struct sock *sk, struct tracer_connection *found,
					     u16 lport, int from)
{
	u64 now = bpf_ktime_get_ns();
	u64 latency_ns = now - syn_left(sk, found->since_ns, now, from == TCP_SYN_SENT);

	found->since_ns = now;
	found->stage = OPEN;
	found->head.lport = lport;
	if (!found->keep)
		return;
	tracer_report_connect(found, sk, now, latency_ns);
	if (!found->followed && tracer_follow(sk, found))
		undecided.delete(&sk);
}

static __always_inline void tracer_established(struct sock *sk, int from)
{
	struct tracer_connection *found = tracer_find(sk), fresh = { .stage = QUEUED };
	u64 now = bpf_ktime_get_ns();

	if (found && found->stage != CONNECTING) {	/* accepted before the handshake ended */
		if (!found->since_ns)
			found->since_ns = now;
		return;
	}
	if (!tracer_fill_ends(&fresh.head, sk) ||
	    !keep_ports(fresh.head.lport, fresh.head.rport)) {
		tracer_forget(sk);
	} else if (found) {
		tracer_connected(sk, found, fresh.head.lport, from);
	} else if (from == TCP_SYN_SENT) {	/* connecting since before the trace */
		tracer_fill_owner_uid(&fresh.head, sk);
		if (keep_without_task(&fresh.head))
			tracer_report_connect(&fresh, sk, now, 0);
	} else {
		fresh.since_ns = now;
		tracer_remember(sk, &fresh);
	}
}

/* accept.bpf.c: a task has taken `sk` from the accept queue. Where it is followed from now on, its
 * end may be counted where it waited; see after_accept. */
static __always_inline void tracer_accepting(struct event *head, u32 iss, u32 irs,
					     struct sock *sk)
{
	struct tracer_connection *waiting, connection = { .stage = QUEUED };

	sk = tcp_of(sk);
	if (!sk || head->netns == SELF_TEST_NETNS || !keep_sock(head) ||
	    !keep_ports(head->lport, head->rport))
		return;
	connection.keep = keep_task(head);
	connection.opened_in = head->cgroup_id;
	connection.head = *head;
	connection.iss = iss;
	connection.irs = irs;
	waiting = undecided.lookup(&sk);
	if (waiting)
		connection.since_ns = waiting->since_ns;
	if (connection.keep) {
		tracer_follow(sk, &connection);
	} else if (waiting) {
		waiting->head = connection.head;
		waiting->iss = iss;
		waiting->irs = irs;
	} else {
		tracer_remember(sk, &connection);
	}
}

/* Whether a connection's end is at hand: what sends a FIN, or the last of it. */
static __always_inline bool tracer_is_end(int state)
{
	return state == TCP_FIN_WAIT1 || state == TCP_LAST_ACK || state == TCP_CLOSE;
}

static __always_inline bool tracer_is_established(int state)
{
	return state == TCP_ESTABLISHED || state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2 ||
	       state == TCP_CLOSE_WAIT || state == TCP_LAST_ACK || state == TCP_CLOSING;
}

/* Whether a process has sk open, or the current one is about to let go of it. */
static __always_inline bool tracer_is_had(struct sock *sk)
{
	struct socket *socket = NULL;
	int owned = 0;

	read(socket, &sk->sk_socket);
	read(owned, &sk->sk_lock.owned);
	return socket || owned;
}

/* A connection that was open before the trace began is still unknown when it ends: follow it from
 * now on, if a process has it. `whole` is the connection; of MPTCP `sk` is its first subflow. */
static __always_inline void tracer_follow_older(struct sock *sk, struct sock *whole, int from)
{
	struct tracer_connection connection = { .stage = OPEN, .older = true };

	if (!sk || !tracer_is_established(from) || tracer_find(sk))
		return;
	if (!tracer_is_had(whole) || !tracer_fill_ends(&connection.head, sk) ||
	    !keep_ports(connection.head.lport, connection.head.rport))
		return;
	tracer_fill_owner_uid(&connection.head, sk);
	tracer_remember(sk, &connection);
}

/* The current task closes its end, if it is a task: one that holds the socket's lock. What came
 * from the peer can also be worked off while a task holds it; that leaves an error behind, or it
 * comes after our own FIN. */
static __always_inline void tracer_closing(struct tracer_connection *connection, struct sock *sk,
					   int from, int to)
{
	u32 uid = connection->head.uid, mntns = connection->head.mntns;
	int owned = 0, error = 0;

	read(owned, &sk->sk_lock.owned);
	read(error, &sk->sk_err);
	if (!owned || tracer_is_kernel_thread())
		return;
	if (to == TCP_CLOSE &&
	    (error || (from != TCP_ESTABLISHED && from != TCP_CLOSE_WAIT && from != TCP_SYN_RECV)))
		return;
	describe_task(&connection->head);
	connection->head.uid = uid;
	if (!connection->head.mntns)	/* late in exit */
		connection->head.mntns = mntns;
	connection->keep_closer |= keep_task(&connection->head);
	connection->closed = true;
}

/* Who ended it: the first to send a FIN or a reset; a reset also when it cut off a connection that
 * a process still had. tcp_reset in net/ipv4/tcp_input.c sets the errors. */
static __always_inline u32 tracer_who_ended(struct sock *sk, int from, int error)
{
	struct socket *socket = NULL;

	read(socket, &sk->sk_socket);
	if ((error == ECONNRESET || error == EPIPE) && (socket || from == TCP_CLOSE))
		return TRACER_RESET;
	return from == TCP_CLOSE_WAIT || from == TCP_LAST_ACK ? TRACER_REMOTE : TRACER_LOCAL;
}

/* Whether our FIN has been sent: it was queued in these states, as the last of all. */
static __always_inline bool tracer_has_sent_fin(struct tcp_sock *tcp, int from)
{
	u32 next = 0, last = 0;

	read(next, &tcp->snd_nxt);
	read(last, &tcp->write_seq);
	return next == last && (from == TCP_FIN_WAIT1 || from == TCP_FIN_WAIT2 ||
				from == TCP_CLOSING || from == TCP_LAST_ACK);
}

/* Payload that was sent, each byte once. bytes_sent also has what was sent again, less
 * bytes_retrans, and what never left since a queue or a filter of this host has refused it, which
 * the kernel then sends as new. bytes_acked has one for the SYN where this end has connected, which
 * is not known of what is older than the trace, and one for the FIN. */
static __always_inline u64 tracer_sent(struct tcp_sock *tcp, bool has_connected, int from)
{
	u64 sent = 0, again = 0, acked = 0;
	u32 next = 0, first = 0;

	read(sent, &tcp->bytes_sent);
	read(again, &tcp->bytes_retrans);
	read(acked, &tcp->bytes_acked);
	read(next, &tcp->snd_nxt);
	read(first, &tcp->snd_una);
	sent -= again;
	acked += (u32)(next - first);
	acked -= has_connected + tracer_has_sent_fin(tcp, from);
	return acked < sent ? acked : sent;
}

/* bytes_received has one for the FIN (tcp_fin). */
static __always_inline void tracer_fill_counters(struct tracer_close *event, struct sock *sk,
						 bool has_connected, int from)
{
	struct tcp_sock *tcp = (struct tcp_sock *)sk;
	unsigned long flags = 0;

	event->tx_bytes = tracer_sent(tcp, has_connected, from);
	read(event->rx_bytes, &tcp->bytes_received);
	read(flags, &sk->__sk_common.skc_flags);
	if (event->rx_bytes && flags & 1 << SOCK_DONE)
		event->rx_bytes--;
	read(event->retransmits, &tcp->total_retrans);
}

/* Whether this is the first to forget a connection. The deletion also fails, with EBUSY, where it
 * interrupts another of the map's on this CPU; the entry then goes with the socket. */
static __always_inline bool tracer_is_first_to_forget(struct sock *sk, bool followed)
{
	if (!followed)
		return undecided.delete(&sk) != -ENOENT;
	tracer_forget_undecided(sk);	/* where it waited to be accepted */
	return connections.delete(&sk) != -ENOENT;
}

static __always_inline void tracer_closed(struct sock *sk, struct tracer_connection *connection,
					  int from)
{
	struct tracer_close event = {
		.head = connection->head,
		.iss = connection->iss,
		.irs = connection->irs,
		.link = link_of(sk),
		.opened_in = connection->opened_in,
	};
	bool keep = tracer_is_kept(connection), open = connection->stage == OPEN;
	bool has_connected = connection->connected;
	int error = 0;

	event.head.kind = KIND_CLOSED;
	event.head.ts_ns = bpf_ktime_get_ns();
	if (connection->since_ns)
		event.duration_ns = event.head.ts_ns - connection->since_ns;
	if (!connection->closed && event.head.pid)
		event.flags |= TRACER_BY_OWNER;
	if (connection->older)
		event.flags |= TRACER_OLDER;
#ifdef TRACER_EXISTING
	if (connection->older)
		event.flags |= TRACER_ASKED;
#endif
	if (tracer_passes(connection))
		event.flags |= TRACER_PASSED;
	if (tracer_keeps_owner(connection))
		event.flags |= TRACER_BY_OPENER;
	if (tracer_keeps_closer(connection))
		event.flags |= TRACER_BY_CLOSER;
	if (!tracer_is_first_to_forget(sk, connection->followed) || !open || !keep)
		return;
	read(error, &sk->sk_err);
	event.error = -error;
	event.ended_by = tracer_who_ended(sk, from, error);
	tracer_fill_counters(&event, sk, has_connected, from);
	emit(&event, sizeof(event));
}

/* accept.bpf.c: the accept has been reported, if it was to be. A connection that was reset while it
 * waited has ended already, or is about to on another CPU: that one counts the end and then looks
 * whether it was accepted, here it is the other way round, and an atomic addition is a barrier. So
 * one of the two reports the end; if both try, the first to delete the entry. */
static __always_inline void tracer_accepted(struct sock *sk)
{
	struct tracer_connection *found, *waiting;
	u8 state = 0;

	sk = tcp_of(sk);
	found = tracer_find(sk);
	if (!found)
		return;
	found->stage = OPEN;
	__sync_fetch_and_add(&found->accepts, 1);
	waiting = undecided.lookup(&sk);
	read(state, &sk->__sk_common.skc_state);
	if (found->ends || (waiting && waiting->ends) || state == TCP_CLOSE)
		tracer_closed(sk, found, TCP_CLOSE);
}

/* A followed connection, or its subflow, has ended. */
static __always_inline void tracer_ended(struct sock *sk, struct tracer_connection *found, int from)
{
	struct tracer_connection *accepted;

	__sync_fetch_and_add(&found->ends, 1);
	if (!found->followed) {
		accepted = connections.lookup(&sk);	/* just now */
		if (accepted) {
			found = accepted;
			__sync_fetch_and_add(&found->ends, 1);
		}
	}
	if (*(volatile u8 *)&found->stage != QUEUED)
		tracer_closed(sk, found, from);
}

/* tcp_destroy_sock(struct sock *sk): what ended in an accept queue and was never taken from it. */
static __always_inline void tracer_destroyed(struct bpf_raw_tracepoint_args *ctx)
{
	tracer_forget((struct sock *)ctx->args[0]);
}

int tracer_on_destroyed(struct bpf_raw_tracepoint_args *ctx)
{
	if (enter_program(TRACER_DESTROYED)) {
		tracer_destroyed(ctx);
		leave_program(TRACER_DESTROYED);
	}
	return 0;
}

/* inet_sock_set_state(const struct sock *sk, int oldstate, int newstate). Of an MPTCP connection,
 * the first subflow counts; but a process closes the whole, and the kernel then the subflows. */
static __always_inline void tracer_state(struct sock *sk, int from, int to)
{
	struct tracer_connection *found;
	u16 protocol = 0;
	struct sock *tcp;

	read(protocol, &sk->sk_protocol);
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP)
		return;
	if (tracer_is_end(to)) {
		tcp = tcp_of(sk);
		tracer_follow_older(tcp, sk, from);
		found = tracer_find(tcp);
		if (found) {
			tracer_closing(found, sk, from, to);
			if (sk == tcp && to == TCP_CLOSE)
				tracer_ended(sk, found, from);
			else if (!found->followed && found->stage == OPEN &&
				 tracer_is_kept(found) && tracer_follow(tcp, found))
				undecided.delete(&tcp);
		}
	} else if (protocol == IPPROTO_TCP && to == TCP_SYN_SENT) {
		tracer_connecting(sk);
	} else if (protocol == IPPROTO_TCP && to == TCP_ESTABLISHED) {
		tracer_established(sk, from);
	}
}

int tracer_on_state(struct bpf_raw_tracepoint_args *ctx)
{
	int from = ctx->args[1], to = ctx->args[2];
	bool counts = to == TCP_SYN_SENT || to == TCP_ESTABLISHED || tracer_is_end(to);

	if (counts && from != TCP_LISTEN && enter_program(TRACER_STATE)) {
		tracer_state((struct sock *)ctx->args[0], from, to);
		leave_program(TRACER_STATE);
	}
	return 0;
}
