/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
#pragma once
#define BPF_CLASS(code) ((code) & 7)
#define BPF_LD 0
#define BPF_W 0
#define BPF_H 8
#define BPF_B 16
#define BPF_K 0
#define BPF_X 8
