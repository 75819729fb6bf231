// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The kernel's types, how its memory is read, and the values of a run. Nothing in tcptrace's C
 * dereferences a kernel pointer.
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

/* Read the kernel's memory; what cannot be read is 0. */
#ifdef READ_FUNCTION
/* Where the verifier lets programs load from any address, the kernel catching faults, that takes a
 * tenth of the helper's time. What says so to it is bpf_rdonly_cast(address, 0), of which only a
 * move remains in the program. sources/bpf/compile.py makes such a call of this one, and
 * kernel/reading.py tries whether it is permitted. */
static const void *(*readable)(const void *from, u32 type) = (void *)READ_FUNCTION;

/* bcc would make a call of the helper of a load that it sees. */
#define LOAD(bits)                                                                                 \
	static __always_inline u##bits load_u##bits(const void *from)                              \
	{                                                                                          \
		u64 value;                                                                         \
		asm volatile("%0 = *(u" #bits " *)(%1 + 0)"                                        \
			     : "=r"(value)                                                         \
			     : "r"(readable(from, 0)));                                            \
		return value;                                                                      \
	}
LOAD(8)
LOAD(16)
LOAD(32)
LOAD(64)

/* Into words of ours, of which the last one may be filled by what lies behind. */
static __always_inline void read_words(u64 *to, u32 size, const void *from)
{
	for (int i = 0; i < (size + 7) / 8; i++)
		to[i] = load_u64(from + 8 * i);
}

#define LOADED(size, from)                                                                         \
	((size) == 8 ? load_u64(from) :                                                            \
	 (size) == 4 ? load_u32(from) :                                                            \
	 (size) == 2 ? load_u16(from) :                                                            \
		       load_u8(from))
#define IS_LOADED(size) ((size) == 8 || (size) == 4 || (size) == 2 || (size) == 1)

/* Not a function: what is known of the place's alignment would be lost, and each byte be stored. */
#define read(to, from)                                                                             \
	({                                                                                         \
		const void *from_ = (const void *)(from);                                          \
		u64 value_;                                                                        \
		if (IS_LOADED(sizeof(to))) {                                                       \
			value_ = LOADED(sizeof(to), from_);                                        \
			__builtin_memcpy(&(to), &value_, IS_LOADED(sizeof(to)) ? sizeof(to) : 0);  \
		} else {                                                                           \
			bpf_probe_read_kernel(&(to), sizeof(to), from_);                           \
		}                                                                                  \
	})
#else
#define read(to, from) bpf_probe_read_kernel(&(to), sizeof(to), (const void *)(from))
#define read_words bpf_probe_read_kernel
#endif
