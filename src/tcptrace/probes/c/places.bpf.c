// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Tells of each cgroup that is made, before a process can be in it. So its path is known where it
 * is gone within milliseconds, and its names are looked up at once.
 */

/* class Made in probes/places.py is the other half. */
struct place_event {
	struct event head;
	char path[PLACE_PATH];
};
_Static_assert(sizeof(struct place_event) == SIZE_MADE, "class Made in probes/places.py differs");

/* cgroup_mkdir(struct cgroup *cgrp, const char *path); of all hierarchies. That of cgroup v2 is the
 * kernel's first, and the path is from its root. */
int on_cgroup_made(struct bpf_raw_tracepoint_args *ctx)
{
	struct cgroup *cgroup = (struct cgroup *)ctx->args[0];
	struct cgroup_root *root = NULL;
	struct kernfs_node *node = NULL;
	struct place_event *event;
	int hierarchy = -1;
	u64 id = 0;

	read(root, &cgroup->root);
	read(hierarchy, &root->hierarchy_id);
	if (hierarchy)
		return 0;
	event = events.ringbuf_reserve(sizeof(*event));
	if (!event) {
		count(COUNT_LOST);
		return 0;
	}
	__builtin_memset(&event->head, 0, sizeof(event->head));
	read(node, &cgroup->kn);
	read(id, &node->id);
	event->head.kind = KIND_MADE;
	event->head.ts_ns = bpf_ktime_get_ns();
	event->head.cgroup_id = id;
	event->path[0] = 0;
	bpf_probe_read_kernel_str(event->path, sizeof(event->path), (void *)ctx->args[1]);
	events.ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	wake_reader();
	return 0;
}
