// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* What a `struct sock` tells: what it is, both ends, the first of MPTCP's subflows. */

static __always_inline bool is_ipv4_mapped(const u8 *addr)
{
	const u32 *word = (const u32 *)addr;

	return !word[0] && !word[1] && word[2] == bpf_htonl(0xffff);
}

static __always_inline bool is_unspecified(const u8 *addr)
{
	const u64 *word = (const u64 *)addr;

	return !word[0] && !word[1];
}

static __always_inline void unmap(u8 *addr)
{
	u32 *word = (u32 *)addr;

	word[0] = word[3];
	word[1] = word[2] = word[3] = 0;
}

/* An IPv4-mapped IPv6 address is IPv4. While it connects, such a socket has its local address in
 * the IPv4 field alone; a listener has no remote address. */
static __always_inline void unmap_ipv4(struct event *event, struct sock *sk)
{
	if (is_ipv4_mapped(event->raddr)) {
		unmap(event->raddr);
		__builtin_memset(event->laddr, 0, sizeof(event->laddr));
		read(*(__be32 *)event->laddr, &sk->__sk_common.skc_rcv_saddr);
	} else if (is_ipv4_mapped(event->laddr) && is_unspecified(event->raddr)) {
		unmap(event->laddr);
	} else {
		return;
	}
	event->family = 4;
}

#define SOCK_RAW 3	/* include/linux/net.h */

/* Whether sk sends packets that its process has made, of whatever protocol it says. */
static __always_inline bool is_raw(struct sock *sk)
{
	u16 type = 0;

	read(type, &sk->sk_type);
	return type == SOCK_RAW;
}

/* Whether sk is TCP, or an MPTCP connection, over IPv4 or IPv6. */
static __always_inline bool is_tcp(struct sock *sk)
{
	u16 family = 0, protocol = 0;

	read(family, &sk->__sk_common.skc_family);
	read(protocol, &sk->sk_protocol);
	return (family == AF_INET || family == AF_INET6) && !is_raw(sk) &&
	       (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP);
}

/* The TCP socket that has the queues and counters of sk: of an MPTCP connection or listener its
 * first subflow, which kernel headers do not tell, else sk itself. */
static __always_inline struct sock *tcp_of(struct sock *sk)
{
	struct sock *first = NULL;
	u16 protocol = 0;

	read(protocol, &sk->sk_protocol);
	if (protocol != IPPROTO_MPTCP)
		return sk;
#ifdef HAVE_MPTCP_SOCK
	read(first, &((struct mptcp_sock *)sk)->first);
#endif
	return first;
}

/* Whether the kernel has added sk to an MPTCP connection, which is followed by its first subflow.
 * */
static __always_inline bool is_added_subflow(struct sock *sk)
{
#ifdef HAVE_MPTCP_SOCK
	struct mptcp_subflow_context *subflow = NULL;
	struct sock *connection = NULL;
	bool is_mptcp = false;

	read(is_mptcp, &((struct tcp_sock *)sk)->is_mptcp);
	if (!is_mptcp)
		return false;
	read(subflow, &((struct inet_connection_sock *)sk)->icsk_ulp_data);
	read(connection, &subflow->conn);
	return connection && tcp_of(connection) != sk;
#endif
	return false;
}

#ifdef HAVE_IPV6
#define SOCK_ENDS (offsetof(struct sock_common, skc_v6_rcv_saddr) + sizeof(struct in6_addr))
#else
#define SOCK_ENDS (offsetof(struct sock_common, skc_net) + sizeof(possible_net_t))
#endif

/* Fill both ends and the network namespace of a TCP socket, which has most of that in one piece. The
 * local port is inet_sport: skc_num is 0 before a connect has found a port, and once a connection
 * has been reset. */
static __always_inline void fill_sock(struct event *event, struct sock *sk)
{
	u64 space[(SOCK_ENDS + 7) / 8] = {};
	struct sock_common *common = (struct sock_common *)space;
	u16 port = 0;

	read_words(space, SOCK_ENDS, &sk->__sk_common);
	if (common->skc_family == AF_INET) {
		event->family = 4;
		__builtin_memcpy(event->laddr, &common->skc_rcv_saddr, 4);
		__builtin_memcpy(event->raddr, &common->skc_daddr, 4);
	}
#ifdef HAVE_IPV6
	if (common->skc_family == AF_INET6) {
		event->family = 6;
		__builtin_memcpy(event->laddr, &common->skc_v6_rcv_saddr, 16);
		__builtin_memcpy(event->raddr, &common->skc_v6_daddr, 16);
		unmap_ipv4(event, sk);
	}
#endif
	read(port, &((struct inet_sock *)sk)->inet_sport);
	event->lport = bpf_ntohs(port);
	event->rport = bpf_ntohs(common->skc_dport);
	read(event->netns, &common->skc_net.net->ns.inum);
}

/* The sequence number of the first byte that the peer has sent, its SYN: all that was received since
 * lies between that and the next one. Data that comes in on another CPU raises both, one after the
 * other. Before anything was read, copied_seq tells whether that was just now; MPTCP takes data out
 * by itself, and then nothing changes if they are read again. */
static __always_inline u32 initial_received(struct tcp_sock *tcp)
{
	u32 next = 0, copied = 0;
	u64 received = 0;

	read(next, &tcp->rcv_nxt);
	read(received, &tcp->bytes_received);
	read(copied, &tcp->copied_seq);
	if (next - (u32)received != copied) {
		read(next, &tcp->rcv_nxt);
		read(received, &tcp->bytes_received);
	}
	return next - (u32)received - 1;
}

/* Fill the initial sequence numbers of both ends (RFC 9293: ISS and IRS), which address translation
 * does not change. bytes_acked counts the SYN where this end has connected. */
static __always_inline void fill_initial(u32 *iss, u32 *irs, struct sock *sk, bool has_connected)
{
	struct tcp_sock *tcp = (struct tcp_sock *)sk;
	u64 acked = 0;
	u32 first = 0;

	read(first, &tcp->snd_una);
	read(acked, &tcp->bytes_acked);
	*iss = first - (u32)acked - !has_connected;
	*irs = initial_received(tcp);
}

/* The index of the network interface that a socket is bound to; 0 for any. */
static __always_inline u32 link_of(struct sock *sk)
{
	u32 link = 0;

	read(link, &sk->__sk_common.skc_bound_dev_if);
	return link;
}
