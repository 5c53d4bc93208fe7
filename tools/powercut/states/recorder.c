/* Preloaded by `powercut states`: writes down, in order, all that a process does to the files and
 * directories below RECORD_UNDER, and how far it says it is (what it writes to the file RECORD_MARKS).
 * Syncs are written down and not done: a disk is played later, from the record.
 *
 * Without RECORD_TRACE nothing is written down; syncs are left out all the same.
 * RECORD_LIES leaves syncs out of the record: "data" those of files, "directories" those of directories.
 *
 * One record: u8 what, u64 inode, u64 number, u32 length, u32 length, path, bytes; in the machine's
 * order. What is not modelled (links, hard or soft, and preallocation) aborts the process. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PATH_BYTES 4096
/* The C library's names, without this library's own definitions of them. */
#define CALL(number, ...) syscall(number, __VA_ARGS__)

/* What is done and what is written down must have one order. */
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;
static int trace = -1;

static int below(const char *path) {
  const char *under = getenv("RECORD_UNDER");
  size_t length = under ? strlen(under) : 0;
  if (!length || strncmp(path, under, length) != 0) return 0;
  return path[length] == 0 || path[length] == '/';
}

static int path_of(int fd, char *path) {
  char link[64];
  int saved = errno;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, PATH_BYTES - 1);
  errno = saved;
  if (length <= 0) return 0;
  path[length] = 0;
  return 1;
}

static int full_path(int dir, const char *name, char *path) {
  if (name[0] == '/') {
    snprintf(path, PATH_BYTES, "%s", name);
    return 1;
  }
  if (dir == AT_FDCWD || !path_of(dir, path)) return 0;
  size_t length = strlen(path);
  snprintf(path + length, PATH_BYTES - length, "/%s", name);
  return 1;
}

static uint64_t inode_of(int fd) {
  struct stat found;
  return fstat(fd, &found) == 0 ? (uint64_t)found.st_ino : 0;
}

static void put(const void *bytes, size_t count) {
  while (count > 0) {
    ssize_t done = CALL(SYS_write, trace, bytes, count);
    if (done <= 0) abort();
    bytes = (const char *)bytes + done;
    count -= (size_t)done;
  }
}

static void record(char what, uint64_t inode, uint64_t number, const char *path, const void *bytes,
                   size_t count) {
  const char *file = getenv("RECORD_TRACE");
  int saved = errno;
  if (!file) return;
  if (trace < 0) {
    trace = (int)CALL(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (trace < 0) abort();
  }
  uint32_t lengths[2] = {path ? (uint32_t)strlen(path) : 0, (uint32_t)count};
  put(&what, 1);
  put(&inode, 8);
  put(&number, 8);
  put(lengths, 8);
  put(path, lengths[0]);
  put(bytes, count);
  errno = saved;
}

static void not_modelled(const char *path) {
  if (below(path)) abort();
}

static long open_below(int dir, const char *name, int flags, mode_t mode) {
  char path[PATH_BYTES];
  if (!full_path(dir, name, path) || !below(path)) return CALL(SYS_openat, dir, name, flags, mode);
  pthread_mutex_lock(&order);
  int saved = errno;
  int was_there = CALL(SYS_faccessat, dir, name, F_OK) == 0;
  errno = saved;
  long fd = CALL(SYS_openat, dir, name, flags, mode);
  if (fd >= 0 && (flags & O_CREAT) && !was_there) record('c', inode_of(fd), 0, path, 0, 0);
  else if (fd >= 0 && (flags & O_TRUNC)) record('t', inode_of(fd), 0, path, 0, 0);
  pthread_mutex_unlock(&order);
  return fd;
}

#define MODE(flags)                                  \
  mode_t mode = 0;                                   \
  if ((flags) & (O_CREAT | O_TMPFILE)) {             \
    va_list rest;                                    \
    va_start(rest, flags);                           \
    mode = va_arg(rest, mode_t);                     \
    va_end(rest);                                    \
  }

int open(const char *name, int flags, ...) {
  MODE(flags)
  return (int)open_below(AT_FDCWD, name, flags, mode);
}
int open64(const char *name, int flags, ...) {
  MODE(flags)
  return (int)open_below(AT_FDCWD, name, flags, mode);
}
int openat(int dir, const char *name, int flags, ...) {
  MODE(flags)
  return (int)open_below(dir, name, flags, mode);
}
int openat64(int dir, const char *name, int flags, ...) {
  MODE(flags)
  return (int)open_below(dir, name, flags, mode);
}

static ssize_t write_at(int fd, const void *bytes, size_t count, off64_t at) {
  char path[PATH_BYTES];
  int placed = at >= 0;
  const char *marks = getenv("RECORD_MARKS");
  int known = path_of(fd, path);
  int is_mark = known && marks && strcmp(path, marks) == 0;
  if (!known || (!is_mark && !below(path))) {
    return placed ? CALL(SYS_pwrite64, fd, bytes, count, at) : CALL(SYS_write, fd, bytes, count);
  }
  pthread_mutex_lock(&order);
  ssize_t done;
  if (is_mark) {
    record('m', 0, 0, 0, bytes, count);
    done = (ssize_t)count;
  } else {
    if (!placed) at = CALL(SYS_lseek, fd, 0, SEEK_CUR);
    done = placed ? CALL(SYS_pwrite64, fd, bytes, count, at) : CALL(SYS_write, fd, bytes, count);
    if (done > 0) record('w', inode_of(fd), (uint64_t)at, path, bytes, (size_t)done);
  }
  pthread_mutex_unlock(&order);
  return done;
}

ssize_t write(int fd, const void *bytes, size_t count) { return write_at(fd, bytes, count, -1); }
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
  return write_at(fd, bytes, count, at);
}
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
  return write_at(fd, bytes, count, at);
}
/* In parts: less may be written than was asked for, and callers know that. */
ssize_t writev(int fd, const struct iovec *parts, int count) {
  return count > 0 ? write_at(fd, parts[0].iov_base, parts[0].iov_len, -1) : 0;
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
  return count > 0 ? write_at(fd, parts[0].iov_base, parts[0].iov_len, at) : 0;
}

