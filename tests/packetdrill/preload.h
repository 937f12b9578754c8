/* SPDX-License-Identifier: BSD-2-Clause
 *
 * preload.h - what adapter.so and preload.so have in common.
 */
#ifndef PD_PRELOAD_H
#define PD_PRELOAD_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>

/* Each returns false if the descriptor is not the adapter's. */
struct preload_hooks {
    void *userdata;
    bool (*getsockopt)(void *userdata, int fd, int level, int name, void *value, socklen_t *len, int *result);
    bool (*close)(void *userdata, int fd, int *result);
    bool (*write)(void *userdata, int fd, const void *data, size_t size, ssize_t *result);
};

/* The symbol of preload.so that adapter.so looks for. */
#define PRELOAD_SYMBOL "aiomultistack_preload"

/* adapter.so's side: connects the hooks, or (NULL) disconnects them; does
 * nothing where preload.so isn't loaded. */
void preload_connect(const struct preload_hooks *hooks);

#endif
