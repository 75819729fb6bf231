// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Calls to connect where functions can be hooked, with fentry and kprobe; process context.
 *
 * tcp_v4_connect(struct sock *sk, struct sockaddr *uaddr, int addr_len), and tcp_v6_connect, which
 * calls it for an IPv4-mapped address: that is one call, the outer one. What is denied before comes
 * from tcp_v4_pre_connect and tcp_v6_pre_connect (BPF of a cgroup), which take the same arguments,
 * and from security_socket_connect(struct socket *sock, ...).
 */
#ifndef HOOK_TRACEPOINT
#ifdef HOOK_FENTRY
#define RETURNED(ctx) ((int)(ctx)[3])
#else
#define RETURNED(ctx) ((int)PT_REGS_RC(ctx))
#endif

#define ANY_FAMILY 0

static __always_inline int connect_enter(struct sock *sk, void *to, u16 family)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct connect_call call = {};
	u16 own_family = 0;

	read(own_family, &sk->__sk_common.skc_family);
	if (own_family != family)
		return 0;
	connect_start_call(&call, sk);
	bpf_probe_read_kernel(&call.to, family == AF_INET ? CONNECT_IPV4_LENGTH : sizeof(call.to), to);
	connect_calls.update(&tid, &call);
	return 0;
}

static __always_inline int connect_exit(int result, u16 family)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct connect_call *found = connect_calls.lookup(&tid), call;
	u16 own_family = 0;

	if (!found)
		return 0;
	call = *found;
	read(own_family, &call.sk->__sk_common.skc_family);
	if (family != ANY_FAMILY && own_family != family)
		return 0;
	if (result < 0)
		connect_failed(&call, result);
	else
		connect_launched(call.tcp);
	connect_calls.delete(&tid);
	return 0;
}

int connect_enter_v4(hook_ctx *ctx)
{
	return connect_enter(ARG1(ctx), ARG2(ctx), AF_INET);
}

int connect_exit_v4(hook_ctx *ctx)
{
	return connect_exit(RETURNED(ctx), AF_INET);
}

/* The TCP socket of a struct socket, or NULL. */
static __always_inline struct sock *connect_sock_of(struct socket *sock)
{
	struct sock *sk = NULL;

	read(sk, &sock->sk);
	return sk && is_tcp(sk) ? sk : NULL;
}

#ifdef HOOK_FENTRY
static __always_inline int connect_denied(struct sock *sk, void *to, int result)
{
	struct connect_call call = {};

	if (!sk || result >= 0)
		return 0;
	connect_start_call(&call, sk);
	bpf_probe_read_kernel(&call.to, sizeof(call.to), to);
	connect_failed(&call, result);
	return 0;
}

int connect_exit_pre(hook_ctx *ctx)
{
	return connect_denied(ARG1(ctx), ARG2(ctx), RETURNED(ctx));
}

int connect_exit_security(hook_ctx *ctx)
{
	return connect_denied(connect_sock_of(ARG1(ctx)), ARG2(ctx), RETURNED(ctx));
}
#else
int connect_enter_security(hook_ctx *ctx)
{
	struct sock *sk = connect_sock_of(ARG1(ctx));
	u16 family = 0;

	if (!sk)
		return 0;
	read(family, &sk->__sk_common.skc_family);
	return connect_enter(sk, ARG2(ctx), family);
}

int connect_exit_security(hook_ctx *ctx)
{
	return connect_exit(RETURNED(ctx), ANY_FAMILY);
}
#endif

int connect_enter_v6(hook_ctx *ctx)
{
	return connect_enter(ARG1(ctx), ARG2(ctx), AF_INET6);
}

int connect_exit_v6(hook_ctx *ctx)
{
	return connect_exit(RETURNED(ctx), AF_INET6);
}
#endif
