// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * What the filters by unit, container and pod say of the processes in a cgroup: a verdict, by the
 * cgroup's id, which user space puts here once it has seen the first event from there. Until then,
 * events pass, and user space judges each. PLACE_* are probes/places.py's.
 *
 * An entry that is displaced is put here again after the next event.
 */

#ifdef PLACES
BPF_TABLE("lru_hash", u64, u8, places, 16384);
#endif

static __always_inline u32 place_verdict(u64 cgroup_id)
{
#ifdef PLACES
	u8 *found = places.lookup(&cgroup_id);

	return found ? *found : PLACE_OPEN;
#endif
	return 0;
}
