/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/status.h"

#include <errno.h>
#include <stddef.h>

#include "aiomultistack.h"

struct status_row {
    int number;
    const char *name;
    const char *text;
};

static const struct status_row status_rows[] = {
    {0, "OK", "success"},
#define STATUS_ROW(name, text) {name, #name, text},
    AMS_STATUS_TABLE(STATUS_ROW)
#undef STATUS_ROW
};

/* Finds a status's row.
 * @status: zero or negative status
 * Return: the row, NULL if there is none. */
static const struct status_row *status_find(int status)
{
    if (status > 0 || status <= -(int)AMS_STATUS_END)
        return NULL;
    return &status_rows[-status];
}

int ams_status_errno(int status)
{
    const struct status_row *row = status_find(status);
    return row ? row->number : EINVAL;
}

const char *ams_status_name(int status)
{
    const struct status_row *row = status_find(status);
    return row ? row->name : NULL;
}

const char *ams_status_text(int status)
{
    const struct status_row *row = status_find(status);
    return row ? row->text : "unknown status";
}
