// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * What every probe stands on: the ring buffer, the head of every event, the filters.
 *
 * The source that is compiled is this file and then one or more probes' own. Defines select the
 * hooks (HOOK_*) and the filters (KEEP_*, DROP_*, *MAP); model/filters.py writes the latter. Nothing
 * here dereferences a kernel pointer: all goes through bpf_probe_read_kernel.
 */
#include <linux/cgroup.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <linux/sched.h>
#include <linux/fdtable.h>
#include <linux/fs.h>
#include <linux/net.h>
#include <linux/nsproxy.h>
#include <linux/tcp.h>
#include <net/inet_sock.h>
#include <net/net_namespace.h>
#include <net/sock.h>

#define ABSENT ((u32)-1)

#ifdef HAVE_BTF
typedef struct trace_event_raw_sys_enter syscall_enter;
typedef struct trace_event_raw_sys_exit syscall_exit;
#else
/* As tracefs tells, in the files "format" of its events/syscalls. */
typedef struct {
	u64 common;
	long id;
	unsigned long args[6];
} syscall_enter;
typedef struct {
	u64 common;
	long id;
	long ret;
} syscall_exit;
#if IS_ENABLED(CONFIG_IPV6)
#define HAVE_IPV6
#endif
#define HAVE_TCP_WSTAMP
#endif

/* A value of the run, such as a port. What is compiled is a marked constant, which the loader
 * replaces in the instructions (sources/bpf/programs.py); the compiler is not to know it. */
#define VALUE(number)                                                              \
	({                                                                         \
		u64 marked_;                                                       \
		asm("%0 = %1 ll" : "=r"(marked_) : "i"(VALUE_MARK + (number)));    \
		marked_;                                                           \
	})

BPF_RINGBUF_OUTPUT(events, 1);	/* as large as the run wants it */

enum counter {
	COUNT_LOST,	/* no room in the ring buffer */
	COUNT_UNTRACKED,	/* no room in a probe's own map */
	COUNT_SELF_TEST,	/* events in the loader's own network namespace */
	COUNT_STOOD_IN,	/* runs of a stand-in */
	COUNTERS,
};
BPF_F_TABLE("array", u32, u64, counters, COUNTERS, BPF_F_MMAPABLE);

/* struct Event in model/events.py is the other half. */
struct event {
	u64 ts_ns;
	u64 cgroup_id;
	u32 kind;
	u32 pid;
	u32 tid;
	u32 uid;
	u32 netns;
	u32 mntns;
	u8 laddr[16];
	u8 raddr[16];
	u16 lport;
	u16 rport;
	u16 family;	/* 4 or 6 */
	u16 reserved;
	char comm[16];
};

#define read(to, from) bpf_probe_read_kernel(&(to), sizeof(to), (const void *)(from))

#ifdef HOOK_FENTRY
typedef u64 hook_ctx;
#define ARG1(ctx) ((void *)(ctx)[0])
#define ARG2(ctx) ((void *)(ctx)[1])
#define ARG3(ctx) ((void *)(ctx)[2])
#else
typedef struct pt_regs hook_ctx;
#define ARG1(ctx) ((void *)PT_REGS_PARM1(ctx))
#define ARG2(ctx) ((void *)PT_REGS_PARM2(ctx))
#define ARG3(ctx) ((void *)PT_REGS_PARM3(ctx))
#endif

static __always_inline void count(u32 which)
{
	u64 *counter = counters.lookup(&which);

	if (counter)
		__sync_fetch_and_add(counter, 1);
}

/* The kernel skips a program where the same one is under way on the same CPU, as in a softirq that
 * has interrupted it. So a function that runs in softirq context, too, is loaded twice: as a program
 * and as its stand-in, which the kernel calls behind it, and which does the work that was skipped.
 * STANDS_IN tells the function as which it runs. */
enum under_way { STATE_PROGRAM, DESTROYED_PROGRAM, PROGRAMS };
BPF_PERCPU_ARRAY(under_way, u32, PROGRAMS);

static __always_inline void set_under_way(u32 program, u32 value)
{
	u32 *flag = under_way.lookup(&program);

	if (flag)
		*(volatile u32 *)flag = value;
	asm volatile("" ::: "memory");
}

static __always_inline bool was_skipped(u32 program)
{
	u32 *flag = under_way.lookup(&program);

	if (!flag || !*flag)
		return false;
	count(COUNT_STOOD_IN);
	return true;
}

/* Whether there is work to do. */
static __always_inline bool enter_program(u32 program)
{
	if (STANDS_IN)
		return was_skipped(program);
	set_under_way(program, true);
	return true;
}

