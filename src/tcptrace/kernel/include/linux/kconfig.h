/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Stands in for kernel headers, which bcc would want: the running kernel's structs, written from
 * its BTF into the file KERNEL_TYPES, and the few macros and constants that BTF does not hold. bcc includes
 * this file before all others.
 */
#pragma once
#define CONFIG_BPF_SYSCALL 1
#include KERNEL_TYPES
#define __always_inline inline __attribute__((always_inline))
#define true 1
#define false 0
#define NULL ((void *)0)
#define offsetof(type, member) __builtin_offsetof(type, member)
#define ilog2(x) (63 - __builtin_clzll(x))
#define roundup_pow_of_two(n) (1UL << (ilog2((n) - 1) + 1))
#define TASK_COMM_LEN 16
#define AF_INET 2
#define AF_INET6 10
#ifndef IPPROTO_TCP
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#endif
#define IPPROTO_MPTCP 262
#define S_IFMT 0170000
#define S_IFSOCK 0140000

/* include/uapi/asm-generic/errno*.h, include/linux/errno.h */
#define ENOENT 2
#define EINTR 4
#define EAGAIN 11
#define EPIPE 32
#define ECONNRESET 104
#define EISCONN 106
#define EALREADY 114
#define EINPROGRESS 115
#define ERESTARTSYS 512

/* include/net/tcp_states.h */
enum {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT,
	TCP_SYN_RECV,
	TCP_FIN_WAIT1,
	TCP_FIN_WAIT2,
	TCP_TIME_WAIT,
	TCP_CLOSE,
	TCP_CLOSE_WAIT,
	TCP_LAST_ACK,
	TCP_LISTEN,
	TCP_CLOSING,
};
