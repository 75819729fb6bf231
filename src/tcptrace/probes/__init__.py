"""What the kernel tells: a folder for each subject, and the C that they share in `c/`."""
