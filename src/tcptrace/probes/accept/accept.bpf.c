// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Accepted connections (passive opens), in the accepting process.
 *
 * The hooks lie behind the wait of accept(2), so that a server which slept in it before the trace
 * began is seen:
 *   fentry, kprobe: __inet_accept (the listener is at hand), else security_sock_graft with the
 *                   listener kept from the entry of inet_csk_accept;
 *   tracepoint:     exit of accept and accept4, walking the process's descriptors; and what
 *                   io_uring completes, where its tracepoint tells that.
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

#if defined(ACCEPT_SYSCALLS) && defined(HOOK_TRACEPOINT)
#ifdef HAVE_URING
/* include/uapi/linux/io_uring.h */
#define URING_OP_ACCEPT 13
#define URING_ACCEPT_MULTISHOT 1
#define URING_MORE 2	/* of a completion: more of this request will come */
#define URING_FIXED_FILE 1	/* include/linux/io_uring_types.h */
#define URING_CANCELED 125	/* ECANCELED */

/* Requests that accept again and again. What they complete names them by their ring and by the
 * number that the process has given them. */
struct accept_request {
	u64 ring;
	u64 user_data;
};
BPF_TABLE("lru_hash", struct accept_request, struct sock *, accept_requests, 16384);

/* Whether it accepts, into the process's descriptors. */
static __always_inline bool accept_is_request(struct io_kiocb *request)
{
	u32 slot = 0;
	u8 operation = 0;

	read(operation, &request->opcode);
	if (operation != URING_OP_ACCEPT)
		return false;
	read(slot, &((struct io_accept *)request)->file_slot);
	return !slot;
}

/* The listener of a request, which has its file once it is under way; before that its number. */
static __always_inline struct sock *accept_listener_of(struct io_kiocb *request)
{
	struct file *file = NULL;
	u32 flags = 0;
	s32 fd = -1;

	read(file, &request->file);
	read(flags, &request->flags);
	read(fd, &request->cqe.fd);
	if (file)
		return tcp_sock_of(file_socket(file));
	return flags & URING_FIXED_FILE ? NULL : fd_sock(fd);
}

static __always_inline void accept_requested(struct io_kiocb *request)
{
	struct accept_request key = {};
	struct sock *listener;
	u32 how = 0;

	if (!accept_is_request(request))
		return;
	read(how, &((struct io_accept *)request)->iou_flags);
	if (!(how & URING_ACCEPT_MULTISHOT))
		return;
	read(key.ring, &request->ctx);
	read(key.user_data, &request->cqe.user_data);
	listener = accept_listener_of(request);
	accept_requests.update(&key, &listener);
}

static __always_inline void accept_completed(u64 ring, struct io_kiocb *request,
					     struct io_uring_cqe *completion)
{
	struct accept_request key = { .ring = ring };
	struct sock *listener = NULL, **found, *sk;
	u32 flags = 0;
	s32 result = 0;

	if (request && !accept_is_request(request))
		return;
	read(key.user_data, &completion->user_data);
	found = accept_requests.lookup(&key);
	if (found) {
		listener = *found;
		read(flags, &completion->flags);
		if (!(flags & URING_MORE))
			accept_requests.delete(&key);
	} else if (request) {
		listener = accept_listener_of(request);
	} else {
		return;
	}
	read(result, &completion->res);
#ifdef ACCEPT_FAILED
	if (accept_is_failure(result) && result != -URING_CANCELED && listener)
		accept_report(listener, listener, result);
#endif
	sk = fd_sock(result);
	if (sk)
		accept_report(sk, listener, 0);
}
#endif

/* io_uring_submit_req(struct io_kiocb *req) */
int accept_on_submit(struct bpf_raw_tracepoint_args *ctx)
{
#ifdef HAVE_URING
	accept_requested((struct io_kiocb *)ctx->args[0]);
#endif
	return 0;
}

/* io_uring_task_add(struct io_kiocb *req, int mask): a client has come, so that a request which is
 * older than the trace is known. Any context, and so a program of its own. */
int accept_on_wake(struct bpf_raw_tracepoint_args *ctx)
{
#ifdef HAVE_URING
	accept_requested((struct io_kiocb *)ctx->args[0]);
#endif
	return 0;
}

/* io_uring_complete(struct io_ring_ctx *ctx, void *req, struct io_uring_cqe *cqe): in the task that
 * has asked, before it can know; without a request where that goes on. */
int accept_on_complete(struct bpf_raw_tracepoint_args *ctx)
{
#ifdef HAVE_URING
	accept_completed(ctx->args[0], (struct io_kiocb *)ctx->args[1],
			 (struct io_uring_cqe *)ctx->args[2]);
#endif
	return 0;
}
#endif
