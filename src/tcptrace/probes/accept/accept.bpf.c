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
struct accept_event {
	struct event head;
	u32 backlog;
	u32 backlog_max;
	s32 error;	/* negative errno; 0 for a connection */
	u32 link;	/* which interface the socket is bound to; 0 for any */
};
_Static_assert(sizeof(struct accept_event) == SIZE_ACCEPT, "probes/accept/probe.py: Accept differs");

/* Length and limit of the listener's accept queue. */
static __always_inline void fill_backlog(struct accept_event *event, struct sock *listener)
{
	listener = tcp_of(listener);
	if (!listener)
		return;
	read(event->backlog, &listener->sk_ack_backlog);
	read(event->backlog_max, &listener->sk_max_ack_backlog);
}

#ifndef TRACER	/* tracer.bpf.c, which then comes before this file, has its own */
static __always_inline bool keep_accepted(struct event *head, struct sock *sk)
{
	return keep_port(head->lport) && fill_task(head);
}

static __always_inline void after_accept(struct sock *sk)
{
}
#endif

/* One accept that ended, with the connection's socket, or with the listener's and an error. */
static __always_inline void accepted(struct sock *sk, struct sock *listener, s32 error)
{
	struct accept_event event = {
		.head.kind = KIND_ACCEPT,
		.backlog = ABSENT,
		.backlog_max = ABSENT,
		.error = error,
	};

	if (!is_tcp(sk))
		return;
	fill_sock(&event.head, sk);
	if (!keep_sock(&event.head))
		return;
	event.link = link_of(sk);
	if (keep_accepted(&event.head, sk)) {
		if (listener)
			fill_backlog(&event, listener);
		emit(&event, sizeof(event));
	}
	after_accept(sk);
}

#ifdef HOOK_INET_ACCEPT
/* __inet_accept(struct socket *sock, struct socket *newsock, struct sock *newsk) */
int enter_inet_accept(hook_ctx *ctx)
{
	struct socket *sock = ARG1(ctx);
	struct sock *listener = NULL;

	read(listener, &sock->sk);
	accepted(ARG3(ctx), listener, 0);
	return 0;
}
#endif

#ifdef HOOK_SOCK_GRAFT
BPF_TABLE("lru_hash", u32, struct sock *, accepting, 16384);

/* inet_csk_accept(struct sock *sk, ...) */
int enter_inet_csk_accept(hook_ctx *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct sock *listener = ARG1(ctx);

	accepting.update(&tid, &listener);
	return 0;
}

/* security_sock_graft(struct sock *sk, struct socket *parent); MPTCP also grafts subflows, which
 * are not the parent's own socket. */
int enter_sock_graft(hook_ctx *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct sock **listener = accepting.lookup(&tid);
	struct socket *parent = ARG2(ctx);
	struct sock *sk = NULL;

	read(sk, &parent->sk);
	if (sk == ARG1(ctx))
		accepted(sk, listener ? *listener : NULL, 0);
	return 0;
}
#endif

#ifdef HOOK_ACCEPT_SYSCALLS
BPF_TABLE("lru_hash", u32, s32, accepting_fd, 16384);

int enter_accept_syscall(syscall_enter *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	s32 fd = ctx->args[0];

	accepting_fd.update(&tid, &fd);
	return 0;
}

/* EAGAIN and the kernel's own "restart the call" codes are no failures. */
static __always_inline bool is_failure(long ret)
{
	return ret < 0 && ret != -EAGAIN && ret > -ERESTARTSYS;
}

int exit_accept_syscall(syscall_exit *ctx)
{
	long ret = ctx->ret;
	u32 tid = bpf_get_current_pid_tgid();
	s32 *fd = accepting_fd.lookup(&tid);
	struct sock *listener = fd ? fd_sock(*fd) : NULL, *sk;

	if (fd)
		accepting_fd.delete(&tid);
#ifdef FAILED
	if (is_failure(ret) && listener)
		accepted(listener, listener, ret);
#endif
#ifdef HOOK_TRACEPOINT
	sk = fd_sock(ret);
	if (sk)
		accepted(sk, listener, 0);
#endif
	return 0;
}
#endif
