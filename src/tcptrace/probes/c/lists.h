// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * What lists of wanted values are made of, in defines or in tables. model/filters.py writes them.
 */

/* X is an inclusive range of one value, E a single value, Y a name as two words, P a process
 * by its id and when it began: the id is given to another process once it has ended. */

#define X(low, high) || (value >= (low) && value <= (high))
#define E(one) || value == (one)
#define Y(first, second) || (word[0] == (first) && word[1] == (second))
#define P(id, began) || (value == (id) && task_began() == (began))
#define ANY || true
#define NONE

/* A long list is a table: a trie from prefixes of a value to a verdict, which model/tables.py makes
 * and the loader fills in before anything is attached. Nothing is added or removed later. */
#define TABLE(name, key) BPF_F_TABLE("lpm_trie", struct key, u64, name, 1, BPF_F_NO_PREALLOC)

struct number_key {
	u32 bits;
	__be32 value;
};

struct id_key {
	u32 bits;
	__be32 high, low;
};

struct name_key {
	u32 bits;
	char value[16];
};

/* A verdict: bits, both of which can be set, and then the value is dropped. That on a process has
 * behind it the verdict on others that have its id, and when the process began. Their places are
 * model/tables.py's. */
#define VERDICT (KEPT | DROPPED)

/* The loader takes pinned maps in place of these; sources/bpf/load.py checks their sizes. */
#ifdef PINNED_CGROUPMAP
BPF_TABLE("hash", u64, u64, cgroupmap, 1);
#endif
#ifdef PINNED_MNTNSMAP
BPF_TABLE("hash", u64, u32, mntnsmap, 1);
#endif

/* Each probe has filters of its own: filters.h is there once for each, with the probe's name before
 * these, which its own source calls. The tables are found through functions, since bcc does not let
 * a map's name come from a macro. */
#define OWN__(probe, name) probe##_##name
#define OWN_(probe, name) OWN__(probe, name)
#define OWN(name) OWN_(PROBE, name)
#define find_pid OWN(find_pid)
#define find_uid OWN(find_uid)
#define find_port OWN(find_port)
#define find_comm OWN(find_comm)
#define find_netns OWN(find_netns)
#define find_cgroup OWN(find_cgroup)
#define keep_pid OWN(keep_pid)
#define keep_uid OWN(keep_uid)
#define port_verdict OWN(port_verdict)
#define keep_port OWN(keep_port)
#define keep_ports OWN(keep_ports)
#define keep_comm OWN(keep_comm)
#define keep_netns OWN(keep_netns)
#define keep_family OWN(keep_family)
#define is_kept_cgroup OWN(is_kept_cgroup)
#define keep_cgroup OWN(keep_cgroup)
#define keep_cgroupmap OWN(keep_cgroupmap)
#define keep_mntnsmap OWN(keep_mntnsmap)
#define keep_place OWN(keep_place)
#define is_open_place OWN(is_open_place)
#define keep_task OWN(keep_task)
#define keep_without_task OWN(keep_without_task)
#define fill_task OWN(fill_task)
#define keep_sock OWN(keep_sock)
