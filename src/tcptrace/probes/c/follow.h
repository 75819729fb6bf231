// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* The processes that are followed, by thread group id: those that the run puts there, and what they
 * start. follow.bpf.c keeps the map. */

#ifdef FOLLOW
BPF_HASH(followed, u32, u8, 65536);
#endif

static __always_inline bool is_followed(u32 pid)
{
#ifdef FOLLOW
	return followed.lookup(&pid) != NULL;
#endif
	return true;
}
