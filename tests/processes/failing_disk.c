/* Preloaded into a replica by tests/processes/disks.rs: its disk fails from the moment on at which
 * the file FAIL_ORDER exists. That holds one word, "fsync", "write", "full" or "read"; only files whose
 * path begins with FAIL_UNDER are concerned. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int ordered(char what, int fd) {
  static ssize_t (*real_read)(int, void *, size_t);
  const char *order = getenv("FAIL_ORDER"), *under = getenv("FAIL_UNDER");
  char link[64], path[4096], word[8] = {0};
  if (!order || !under) return 0;
  int saved = errno;
  int file = open(order, O_RDONLY | O_CLOEXEC);
  if (file < 0) { errno = saved; return 0; }
  if (!real_read) real_read = (ssize_t (*)(int, void *, size_t))dlsym(RTLD_NEXT, "read");
  ssize_t got = real_read(file, word, sizeof word - 1);
  close(file);
  errno = saved;
  if (got <= 0) return 0;
  char fails = word[0] == 'r' ? 'r' : word[0] == 'f' && word[1] == 's' ? 's' : 'w';
  if (what != fails) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  errno = saved;
  if (length <= 0) return 0;
  path[length] = 0;
  if (strncmp(path, under, strlen(under)) != 0) return 0;
  errno = word[0] == 'f' && word[1] == 'u' ? ENOSPC : EIO;
  return 1;
}

#define REAL(name) \
  static name##_call *real; \
  if (!real) real = (name##_call *)dlsym(RTLD_NEXT, #name)

typedef int fsync_call(int);
typedef int fdatasync_call(int);
typedef ssize_t write_call(int, const void *, size_t);
typedef ssize_t pwrite_call(int, const void *, size_t, off_t);
typedef ssize_t pwrite64_call(int, const void *, size_t, off64_t);
typedef ssize_t read_call(int, void *, size_t);
typedef ssize_t pread_call(int, void *, size_t, off_t);
typedef ssize_t pread64_call(int, void *, size_t, off64_t);

int fsync(int fd) {
  REAL(fsync);
  return ordered('s', fd) ? -1 : real(fd);
}
int fdatasync(int fd) {
  REAL(fdatasync);
  return ordered('s', fd) ? -1 : real(fd);
}
ssize_t write(int fd, const void *bytes, size_t count) {
  REAL(write);
  return ordered('w', fd) ? -1 : real(fd, bytes, count);
}
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
  REAL(pwrite);
  return ordered('w', fd) ? -1 : real(fd, bytes, count, at);
}
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
  REAL(pwrite64);
  return ordered('w', fd) ? -1 : real(fd, bytes, count, at);
}
ssize_t read(int fd, void *bytes, size_t count) {
  REAL(read);
  return ordered('r', fd) ? -1 : real(fd, bytes, count);
}
ssize_t pread(int fd, void *bytes, size_t count, off_t at) {
  REAL(pread);
  return ordered('r', fd) ? -1 : real(fd, bytes, count, at);
}
ssize_t pread64(int fd, void *bytes, size_t count, off64_t at) {
  REAL(pread64);
  return ordered('r', fd) ? -1 : real(fd, bytes, count, at);
}
