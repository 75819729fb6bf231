// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Keeps the processes that are followed: an entry is made when one of them forks, in the process
 * that does, before the child runs; and goes when the child's last thread ends. Not at
 * sched_process_free: 6.18 does not call it for every process.
 */

/* sched_process_fork(struct task_struct *parent, struct task_struct *child) */
int on_follow_fork(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *parent = (void *)ctx->args[0], *child = (void *)ctx->args[1];
	u32 parent_pid = 0, pid = 0;
	u8 value = 1;

	read(parent_pid, &parent->tgid);
	read(pid, &child->tgid);
	if (pid != parent_pid && is_followed(parent_pid) && followed.update(&pid, &value))
		count(COUNT_UNTRACKED);
	return 0;
}

/* sched_process_exit(struct task_struct *task, …), for each thread; do_exit has counted it down. */
int on_follow_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)ctx->args[0];
	struct signal_struct *signal = NULL;
	int live = 0;
	u32 pid = 0;

	read(signal, &task->signal);
	read(live, &signal->live);
	read(pid, &task->tgid);
	if (!live)
		followed.delete(&pid);
	return 0;
}
