// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* What is known of the current task. Process context. */

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

#ifdef WHO
static __always_inline u64 who_is(struct event *head);	/* who.bpf.c */
#endif

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
#ifdef WHO
	event->who = who_is(event);
#endif
}
