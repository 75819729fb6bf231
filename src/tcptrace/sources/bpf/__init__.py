"""Events through BPF programs, which bcc compiles."""
