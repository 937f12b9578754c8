/* SPDX-License-Identifier: BSD-2-Clause
 *
 * preload.c - for LD_PRELOAD: calls that packetdrill makes in the C library,
 * past its shared-object interface, answered by the adapter where the
 * descriptor is the adapter's: getsockopt() for the script's assertions,
 * close() at its end, sendfile().
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "preload.h"

__attribute__((visibility("default"))) const struct preload_hooks *aiomultistack_preload;

__attribute__((visibility("default"))) int getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
    const struct preload_hooks *hooks = aiomultistack_preload;
    int result;
    if (hooks && hooks->getsockopt(hooks->userdata, fd, level, name, value, len, &result))
        return result;
    int (*next)(int, int, int, void *, socklen_t *) = dlsym(RTLD_NEXT, "getsockopt");
    return next(fd, level, name, value, len);
}

__attribute__((visibility("default"))) int close(int fd)
{
    const struct preload_hooks *hooks = aiomultistack_preload;
    int result;
    if (hooks && hooks->close(hooks->userdata, fd, &result))
        return result;
    int (*next)(int) = dlsym(RTLD_NEXT, "close");
    return next(fd);
}

__attribute__((visibility("default"))) ssize_t sendfile(int out, int in, off_t *offset, size_t count)
{
    const struct preload_hooks *hooks = aiomultistack_preload;
    ssize_t result, got = -1;
    char *buffer = hooks ? malloc(count ? count : 1) : NULL;
    if (buffer)
        got = offset ? pread(in, buffer, count, *offset) : read(in, buffer, count);
    if (got >= 0 && hooks->write(hooks->userdata, out, buffer, (size_t)got, &result)) {
        if (offset && result > 0)
            *offset += result;
        free(buffer);
        return result;
    }
    free(buffer);
    ssize_t (*next)(int, int, off_t *, size_t) = dlsym(RTLD_NEXT, "sendfile");
    return next(out, in, offset, count);
}
