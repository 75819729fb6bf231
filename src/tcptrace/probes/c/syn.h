// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* When the SYN of an attempt to connect left, if it has. */

/* How many segments a TCP socket has sent. With TCP_FASTOPEN_CONNECT the state is SYN_SENT from
 * connect(2) on, and the SYN leaves with the first write. */
static __always_inline u32 segments_sent(struct sock *sk)
{
	u32 sent = 0;

	read(sent, &((struct tcp_sock *)sk)->segs_out);
	return sent;
}

/* When the SYN left, of an attempt that reached SYN_SENT at `begun`, and where its state changed at
 * `now`. The socket has the time of its last segment. If that is not the first one, the stamp of
 * the first tells, which counts milliseconds (or microseconds: tcp_usec_ts): exact enough where the
 * SYN was put off, and where it was not, `begun` is better. */
static __always_inline u64 syn_left(struct sock *sk, u64 begun, u64 now, bool is_answered)
{
	struct tcp_sock *tcp = (struct tcp_sock *)sk;
	u32 again = 0, stamp = 0;
	u64 left = 0, age;

	read(again, &tcp->total_retrans);
	read(stamp, &tcp->retrans_stamp);
#ifdef HAVE_TCP_WSTAMP
	read(left, &tcp->tcp_wstamp_ns);
	if (is_answered && !again && left > begun && left <= now)
		return left;
#endif
	age = (u32)((u32)(now / 1000000) - stamp) * 1000000ULL;
	if (age > now - begun + 2000000)
		age = (u32)((u32)(now / 1000) - stamp) * 1000ULL;
	return stamp && now - age > begun + 2000000 ? now - age : begun;
}