static int resize(int fd, off64_t length) {
  char path[PATH_BYTES];
  if (!path_of(fd, path) || !below(path)) return (int)CALL(SYS_ftruncate, fd, length);
  pthread_mutex_lock(&order);
  int done = (int)CALL(SYS_ftruncate, fd, length);
  if (done == 0) record('t', inode_of(fd), (uint64_t)length, path, 0, 0);
  pthread_mutex_unlock(&order);
  return done;
}
int ftruncate(int fd, off_t length) { return resize(fd, length); }
int ftruncate64(int fd, off64_t length) { return resize(fd, length); }

static int sync_of(int fd, long call) {
  char path[PATH_BYTES];
  const char *lies = getenv("RECORD_LIES");
  struct stat found;
  if (!path_of(fd, path) || !below(path)) return (int)CALL(call, fd);
  if (fstat(fd, &found) != 0) return -1;
  int directory = S_ISDIR(found.st_mode);
  if (lies && strcmp(lies, directory ? "directories" : "data") == 0) return 0;
  pthread_mutex_lock(&order);
  record('s', (uint64_t)found.st_ino, 0, path, 0, 0);
  pthread_mutex_unlock(&order);
  return 0;
}
int fsync(int fd) { return sync_of(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_of(fd, SYS_fdatasync); }

static int moved(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
  char source[PATH_BYTES], target[PATH_BYTES];
  int known = full_path(from_dir, from, source) && full_path(to_dir, to, target);
  int concerned = known && (below(source) || below(target));
  if (concerned) pthread_mutex_lock(&order);
  int done = (int)CALL(SYS_renameat2, from_dir, from, to_dir, to, flags);
  if (concerned && done == 0) record('r', 0, 0, source, target, strlen(target));
  if (concerned) pthread_mutex_unlock(&order);
  return done;
}
int rename(const char *from, const char *to) { return moved(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char *from, int b, const char *to) { return moved(a, from, b, to, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
  return moved(a, from, b, to, flags);
}

static int removed(int dir, const char *name, int flags) {
  char path[PATH_BYTES];
  int concerned = full_path(dir, name, path) && below(path);
  if (concerned) pthread_mutex_lock(&order);
  int done = (int)CALL(SYS_unlinkat, dir, name, flags);
  if (concerned && done == 0) record('u', 0, 0, path, 0, 0);
  if (concerned) pthread_mutex_unlock(&order);
  return done;
}
int unlink(const char *name) { return removed(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return removed(AT_FDCWD, name, AT_REMOVEDIR); }
int unlinkat(int dir, const char *name, int flags) { return removed(dir, name, flags); }

static int made(int dir, const char *name, mode_t mode) {
  char path[PATH_BYTES];
  int concerned = full_path(dir, name, path) && below(path);
  if (concerned) pthread_mutex_lock(&order);
  int done = (int)CALL(SYS_mkdirat, dir, name, mode);
  if (concerned && done == 0) record('d', 0, 0, path, 0, 0);
  if (concerned) pthread_mutex_unlock(&order);
  return done;
}
int mkdir(const char *name, mode_t mode) { return made(AT_FDCWD, name, mode); }
int mkdirat(int dir, const char *name, mode_t mode) { return made(dir, name, mode); }

int link(const char *from, const char *to) {
  not_modelled(to);
  return (int)CALL(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}
int symlink(const char *from, const char *to) {
  not_modelled(to);
  return (int)CALL(SYS_symlinkat, from, AT_FDCWD, to);
}
int fallocate(int fd, int mode, off_t at, off_t count) {
  char path[PATH_BYTES];
  if (path_of(fd, path)) not_modelled(path);
  return (int)CALL(SYS_fallocate, fd, mode, at, count);
}
/* Copies go through read and write then. */
ssize_t copy_file_range(int a, off64_t *from, int b, off64_t *to, size_t count, unsigned flags) {
  (void)a, (void)from, (void)b, (void)to, (void)count, (void)flags;
  errno = ENOSYS;
  return -1;
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t count) {
  (void)to, (void)from, (void)at, (void)count;
  errno = ENOSYS;
  return -1;
}
