// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/* Sockets behind the descriptors of the current process. Process context. */

/* The socket that an open file is, or NULL. */
static __always_inline struct socket *file_socket(struct file *file)
{
	struct file *back = NULL;
	struct inode *inode = NULL;
	struct socket *sock = NULL;
	umode_t mode = 0;

	read(inode, &file->f_inode);
	read(mode, &inode->i_mode);
	if ((mode & S_IFMT) != S_IFSOCK)
		return NULL;
	read(sock, &file->private_data);
	read(back, &sock->file);
	return file && back == file ? sock : NULL;
}

/* The socket behind a descriptor of the current process, or NULL. */
static __always_inline struct socket *fd_socket(s32 fd)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct files_struct *files = NULL;
	struct fdtable *at = NULL, table = {};
	struct file *file = NULL;

	read(files, &task->files);
	read(at, &files->fdt);
	read_words((u64 *)&table, offsetof(struct fdtable, fd) + sizeof(table.fd), at);
	if (fd < 0 || fd >= table.max_fds)
		return NULL;
	read(file, &table.fd[fd]);
	return file_socket(file);
}

static __always_inline struct sock *tcp_sock_of(struct socket *sock)
{
	struct sock *sk = NULL;

	if (sock)
		read(sk, &sock->sk);
	return sk && is_tcp(sk) ? sk : NULL;
}

/* The TCP socket behind a descriptor of the current process, or NULL. */
static __always_inline struct sock *fd_sock(s32 fd)
{
	return tcp_sock_of(fd_socket(fd));
}
