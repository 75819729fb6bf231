// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* Programs that do what the kernel has skipped of others. */

/* The kernel skips a program where the same one is under way on the same CPU, as in a softirq that
 * has interrupted it. So a function that runs in softirq context, too, is loaded twice: as a
 * program and as its stand-in, which the kernel calls behind it, and which does the work that was
 * skipped. STANDS_IN tells the function as which it runs. */
enum under_way { CONNECT_STATE, TRACER_STATE, TRACER_DESTROYED, PROGRAMS };
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
