"""Facts about the running kernel, asked of the kernel itself and never of its version."""
