// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Accepted connections (passive opens), in the accepting process.
 *
 * The hooks lie behind the wait of accept(2), so that a server which slept in it before the trace
 * began is seen:
 *   fentry, kprobe: __inet_accept (the listener is at hand), else security_sock_graft with the
 *                   listener kept from the entry of inet_csk_accept;
 *   tracepoint:     exit of accept and accept4, walking the process's descriptors.
 * Failed accepts come from the exit of the system call with every backend.
 */
#if !defined(ACCEPT_INET) && !defined(ACCEPT_GRAFT) && !defined(ACCEPT_SYSCALLS)
#error "no hook that is known: ACCEPT_INET, ACCEPT_GRAFT or ACCEPT_SYSCALLS"
#endif

struct accept_event {
	struct event head;
	u32 backlog;
	u32 backlog_max;
	s32 error;	/* negative errno; 0 for a connection */
	u32 link;	/* which interface the socket is bound to; 0 for any */
	u32 iss, irs;	/* initial sequence numbers: ours, the peer's */
};
_Static_assert(sizeof(struct accept_event) == SIZE_ACCEPT, "accept/probe.py: Accept differs");

/* Length and limit of the listener's accept queue. */
static __always_inline void accept_fill_backlog(struct accept_event *event, struct sock *listener)
{
	listener = tcp_of(listener);
	if (!listener)
		return;
	read(event->backlog, &listener->sk_ack_backlog);
	read(event->backlog_max, &listener->sk_max_ack_backlog);
}

static __always_inline void accept_fill_initial(struct accept_event *event, struct sock *sk)
{
	sk = tcp_of(sk);
	if (sk && !event->error)
		fill_initial(&event->iss, &event->irs, sk, false);
}

#ifdef TRACER	/* tracer.bpf.c: the same connection, before and after its accept is reported */
static __always_inline void tracer_accepting(struct event *head, u32 iss, u32 irs,
					     struct sock *sk);
static __always_inline void tracer_accepted(struct sock *sk);
#else
static __always_inline void tracer_accepting(struct event *head, u32 iss, u32 irs,
					     struct sock *sk)
{
}

static __always_inline void tracer_accepted(struct sock *sk)
{
}
#endif

static __always_inline void accept_forget_remote(struct event *head)
{
	__builtin_memset(head->raddr, 0, sizeof(head->raddr));
	head->rport = 0;
}

/* One accept that ended, with the connection's socket, or with the listener's and an error. */
static __always_inline void accept_report(struct sock *sk, struct sock *listener, s32 error)
{
	struct accept_event event = {
		.head.kind = KIND_ACCEPT,
		.backlog = ABSENT,
		.backlog_max = ABSENT,
		.error = error,
	};

	bool keep;

	if (!is_tcp(sk))
		return;
	fill_sock(&event.head, sk);
	if (error)	/* such as where it is no listener, but connected */
		accept_forget_remote(&event.head);
	keep = keep_sock(&event.head) && keep_ports(event.head.lport, event.head.rport);
#ifndef TRACER	/* which has filters of its own */
	if (!keep)
		return;
#endif
	event.link = link_of(sk);
	accept_fill_initial(&event, sk);
	describe_task(&event.head);
	tracer_accepting(&event.head, event.iss, event.irs, sk);
	if (keep && keep_task(&event.head)) {
		if (listener)
			accept_fill_backlog(&event, listener);
		emit(&event, sizeof(event));
	}
	tracer_accepted(sk);
}

#ifdef ACCEPT_INET
/* __inet_accept(struct socket *sock, struct socket *newsock, struct sock *newsk) */
int accept_enter_inet(hook_ctx *ctx)
{
	struct socket *sock = ARG1(ctx);
	struct sock *listener = NULL;

	read(listener, &sock->sk);
	accept_report(ARG3(ctx), listener, 0);
	return 0;
}
#endif

#ifdef ACCEPT_GRAFT
BPF_TABLE("lru_hash", u32, struct sock *, accepting, 16384);

/* inet_csk_accept(struct sock *sk, ...) */
int accept_enter_csk(hook_ctx *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct sock *listener = ARG1(ctx);

	accepting.update(&tid, &listener);
	return 0;
}

/* security_sock_graft(struct sock *sk, struct socket *parent); MPTCP also grafts subflows, which
 * are not the parent's own socket. */
int accept_enter_graft(hook_ctx *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct sock **listener = accepting.lookup(&tid);
	struct socket *parent = ARG2(ctx);
	struct sock *sk = NULL;

	read(sk, &parent->sk);
	if (sk == ARG1(ctx))
		accept_report(sk, listener ? *listener : NULL, 0);
	return 0;
}
#endif

#ifdef ACCEPT_SYSCALLS
/* The listener of a call, which holds it until it returns; its descriptor may be another's by then.
 * NULL where it is not TCP. */
BPF_TABLE("lru_hash", u32, struct sock *, accept_calls, 16384);

int accept_enter_syscall(syscall_enter *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct sock *listener = fd_sock(ctx->args[0]);

	accept_calls.update(&tid, &listener);
	return 0;
}

/* EAGAIN and the kernel's own "restart the call" codes are no failures. */
static __always_inline bool accept_is_failure(long ret)
{
	return ret < 0 && ret != -EAGAIN && ret > -ERESTARTSYS;
}

int accept_exit_syscall(syscall_exit *ctx)
{
	long ret = ctx->ret;
	u32 tid = bpf_get_current_pid_tgid();
	struct sock **found = accept_calls.lookup(&tid);
	struct sock *listener = found ? *found : NULL, *sk;

	if (found)
		accept_calls.delete(&tid);
#ifdef ACCEPT_FAILED
	if (accept_is_failure(ret) && listener)
		accept_report(listener, listener, ret);
#endif
#ifdef HOOK_TRACEPOINT
	sk = fd_sock(ret);
	if (sk)
		accept_report(sk, listener, 0);
#endif
	return 0;
}
#endif
