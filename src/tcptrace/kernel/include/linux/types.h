/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
#pragma once
#define __bitwise
typedef __u64 __attribute__((aligned(8))) __aligned_u64;
typedef unsigned long uintptr_t;
typedef __u32 __wsum;
typedef signed char __s8;
typedef __s8 s8;
typedef __s16 s16;
