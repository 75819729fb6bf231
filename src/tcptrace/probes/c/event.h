// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Events: what all begin with, the buffer that they leave through, and the counters of what did not
 * happen as usual. Their places, COUNT_* and ASLEEP, are sources/counters.py's.
 */

#define ABSENT ((u32)-1)

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
	u64 who;	/* stands for the process until its next execve: who.bpf.c */
};

BPF_RINGBUF_OUTPUT(events, 1);	/* as large as the run wants it */
BPF_F_TABLE("array", u32, u64, counters, COUNTERS, BPF_F_MMAPABLE);

static __always_inline void count(u32 which)
{
	u64 *counter = counters.lookup(&which);

	if (counter)
		__sync_fetch_and_add(counter, 1);
}

/* Wake the reader if it sleeps. It says so before it looks a last time: an event is either seen then
 * or comes after, and sees the flag, since the kernel's commit of an event is a barrier. Nothing can
 * be woken without a record; one that was given up is none. */
static __always_inline void wake_reader(void)
{
	u32 which = ASLEEP;
	u64 *asleep = counters.lookup(&which);
	void *nothing;

	if (!asleep || !*(volatile u64 *)asleep)
		return;
	*asleep = 0;
	nothing = events.ringbuf_reserve(8);
	if (nothing)
		events.ringbuf_discard(nothing, BPF_RB_FORCE_WAKEUP);
}

/* The reader looks every few milliseconds while events come, so they need not wake it: that would
 * cost the traced process more than the event itself. */
static __always_inline void emit(void *event, u64 size)
{
	if (events.ringbuf_output(event, size, BPF_RB_NO_WAKEUP))
		count(COUNT_LOST);
	wake_reader();
}
