// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * The filters of one probe, PROBE, as predicates. What was asked for is in defines, KEEP_*, DROP_*,
 * *_TABLE and *MAP, which are for this text alone: it is there again for the next probe.
 */

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

/* Of the current process, or 0. */
static __always_inline bool keep_pid(u32 value)
{
#ifdef PID_TABLE
	struct number_key key = { .bits = 32, .value = bpf_htonl(value) };
	u64 *found = find_pid(&key), verdict = found ? *found : 0;

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
	u64 *found = find_uid(&key);

	return found && *found == KEPT;
#else
	return (0 KEEP_UID) && !(0 DROP_UID);
#endif
}

static __always_inline u32 port_verdict(u16 port)
{
#ifdef PORT_TABLE
	struct number_key key = { .bits = 32, .value = bpf_htonl(port) };
	u64 *found = find_port(&key);

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

/* Of the ports that the probe is about, which PORT_FIELDS has, one is to be kept, and none to be
 * dropped. */
static __always_inline bool keep_ports(u16 lport, u16 rport)
{
	u32 local = PORT_FIELDS & LOCAL_PORT ? port_verdict(lport) : 0;
	u32 remote = PORT_FIELDS & REMOTE_PORT ? port_verdict(rport) : 0;

	return (local | remote) == KEPT;
}

static __always_inline bool keep_comm(const char *comm)
{
#ifdef COMM_TABLE
	struct name_key key = { .bits = 8 * sizeof(key.value) };

	__builtin_memcpy(key.value, comm, sizeof(key.value));
	return find_comm(&key) != NULL;
#else
	const u64 *word = (const u64 *)comm;

	return 0 KEEP_COMM;
#endif
}

static __always_inline bool keep_netns(u32 value)
{
#ifdef NETNS_TABLE
	struct number_key key = { .bits = 32, .value = bpf_htonl(value) };

	return find_netns(&key) != NULL;
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
static __always_inline bool is_kept_cgroup(u64 value)
{
#ifdef CGROUP_TABLE
	struct id_key key = {
		.bits = 64,
		.high = bpf_htonl(value >> 32),
		.low = bpf_htonl(value),
	};

	return find_cgroup(&key) != NULL;
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

static __always_inline bool keep_cgroupmap(u64 cgroup_id)
{
#ifdef CGROUPMAP
	return cgroupmap.lookup(&cgroup_id) != NULL;
#endif
	return true;
}

static __always_inline bool keep_mntnsmap(u64 mntns)
{
#ifdef MNTNSMAP
	return mntnsmap.lookup(&mntns) != NULL;
#endif
	return true;
}

/* By unit, container and pod: whether a cgroup's processes may be wanted. */
static __always_inline bool keep_place(u64 cgroup_id)
{
#ifdef KEEP_PLACES
	return place_verdict(cgroup_id) != PLACE_DROPPED;
#endif
	return true;
}

/* Whether user space has yet to judge a cgroup. */
static __always_inline bool is_open_place(u64 cgroup_id)
{
#ifdef KEEP_PLACES
	return place_verdict(cgroup_id) == PLACE_OPEN;
#endif
	return false;
}

/* Whether the current task, which the event describes, passes the filters. */
static __always_inline bool keep_task(struct event *event)
{
	return is_followed(event->pid) && keep_pid(event->pid) && keep_uid(event->uid) &&
	       keep_comm(event->comm) && keep_cgroup() && keep_cgroupmap(event->cgroup_id) &&
	       keep_mntnsmap(event->mntns) && keep_place(event->cgroup_id);
}

/* Whether an event of no known task passes the filters. */
static __always_inline bool keep_without_task(struct event *event)
{
#if defined(KEEP_CGROUP) || defined(CGROUP_TABLE) || defined(CGROUPMAP) || defined(MNTNSMAP) || \
	defined(KEEP_PLACES) || defined(FOLLOW)
	return false;
#endif
	return keep_pid(0) && keep_uid(event->uid) && keep_comm(event->comm);
}

/* Fill what concerns the current task; false drops the event. */
static __always_inline bool fill_task(struct event *event)
{
	describe_task(event);
	return keep_task(event);
}

/* Whether the socket passes the filters; its ports are for the probe to judge. */
static __always_inline bool keep_sock(struct event *event)
{
	if (event->netns == SELF_TEST_NETNS) {
#ifdef COUNTS_SELF_TEST
		count(COUNT_SELF_TEST);
#endif
		return false;
	}
	return keep_family(event->family) && keep_netns(event->netns);
}

#undef KEEP_PID
#undef DROP_PID
#undef KEEP_UID
#undef DROP_UID
#undef KEEP_PORT
#undef DROP_PORT
#undef KEEP_COMM
#undef KEEP_NETNS
#undef KEEP_FAMILY
#undef KEEP_CGROUP
#undef PID_TABLE
#undef UID_TABLE
#undef PORT_TABLE
#undef COMM_TABLE
#undef NETNS_TABLE
#undef CGROUP_TABLE
#undef CGROUPMAP
#undef MNTNSMAP
#undef KEEP_PLACES
#undef PORT_FIELDS
#undef COUNTS_SELF_TEST
