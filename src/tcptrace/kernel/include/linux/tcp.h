/* Declared by kernel_types.h; see linux/kconfig.h. */