static __always_inline void leave_program(u32 program)
{
	if (!STANDS_IN)
		set_under_way(program, false);
}

/* The reader looks every few milliseconds, so no event need wake it: that would cost the traced
 * process more than the event itself. */
static __always_inline void emit(void *event, u64 size)
{
	if (events.ringbuf_output(event, size, BPF_RB_NO_WAKEUP))
		count(COUNT_LOST);
}

/* Filters. X is an inclusive range of one value, E a single value, Y a name as two words, P a process
 * by its id and when it began: the id is given to another process once it has ended. */

#define X(low, high) || (value >= (low) && value <= (high))
#define E(one) || value == (one)
#define Y(first, second) || (word[0] == (first) && word[1] == (second))
#define P(id, began) || (value == (id) && task_began() == (began))
#define ANY || true
#define NONE

#ifndef KEEP_PID
#define KEEP_PID ANY
#endif
#ifndef DROP_PID
#define DROP_PID NONE
#endif
#ifndef KEEP_UID
#define KEEP_UID ANY
#endif
#ifndef DROP_UID
#define DROP_UID NONE
#endif
#ifndef KEEP_PORT
#define KEEP_PORT ANY
#endif
#ifndef DROP_PORT
#define DROP_PORT NONE
#endif
#ifndef KEEP_COMM
#define KEEP_COMM ANY
#endif
#ifndef KEEP_NETNS
#define KEEP_NETNS ANY
#endif

#define TICK_NS 10000000	/* of /proc, for any HZ: NSEC_PER_SEC / USER_HZ */

/* When the current process began, in clock ticks since boot, as in /proc/PID/stat. */
static __always_inline u64 task_began(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task(), *leader = NULL;
	u64 ns = 0;

	read(leader, &task->group_leader);
	read(ns, &leader->start_boottime);
	return ns / TICK_NS;
}

/* A long list is a table: a trie from prefixes of a value to a verdict, which model/tables.py makes
 * and the loader fills in before anything is attached. Nothing is added or removed later. */
#define TABLE(name, key) BPF_F_TABLE("lpm_trie", struct key, u64, name, 1, BPF_F_NO_PREALLOC)

struct number_key {
	u32 bits;
	__be32 value;
};

struct id_key {
	u32 bits;
	__be32 high, low;
};

struct name_key {
	u32 bits;
	char value[16];
};

#ifdef PID_TABLE
TABLE(pid_table, number_key);
#endif
#ifdef UID_TABLE
TABLE(uid_table, number_key);
#endif
#ifdef PORT_TABLE
TABLE(port_table, number_key);
#endif
#ifdef COMM_TABLE
TABLE(comm_table, name_key);
#endif
#ifdef NETNS_TABLE
TABLE(netns_table, number_key);
#endif
#ifdef CGROUP_TABLE
TABLE(cgroup_table, id_key);
#endif

/* A verdict: bits, both of which can be set, and then the value is dropped. That on a process has
 * behind it the verdict on others that have its id, and when the process began. */
#define KEPT 1
#define DROPPED 2
#define VERDICT 3
#define OTHER_SHIFT 2
#define BEGAN_SHIFT 8

/* Of the current process, or 0. */
static __always_inline bool keep_pid(u32 value)
{
#ifdef PID_TABLE
	struct number_key key = { .bits = 32, .value = bpf_htonl(value) };
	u64 *found = pid_table.lookup(&key), verdict = found ? *found : 0;

	if (verdict >> BEGAN_SHIFT && verdict >> BEGAN_SHIFT != task_began())
		verdict >>= OTHER_SHIFT;
	return (verdict & VERDICT) == KEPT;
#else
	return (0 KEEP_PID) && !(0 DROP_PID);
#endif
}

static __always_inline bool keep_uid(u32 value)
{
#ifdef UID_TABLE
	struct number_key key = { .bits = 32, .value = bpf_htonl(value) };
	u64 *found = uid_table.lookup(&key);

	return found && *found == KEPT;
#else
	return (0 KEEP_UID) && !(0 DROP_UID);
#endif
}

static __always_inline u32 port_verdict(u16 port)
{
#ifdef PORT_TABLE
	struct number_key key = { .bits = 32, .value = bpf_htonl(port) };
	u64 *found = port_table.lookup(&key);

	return found ? *found : 0;
#else
	u32 value = port;

	return ((0 KEEP_PORT) ? KEPT : 0) | ((0 DROP_PORT) ? DROPPED : 0);
#endif
}

static __always_inline bool keep_port(u16 port)
{
	return port_verdict(port) == KEPT;
}

