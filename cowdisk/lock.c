/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's image locks: single bytes of the file, locked with open file description locks. Byte 100+i
 * says "I use permission i", byte 200+i "nobody else may use permission i". Permissions: 0
 * consistent read, 1 write, 2 write unchanged, 3 resize.
 *
 * We always read and never let others write or resize; a writer uses both. qemu-img then refuses to
 * write to an image or a template in use, and we refuse what QEMU is writing to. Locks belong to
 * the open file description: two opens of one image see each other only if the file was opened
 * twice. A file system without such locks is used without.
 */
#include "cowdisk/internal.h"

#include <errno.h>
#include <fcntl.h>

#define USES(permission)    (100 + (permission))
#define FORBIDS(permission) (200 + (permission))

enum { PERM_READ = 0, PERM_WRITE = 1, PERM_RESIZE = 3 };

static const int all_bytes[] = {USES(PERM_READ), USES(PERM_WRITE), USES(PERM_RESIZE),
                                FORBIDS(PERM_WRITE), FORBIDS(PERM_RESIZE)};

static int byte_lock(int fd, int command, short type, int byte)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    if (fcntl(fd, command, &lock) < 0)
        return -errno;
    return command == F_OFD_GETLK && lock.l_type != F_UNLCK ? -EBUSY : 0;
}

static bool is_conflict(int r)
{
    return r == -EBUSY || r == -EAGAIN || r == -EACCES;
}

void cow_unlock(int fd)
{
    for (size_t i = 0; i < sizeof(all_bytes) / sizeof(all_bytes[0]); i++)
        (void)byte_lock(fd, F_OFD_SETLK, F_UNLCK, all_bytes[i]);
}

/* Does anyone hold a lock on one of the bytes? */
static bool anyone_holds(int fd, const int *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (is_conflict(byte_lock(fd, F_OFD_GETLK, F_WRLCK, bytes[i])))
            return true;
    }
    return false;
}

int cow_lock(int fd, bool writable, struct cow_error *err)
{
    static const int take_reader[] = {USES(PERM_READ), FORBIDS(PERM_WRITE), FORBIDS(PERM_RESIZE)};
    static const int hurts_reader[] = {FORBIDS(PERM_READ), USES(PERM_WRITE), USES(PERM_RESIZE)};
    static const int hurts_writer[] = {FORBIDS(PERM_READ), FORBIDS(PERM_WRITE),
                                       FORBIDS(PERM_RESIZE), USES(PERM_WRITE), USES(PERM_RESIZE)};
    const int *take = writable ? all_bytes : take_reader;
    size_t n = writable ? 5 : 3;
    bool busy = false;

    for (size_t i = 0; i < n && !busy; i++)
        busy = is_conflict(byte_lock(fd, F_OFD_SETLK, F_RDLCK, take[i]));
    if (!busy)
        busy = writable ? anyone_holds(fd, hurts_writer, 5) : anyone_holds(fd, hurts_reader, 3);
    if (busy) {
        cow_unlock(fd);
        cow_fail(err, "the image is in use by another process");
        return -EBUSY;
    }
    return 0;
}
