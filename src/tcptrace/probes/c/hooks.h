// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* The arguments of the functions that programs are attached to. */

#if !defined(HOOK_FENTRY) && !defined(HOOK_KPROBE) && !defined(HOOK_TRACEPOINT)
#error "no backend that is known: HOOK_FENTRY, HOOK_KPROBE or HOOK_TRACEPOINT"
#endif

#ifdef HOOK_FENTRY
typedef u64 hook_ctx;
#define ARG1(ctx) ((void *)(ctx)[0])
#define ARG2(ctx) ((void *)(ctx)[1])
#define ARG3(ctx) ((void *)(ctx)[2])
#else
typedef struct pt_regs hook_ctx;
#define ARG1(ctx) ((void *)PT_REGS_PARM1(ctx))
#define ARG2(ctx) ((void *)PT_REGS_PARM2(ctx))
#define ARG3(ctx) ((void *)PT_REGS_PARM3(ctx))
#endif