/* For probes that match either end: one port is to be kept, and none to be dropped. */
static __always_inline bool keep_either_port(u16 lport, u16 rport)
{
	return (port_verdict(lport) | port_verdict(rport)) == KEPT;
}

static __always_inline bool keep_comm(const char *comm)
{
#ifdef COMM_TABLE
	struct name_key key = { .bits = 8 * sizeof(key.value) };

	__builtin_memcpy(key.value, comm, sizeof(key.value));
	return comm_table.lookup(&key) != NULL;
#else
	const u64 *word = (const u64 *)comm;

	return 0 KEEP_COMM;
#endif
}

static __always_inline bool keep_netns(u32 value)
{
#ifdef NETNS_TABLE
	struct number_key key = { .bits = 32, .value = bpf_htonl(value) };

	return netns_table.lookup(&key) != NULL;
#else
	return 0 KEEP_NETNS;
#endif
}

static __always_inline bool keep_family(u16 family)
{
#ifdef KEEP_FAMILY
	return family == KEEP_FAMILY;
#endif
	return true;
}

#if defined(KEEP_CGROUP) || defined(CGROUP_TABLE)
#define FILTER_CGROUP

static __always_inline bool is_kept_cgroup(u64 value)
{
#ifdef CGROUP_TABLE
	struct id_key key = {
		.bits = 64,
		.high = bpf_htonl(value >> 32),
		.low = bpf_htonl(value),
	};

	return cgroup_table.lookup(&key) != NULL;
#else
	return 0 KEEP_CGROUP;
#endif
}

/* Whether the current task is in one of the cgroups or below: a walk towards the root, so that a
 * child cgroup made while tracing is followed at once. cgroup.self comes first in struct cgroup. */
static __always_inline bool keep_cgroup(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct css_set *set = NULL;
	struct cgroup *cgroup = NULL;
	struct kernfs_node *node;
	u64 value;

	read(set, &task->cgroups);
	read(cgroup, &set->dfl_cgrp);
	for (int depth = 0; depth < 32 && cgroup; depth++) {
		node = NULL;
		value = 0;
		read(node, &cgroup->kn);
		read(value, &node->id);
		if (is_kept_cgroup(value))
			return true;
		read(cgroup, &cgroup->self.parent);
	}
	return false;
}
#else
static __always_inline bool keep_cgroup(void)
{
	return true;
}
#endif

/* The loader takes pinned maps in place of these; sources/bpf/load.py checks their sizes. */
#ifdef CGROUPMAP
BPF_TABLE("hash", u64, u64, cgroupmap, 1);
#endif

static __always_inline bool keep_cgroupmap(u64 cgroup_id)
{
#ifdef CGROUPMAP
	return cgroupmap.lookup(&cgroup_id) != NULL;
#endif
	return true;
}

#ifdef MNTNSMAP
BPF_TABLE("hash", u64, u32, mntnsmap, 1);
#endif

static __always_inline bool keep_mntnsmap(u64 mntns)
{
#ifdef MNTNSMAP
	return mntnsmap.lookup(&mntns) != NULL;
#endif
	return true;
}

/* The current task's mount namespace; 0 where there is none, as late in exit. */
static __always_inline u32 current_mntns(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct nsproxy *nsproxy = NULL;
	u32 inum = 0;
#ifdef HAVE_MNT_NAMESPACE
	struct mnt_namespace *mnt_ns = NULL;

	read(nsproxy, &task->nsproxy);
	if (!nsproxy)
		return 0;
	read(mnt_ns, &nsproxy->mnt_ns);
	read(inum, &mnt_ns->ns.inum);
#endif
	return inum;
}

/* Fill what concerns the current task. Process context. */
static __always_inline void describe_task(struct event *event)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();

	event->ts_ns = bpf_ktime_get_ns();
	event->pid = pid_tgid >> 32;
	event->tid = pid_tgid;
	event->uid = bpf_get_current_uid_gid();
	event->cgroup_id = bpf_get_current_cgroup_id();
	event->mntns = current_mntns();
	bpf_get_current_comm(event->comm, sizeof(event->comm));
}

/* Whether the current task, which the event describes, passes the filters. */
static __always_inline bool keep_task(struct event *event)
{
	return keep_pid(event->pid) && keep_uid(event->uid) && keep_comm(event->comm) &&
	       keep_cgroup() && keep_cgroupmap(event->cgroup_id) && keep_mntnsmap(event->mntns);
}

