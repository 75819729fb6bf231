/* Declared by the kernel's types; see linux/kconfig.h. */
