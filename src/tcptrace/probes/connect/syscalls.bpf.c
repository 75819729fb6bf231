// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Calls to connect by tracepoints alone: entry and exit of the system call, and sched_switch for one
 * that sleeps in it; process context.
 */
#ifdef HOOK_TRACEPOINT
/* include/uapi/linux/net.h */
#define SS_UNCONNECTED 1

#define CONNECT_CUT 0xffff	/* in place of a family that needs more bytes than there are */

static __always_inline void connect_read_address(struct connect_address *to, void *from, s32 length)
{
	bool is_short = length < sizeof(*to);

	bpf_probe_read_user(to, is_short ? CONNECT_IPV4_LENGTH : sizeof(*to), from);
	if (to->family == AF_INET6 ? is_short : to->family && length < CONNECT_IPV4_LENGTH)
		to->family = CONNECT_CUT;
}

/* connect(int fd, struct sockaddr *uaddr, int addrlen). A second call for a connection that is
 * being made, or is there, is no attempt. */
int connect_enter_syscall(syscall_enter *ctx)
{
	s32 fd = ctx->args[0];
	void *to = (void *)ctx->args[1];
	s32 length = ctx->args[2];
	u32 tid = bpf_get_current_pid_tgid();
	struct socket *sock = fd_socket(fd);
	struct sock *sk = NULL;
	struct connect_call call = {};
	u32 state = 0;

	if (!sock)
		return 0;
	read(state, &sock->state);
	read(sk, &sock->sk);
	if (state != SS_UNCONNECTED || !sk || !is_tcp(sk))
		return 0;
	connect_start_call(&call, sk);
	connect_read_address(&call.to, to, length);
	if (call.to.family)
		connect_calls.update(&tid, &call);
	return 0;
}

/* Threads that were preempted while they began an attempt, and how many: mostly none, so that the
 * many switches of others cost one look. */
BPF_HASH(interrupted, u32, struct sock *, 1024);
BPF_ARRAY(interruptions, u64, 1);

static __always_inline void connect_count_interrupted(s64 change)
{
	u32 zero = 0;
	u64 *number = interruptions.lookup(&zero);

	if (number)
		__sync_fetch_and_add(number, change);
}

static __always_inline void connect_forget_interrupted(u32 tid)
{
	if (interrupted.lookup(&tid) && !interrupted.delete(&tid))
		connect_count_interrupted(-1);
}

static __always_inline bool connect_is_failure(long ret)
{
	return ret < 0 && ret > -ERESTARTSYS && ret != -EINPROGRESS && ret != -EINTR &&
	       ret != -EALREADY && ret != -EISCONN;
}

int connect_exit_syscall(syscall_exit *ctx)
{
	long ret = ctx->ret;
	u32 tid = bpf_get_current_pid_tgid();
	struct connect_call *found = connect_calls.lookup(&tid), call;

	if (!found)
		return 0;
	call = *found;
	/* What was launched and is not waiting any more has been reported. */
	if (connect_is_failure(ret) && (!call.launched || connect_find(call.tcp)))
		connect_failed(&call, ret);
	else
		connect_launched(call.tcp);
	connect_calls.delete(&tid);
	connect_forget_interrupted(tid);
	return 0;
}

/* sched_switch(bool preempt, prev, next): the current task is still the one that is switched out.
 * One that sleeps in its call has sent its SYN; one that is preempted may not even have a port. */
int connect_on_switch(struct bpf_raw_tracepoint_args *ctx)
{
	u32 tid = bpf_get_current_pid_tgid(), zero = 0;
	bool preempted = ctx->args[0];
	struct connect_beginning *beginning = beginnings.lookup(&zero);
	struct sock *sk = NULL, **found;
	u64 *number;

	if (beginning && beginning->sk) {
		if (beginning->tid == tid)
			sk = beginning->sk;
		beginning->sk = NULL;
		if (sk && preempted && !interrupted.update(&tid, &sk))
			connect_count_interrupted(1);
	} else if (!preempted) {
		number = interruptions.lookup(&zero);
		if (!number || !*number)
			return 0;
		found = interrupted.lookup(&tid);
		if (found)
			sk = *found;
		connect_forget_interrupted(tid);
	}
	if (sk && !preempted)
		connect_launched(sk);
	return 0;
}
#endif