/* Both; false drops the event. */
static __always_inline bool fill_task(struct event *event)
{
	describe_task(event);
	return keep_task(event);
}

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
		bpf_probe_read_kernel(event->laddr, 4, &sk->__sk_common.skc_rcv_saddr);
	} else if (is_ipv4_mapped(event->laddr) && is_unspecified(event->raddr)) {
		unmap(event->laddr);
	} else {
		return;
	}
	event->family = 4;
}

/* Whether sk is TCP, or an MPTCP connection, over IPv4 or IPv6. */
static __always_inline bool is_tcp(struct sock *sk)
{
	u16 family = 0, protocol = 0;

	read(family, &sk->__sk_common.skc_family);
	read(protocol, &sk->sk_protocol);
	return (family == AF_INET || family == AF_INET6) &&
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

/* Whether the kernel has added sk to an MPTCP connection, which is followed by its first subflow. */
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

/* How many segments a TCP socket has sent. With TCP_FASTOPEN_CONNECT the state is SYN_SENT from
 * connect(2) on, and the SYN leaves with the first write. */
static __always_inline u32 segments_sent(struct sock *sk)
{
	u32 sent = 0;

	read(sent, &((struct tcp_sock *)sk)->segs_out);
	return sent;
}

/* When the SYN left, of an attempt that reached SYN_SENT at `begun`, and where its state changed at
 * `now`. The socket has the time of its last segment. If that is not the first one, the stamp of the
 * first tells, which counts milliseconds (or microseconds: tcp_usec_ts): exact enough where the SYN
 * was put off, and where it was not, `begun` is better. */
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

/* Fill both ends and the network namespace of a TCP socket. The local port is inet_sport: skc_num
 * is 0 before a connect has found a port, and once a connection has been reset. */
static __always_inline void fill_sock(struct event *event, struct sock *sk)
{
	struct net *net = NULL;
	u16 family = 0, port = 0;

	read(family, &sk->__sk_common.skc_family);
	if (family == AF_INET) {
		event->family = 4;
		bpf_probe_read_kernel(event->laddr, 4, &sk->__sk_common.skc_rcv_saddr);
		bpf_probe_read_kernel(event->raddr, 4, &sk->__sk_common.skc_daddr);
	}
#ifdef HAVE_IPV6
	if (family == AF_INET6) {
		event->family = 6;
		read(event->laddr, &sk->__sk_common.skc_v6_rcv_saddr);
		read(event->raddr, &sk->__sk_common.skc_v6_daddr);
		unmap_ipv4(event, sk);
	}
#endif
	read(port, &((struct inet_sock *)sk)->inet_sport);
	event->lport = bpf_ntohs(port);
	read(port, &sk->__sk_common.skc_dport);
	event->rport = bpf_ntohs(port);
	read(net, &sk->__sk_common.skc_net.net);
	read(event->netns, &net->ns.inum);
}

/* The index of the network interface that a socket is bound to; 0 for any. */
static __always_inline u32 link_of(struct sock *sk)
{
	u32 link = 0;

	read(link, &sk->__sk_common.skc_bound_dev_if);
	return link;
}

/* Whether the socket passes the filters; its ports are for the probe to judge. */
static __always_inline bool keep_sock(struct event *event)
{
	if (event->netns == SELF_TEST_NETNS) {
		count(COUNT_SELF_TEST);
		return false;
	}
	return keep_family(event->family) && keep_netns(event->netns);
}

/* The socket behind a descriptor of the current process, or NULL. */
static __always_inline struct socket *fd_socket(s32 fd)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct files_struct *files = NULL;
	struct fdtable *table = NULL;
	struct file **fds = NULL, *file = NULL, *back = NULL;
	struct inode *inode = NULL;
	struct socket *sock = NULL;
	unsigned int max_fds = 0;
	umode_t mode = 0;

	read(files, &task->files);
	read(table, &files->fdt);
	read(max_fds, &table->max_fds);
	if (fd < 0 || fd >= max_fds)
		return NULL;
	read(fds, &table->fd);
	read(file, &fds[fd]);
	read(inode, &file->f_inode);
	read(mode, &inode->i_mode);
	if ((mode & S_IFMT) != S_IFSOCK)
		return NULL;
	read(sock, &file->private_data);
	read(back, &sock->file);
	return file && back == file ? sock : NULL;
}

/* The TCP socket behind a descriptor of the current process, or NULL. */
static __always_inline struct sock *fd_sock(s32 fd)
{
	struct socket *sock = fd_socket(fd);
	struct sock *sk = NULL;

	if (sock)
		read(sk, &sock->sk);
	return sk && is_tcp(sk) ? sk : NULL;
}
