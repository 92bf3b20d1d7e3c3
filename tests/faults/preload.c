/* Faults at the n-th call that changes a file below one folder: the process is killed or stopped there, the call fails,
   or the clock jumps.

   Loaded by LD_PRELOAD; a process arms itself by faults_arm(). Calls are counted whichever library makes them. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { COUNT, KILL_BEFORE, KILL_AFTER, FAIL, SHORT, STOP, JUMP };

static char root[PATH_MAX];
static size_t root_length;
static long at = -1, met;
static int kind, number; /* number: errno of FAIL, seconds of JUMP */
static time_t jumped;
static pid_t armed_in;

void faults_arm(const char *folder, long n, int what, int with)
{
    strncpy(root, folder, sizeof root - 1);
    root_length = strlen(root);
    met = 0;
    at = n;
    kind = what;
    number = with;
    armed_in = getpid(); /* not in its children */
}

long faults_met(void) { return met; }

static int below(const char *path)
{
    return root_length && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static int of_descriptor(int descriptor)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

static int of_path(int folder, const char *path)
{
    if (path[0] == '/') return below(path);
    return folder == AT_FDCWD ? 0 : of_descriptor(folder);
}

/* Whether this call is the one, and not as others are. */
static int turn(int ours)
{
    if (!ours || at < 0 || getpid() != armed_in) return 0;
    if (__atomic_add_fetch(&met, 1, __ATOMIC_SEQ_CST) != at) return 0;
    if (kind == KILL_BEFORE) kill(getpid(), SIGKILL);
    if (kind == STOP) raise(SIGSTOP);
    if (kind == JUMP) jumped = number;
    return kind == KILL_AFTER || kind == FAIL || kind == SHORT;
}

static long after(long result)
{
    if (kind == KILL_AFTER) kill(getpid(), SIGKILL);
    return result;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name)
#define CALL(ours, call)                                            \
    int now = turn(ours);                                           \
    if (now && kind == FAIL) { errno = number; return -1; }        \
    return now ? after(call) : (call)

#define OPEN(name)                                                                       \
    int name(const char *path, int flags, ...)                                           \
    {                                                                                    \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        REAL(name);                                                                      \
        CALL((flags & (O_CREAT | O_TRUNC)) && of_path(AT_FDCWD, path), real(path, flags, mode)); \
    }
#define OPENAT(name)                                                                     \
    int name(int folder, const char *path, int flags, ...)                               \
    {                                                                                    \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        REAL(name);                                                                      \
        CALL((flags & (O_CREAT | O_TRUNC)) && of_path(folder, path), real(folder, path, flags, mode)); \
    }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

ssize_t write(int descriptor, const void *content, size_t size)
{
    REAL(write);
    int now = turn(of_descriptor(descriptor));
    if (now && kind == FAIL) { errno = number; return -1; }
    if (now && kind == SHORT && size > 1) return real(descriptor, content, size / 2);
    return now ? after(real(descriptor, content, size)) : real(descriptor, content, size);
}

#define PWRITE(name, offset_type)                                                        \
    ssize_t name(int descriptor, const void *content, size_t size, offset_type offset)   \
    {                                                                                    \
        REAL(name);                                                                      \
        int now = turn(of_descriptor(descriptor));                                       \
        if (now && kind == FAIL) { errno = number; return -1; }                         \
        if (now && kind == SHORT && size > 1) return real(descriptor, content, size / 2, offset); \
        return now ? after(real(descriptor, content, size, offset)) : real(descriptor, content, size, offset); \
    }
PWRITE(pwrite, off_t) PWRITE(pwrite64, off64_t)

int rename(const char *from, const char *to) { REAL(rename); CALL(of_path(AT_FDCWD, to), real(from, to)); }
int renameat(int a, const char *from, int b, const char *to) { REAL(renameat); CALL(of_path(b, to), real(a, from, b, to)); }
int link(const char *from, const char *to) { REAL(link); CALL(of_path(AT_FDCWD, to), real(from, to)); }
int linkat(int a, const char *from, int b, const char *to, int flags)
{
    REAL(linkat);
    CALL(of_path(b, to), real(a, from, b, to, flags));
}
int unlink(const char *path) { REAL(unlink); CALL(of_path(AT_FDCWD, path), real(path)); }
int unlinkat(int folder, const char *path, int flags) { REAL(unlinkat); CALL(of_path(folder, path), real(folder, path, flags)); }
int mkdir(const char *path, mode_t mode) { REAL(mkdir); CALL(of_path(AT_FDCWD, path), real(path, mode)); }
int mkdirat(int folder, const char *path, mode_t mode) { REAL(mkdirat); CALL(of_path(folder, path), real(folder, path, mode)); }
int rmdir(const char *path) { REAL(rmdir); CALL(of_path(AT_FDCWD, path), real(path)); }
int chmod(const char *path, mode_t mode) { REAL(chmod); CALL(of_path(AT_FDCWD, path), real(path, mode)); }
int fchmod(int descriptor, mode_t mode) { REAL(fchmod); CALL(of_descriptor(descriptor), real(descriptor, mode)); }
int fsync(int descriptor) { REAL(fsync); CALL(of_descriptor(descriptor), real(descriptor)); }
int fdatasync(int descriptor) { REAL(fdatasync); CALL(of_descriptor(descriptor), real(descriptor)); }
int ftruncate(int descriptor, off_t size) { REAL(ftruncate); CALL(of_descriptor(descriptor), real(descriptor, size)); }
int ftruncate64(int descriptor, off64_t size) { REAL(ftruncate64); CALL(of_descriptor(descriptor), real(descriptor, size)); }
ssize_t copy_file_range(int a, off64_t *from, int b, off64_t *to, size_t size, unsigned flags)
{
    REAL(copy_file_range);
    CALL(of_descriptor(b), real(a, from, b, to, size, flags));
}
ssize_t sendfile(int to, int from, off_t *offset, size_t size)
{
    static ssize_t (*real)(int, int, off_t *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "sendfile");
    CALL(of_descriptor(to), real(to, from, offset, size));
}
ssize_t sendfile64(int to, int from, off64_t *offset, size_t size)
{
    static ssize_t (*real)(int, int, off64_t *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "sendfile64");
    CALL(of_descriptor(to), real(to, from, offset, size));
}

/* The clock on the wall. What the kernel writes down as the times of files does not jump: as if a server kept them. */
int clock_gettime(clockid_t clock, struct timespec *now)
{
    REAL(clock_gettime);
    int result = real(clock, now);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += jumped;
    return result;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    REAL(gettimeofday);
    int result = real(now, zone);
    if (!result) now->tv_sec += jumped;
    return result;
}
time_t time(time_t *now)
{
    static time_t (*real)(time_t *);
    if (!real) real = dlsym(RTLD_NEXT, "time");
    time_t found = real(NULL) + jumped;
    if (now) *now = found;
    return found;
}
