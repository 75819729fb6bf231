// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Who the current process is: its program, its arguments, its parent. Process context.
 *
 * It hooks nothing: describe_task in task.h calls who_is(). Each event of a process carries the
 * same 64 bits, which stand for one process from one execve to the next. What they stand for is
 * sent once, in a record before that of the first event. Where that found no room, nothing is known
 * of the process until its next event.
 *
 * The record is written where the reader will find it, in the ring buffer: tasks can be preempted
 * in the middle of programs, so nothing here may be one CPU's. What a loop needs from one round to
 * the next is kept there, too, where the verifier does not follow it.
 */
#define WHO_ARGS 512
#define WHO_PATH 1024
#define WHO_NAME 256	/* NAME_MAX and a NUL */
#define WHO_NAMES 40

enum who_flag {
	WHO_HAS_ARGS = 1,
	WHO_ARGS_CUT = 2,
	WHO_HAS_EXE = 4,
	WHO_EXE_DELETED = 8,
	/* From bit 16 on, how many arguments execve was given; 0 where that is not known. */
};
#define WHO_ARGC_SHIFT 16

/* class Who in probes/programs.py is the other half. Both spaces are larger than what is used, so
 * that the verifier need not know how the parts add up. */
struct who_event {
	struct event head;
	u32 ppid;
	u32 flags;
	u32 args_length;
	u32 path_length;
	char parent_comm[16];
	char args[2 * WHO_ARGS];	/* NUL-terminated strings */
	char path[WHO_PATH + WHO_NAME];	/* the path's names from the last to the first, alike */
	struct dentry *dentry;
	struct vfsmount *mnt;
};
_Static_assert(sizeof(struct who_event) == SIZE_WHO, "class Who in probes/programs.py differs");

/* By the same 64 bits: whose record was sent. An entry ends when newer ones displace it. */
BPF_TABLE("lru_hash", u64, u8, who_sent, 4096);

static __always_inline u64 who_mixed(u64 value)
{
	value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9ULL;	/* splitmix64 */
	value = (value ^ value >> 27) * 0x94d049bb133111ebULL;
	return value ^ value >> 31;
}

/* What stands for the current process until its next execve, which counts self_exec_id up. A thread
 * that calls execve becomes the leader, with the start time of the former one (de_thread). */
static __always_inline u64 who_digest(struct task_struct *task, u32 pid)
{
	struct task_struct *leader = NULL;
	u64 start = 0, execs = 0;

	read(leader, &task->group_leader);
	read(start, &leader->start_boottime);
	bpf_probe_read_kernel(&execs, sizeof(task->self_exec_id), &task->self_exec_id);
	return who_mixed(who_mixed(who_mixed(start) ^ pid) ^ execs) | 1;
}

/* Up to WHO_ARGS bytes, page by page: a page that is not in memory cannot be read here. */
static __always_inline void who_put_args(struct who_event *event, struct mm_struct *mm)
{
	unsigned long start = 0, end = 0;
	u64 size, first;

	read(start, &mm->arg_start);
	read(end, &mm->arg_end);
	if (!start || end <= start)
		return;
	size = end - start;
	if (size > WHO_ARGS) {
		size = WHO_ARGS;
		event->flags |= WHO_ARGS_CUT;
	}
	first = PAGE_SIZE - (start & (PAGE_SIZE - 1));
	if (first > size)
		first = size;
	FORGET(first);
	first &= 2 * WHO_ARGS - 1;
	if (bpf_probe_read_user(event->args, first, (void *)start))
		return;
	event->flags |= WHO_HAS_ARGS;
	event->args_length = first;
	size -= first;
	FORGET(size);
	size &= WHO_ARGS - 1;
	if (!size)
		return;
	if (bpf_probe_read_user(event->args + (first & (WHO_ARGS - 1)), size, (void *)(start + first)))
		event->flags |= WHO_ARGS_CUT;
	else
		event->args_length += size;
}

/* The kernel puts their number where the stack begins (create_elf_tables in fs/binfmt_elf.c). */
static __always_inline void who_put_argc(struct who_event *event, struct mm_struct *mm)
{
	unsigned long stack = 0;
	u32 argc = 0;

	read(stack, &mm->start_stack);
	if (!bpf_probe_read_user(&argc, sizeof(argc), (void *)stack) && argc <= WHO_ARGS)
		event->flags |= argc << WHO_ARGC_SHIFT;
}

/* One step towards the root: a name, or from a mount's root to where it is mounted. False at the
 * end, which is the root of the mount namespace, or of a file that has no directory (memfd). */
static __always_inline bool who_put_name(struct who_event *event)
{
	struct dentry *dentry = event->dentry, *root = NULL, *parent = NULL;
	struct vfsmount *mnt = event->mnt;
	struct mount *mount = (void *)mnt - offsetof(struct mount, mnt), *above = NULL;
	const unsigned char *name = NULL;
	u32 at = event->path_length;
	long length;

	read(root, &mnt->mnt_root);
	if (dentry == root) {
		read(above, &mount->mnt_parent);
		read(event->dentry, &mount->mnt_mountpoint);
		event->mnt = &above->mnt;
		return above && above != mount;
	}
	if (at >= WHO_PATH)
		return false;
	FORGET(at);
	at &= WHO_PATH - 1;
	read(parent, &dentry->d_parent);
	read(name, &dentry->d_name.name);
	length = bpf_probe_read_kernel_str(event->path + at, WHO_NAME, name);
	if (length < 1)
		return false;
	event->path_length = at + length;
	event->dentry = parent;
	return parent != dentry;
}

static __always_inline void who_put_exe(struct who_event *event, struct mm_struct *mm)
{
	struct hlist_bl_node **pprev = NULL;
	struct file *file = NULL;
	int names = 0;

	read(file, &mm->exe_file);
	if (!file)
		return;
	read(event->dentry, &file->f_path.dentry);
	read(event->mnt, &file->f_path.mnt);
	read(pprev, &event->dentry->d_hash.pprev);
	if (!pprev)	/* d_unlinked in include/linux/dcache.h */
		event->flags |= WHO_EXE_DELETED;
	for (; names < WHO_NAMES; names++)
		if (!who_put_name(event))
			break;
	if (names < WHO_NAMES && event->path_length <= WHO_PATH)
		event->flags |= WHO_HAS_EXE;
}

static __always_inline void who_put_parent(struct who_event *event, struct task_struct *task)
{
	struct task_struct *parent = NULL;
	u32 ppid = 0;

	read(parent, &task->real_parent);
	read(ppid, &parent->tgid);
	event->ppid = ppid;
	read(event->parent_comm, parent->comm);
}

static __always_inline u64 who_is(struct event *head)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	u64 digest = who_digest(task, head->pid);
	struct mm_struct *mm = NULL;
	struct who_event *event;
	u8 sent = 1;

	if (who_sent.lookup(&digest))
		return digest;
	event = events.ringbuf_reserve(sizeof(*event));
	if (!event)
		return digest;
	event->head = *head;
	event->head.kind = KIND_WHO;
	event->head.who = digest;
	event->flags = event->args_length = event->path_length = 0;
	who_put_parent(event, task);
	read(mm, &task->mm);
	if (mm) {
		who_put_args(event, mm);
		who_put_argc(event, mm);
		who_put_exe(event, mm);
		who_sent.update(&digest, &sent);
	}
	events.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return digest;
}
