// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The kernel's types, and the values of a run. Nothing in tcptrace's C dereferences a kernel
 * pointer: all goes through bpf_probe_read_kernel.
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

/* Let the compiler forget what it knows of a number, so that a mask behind it stays in the code: the
 * verifier of 5.10 does not see that two registers hold the same number. */
#define FORGET(number) asm volatile("" : "+r"(number))

#define read(to, from) bpf_probe_read_kernel(&(to), sizeof(to), (const void *)(from))
