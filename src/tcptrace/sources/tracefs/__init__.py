"""Events through tracefs alone, without BPF."""
