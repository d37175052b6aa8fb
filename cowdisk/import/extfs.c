/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Files inside an ext2, ext3 or ext4 file system inside a disk, through libext2fs. The library
 * opens nothing by name: an io manager of our own reads a window of the disk's fd, and nothing
 * outside of that window; it writes there only if it was opened for that. A journal is not
 * replayed.
 */
#include "cowdisk/import/extfs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cowdisk/internal.h"

/* ---- io manager ------------------------------------------------------------------------------ */

static errcode_t window_open(const char *name, int flags, io_channel *ret_channel);

static errcode_t window_close(io_channel channel)
{
    if (--channel->refcount > 0)
        return 0;
    free(channel->private_data);
    free(channel->name);
    free(channel);
    return 0;
}

static errcode_t window_set_blksize(io_channel channel, int block_size)
{
    channel->block_size = block_size;
    return 0;
}

/* The bytes of the disk that are meant; a negative count is bytes. False: not in the window. */
static bool place(io_channel channel, unsigned long long block, int count, uint64_t *ret_offset,
                  uint64_t *ret_length)
{
    const struct extfs_window *window = channel->private_data;
    uint64_t unit = (uint64_t)channel->block_size, start, length;

    length = count < 0 ? (uint64_t) - (int64_t)count : (uint64_t)count * unit;
    if (__builtin_mul_overflow((uint64_t)block, unit, &start) || start > window->size ||
        length > window->size - start)
        return false;
    *ret_offset = window->offset + start;
    *ret_length = length;
    return true;
}

static errcode_t window_read(io_channel channel, unsigned long long block, int count, void *data)
{
    const struct extfs_window *window = channel->private_data;
    uint64_t offset, length;

    if (!place(channel, block, count, &offset, &length))
        return EXT2_ET_SHORT_READ;
    return cow_read_full(window->fd, data, length, offset) < 0 ? EIO : 0;
}

static errcode_t window_read_32(io_channel channel, unsigned long block, int count, void *data)
{
    return window_read(channel, block, count, data);
}

static errcode_t window_write(io_channel channel, unsigned long long block, int count,
                              const void *data)
{
    const struct extfs_window *window = channel->private_data;
    uint64_t offset, length;
    int r;

    if (!window->writable)
        return EROFS;
    if (!place(channel, block, count, &offset, &length))
        return EXT2_ET_SHORT_WRITE;
    r = cow_write_full(window->fd, data, length, offset);
    return r < 0 ? (errcode_t)-r : 0;
}

static errcode_t window_write_32(io_channel channel, unsigned long block, int count,
                                 const void *data)
{
    return window_write(channel, block, count, data);
}

static errcode_t window_flush(io_channel channel)
{
    (void)channel;
    return 0;
}

static const struct struct_io_manager window_manager = {
    .magic = EXT2_ET_MAGIC_IO_MANAGER,
    .name = "window of a disk",
    .open = window_open,
    .close = window_close,
    .set_blksize = window_set_blksize,
    .read_blk = window_read_32,
    .read_blk64 = window_read,
    .write_blk = window_write_32,
    .write_blk64 = window_write,
    .flush = window_flush,
};

/* The library hands over a name, not a pointer: the window is spelled out in it. */
static errcode_t window_open(const char *name, int flags, io_channel *ret_channel)
{
    unsigned long long offset, size;
    struct extfs_window *window = calloc(1, sizeof(*window));
    io_channel channel = calloc(1, sizeof(*channel));
    char *copy = strdup(name);

    if (!window || !channel || !copy ||
        sscanf(name, "%d:%llu:%llu", &window->fd, &offset, &size) != 3) {
        free(window);
        free(channel);
        free(copy);
        return EXT2_ET_NO_MEMORY;
    }
    window->offset = offset;
    window->size = size;
    window->writable = flags & IO_FLAG_RW;
    channel->magic = EXT2_ET_MAGIC_IO_CHANNEL;
    channel->manager = (io_manager)&window_manager;
    channel->name = copy;
    channel->block_size = 1024;
    channel->refcount = 1;
    channel->private_data = window;
    *ret_channel = channel;
    return 0;
}

/* ---- files ----------------------------------------------------------------------------------- */

int extfs_open_with(struct extfs **ret_fs, int fd, uint64_t offset, uint64_t size, int flags)
{
    struct extfs *fs = calloc(1, sizeof(*fs));
    char name[64];

    if (!fs)
        return -ENOMEM;
    snprintf(name, sizeof(name), "%d:%llu:%llu", fd, (unsigned long long)offset,
             (unsigned long long)size);
    if (ext2fs_open(name, EXT2_FLAG_64BITS | flags, 0, 0, (io_manager)&window_manager, &fs->fs) !=
        0) {
        free(fs);
        return -EINVAL;
    }
    *ret_fs = fs;
    return 0;
}

int extfs_open(struct extfs **ret_fs, int fd, uint64_t offset, uint64_t size)
{
    return extfs_open_with(ret_fs, fd, offset, size, 0);
}

void extfs_close(struct extfs *fs)
{
    if (!fs)
        return;
    ext2fs_close_free(&fs->fs);
    free(fs);
}

int extfs_lookup(struct extfs *fs, const char *path, bool follow, ext2_ino_t *ret_inode)
{
    errcode_t e = follow
                      ? ext2fs_namei_follow(fs->fs, EXT2_ROOT_INO, EXT2_ROOT_INO, path, ret_inode)
                      : ext2fs_namei(fs->fs, EXT2_ROOT_INO, EXT2_ROOT_INO, path, ret_inode);

    return e == 0 ? 0 : -ENOENT;
}

bool extfs_exists(struct extfs *fs, const char *path)
{
    ext2_ino_t inode;

    return extfs_lookup(fs, path, true, &inode) == 0;
}

static int open_file(struct extfs *fs, const char *path, ext2_file_t *ret_file, uint64_t *ret_bytes)
{
    struct ext2_inode inode;
    ext2_ino_t number;
    int r = extfs_lookup(fs, path, true, &number);

    if (r < 0)
        return r;
    if (ext2fs_read_inode(fs->fs, number, &inode) != 0)
        return -EIO;
    if (!LINUX_S_ISREG(inode.i_mode))
        return -EINVAL;
    if (ext2fs_file_open(fs->fs, number, 0, ret_file) != 0)
        return -EIO;
    *ret_bytes = EXT2_I_SIZE(&inode);
    return 0;
}

int extfs_read_text(struct extfs *fs, const char *path, char *text, size_t size)
{
    unsigned got = 0;
    ext2_file_t file;
    uint64_t bytes;
    errcode_t e;
    int r = open_file(fs, path, &file, &bytes);

    if (r < 0)
        return r;
    e = ext2fs_file_read(file, text, (unsigned)cow_min(bytes, size - 1), &got);
    ext2fs_file_close(file);
    if (e != 0)
        return -EIO;
    text[got] = '\0';
    return 0;
}

static int copy_contents(ext2_file_t file, int fd, uint64_t bytes)
{
    static const unsigned chunk = 1u << 20;
    uint8_t *buffer = malloc(chunk);
    uint64_t offset = 0;
    int r = buffer ? 0 : -ENOMEM;

    while (r == 0 && offset < bytes) {
        unsigned got = 0;
        if (ext2fs_file_read(file, buffer, (unsigned)cow_min(chunk, bytes - offset), &got) != 0 ||
            got == 0)
            r = -EIO;
        else
            r = cow_write_full(fd, buffer, got, offset);
        offset += got;
    }
    free(buffer);
    return r == 0 ? cow_sync(fd) : r;
}

int extfs_copy(struct extfs *fs, const char *path, int fd, uint64_t max, struct cow_error *err)
{
    ext2_file_t file;
    uint64_t bytes;
    int r = open_file(fs, path, &file, &bytes);

    if (r < 0) {
        cow_fail(err, "%.100s in the image cannot be opened", path);
        return r;
    }
    if (bytes > max) {
        cow_fail(err, "%.100s in the image has %llu bytes, more than %llu", path,
                 (unsigned long long)bytes, (unsigned long long)max);
        r = -EFBIG;
    } else {
        r = copy_contents(file, fd, bytes);
        if (r < 0)
            cow_fail(err, "copying %.100s out of the image: %s", path, strerror(-r));
    }
    ext2fs_file_close(file);
    return r;
}

struct walk {
    extfs_name_fn fn;
    void *opaque;
    unsigned left;
};

static int walk_entry(struct ext2_dir_entry *entry, int offset, int block_size, char *block,
                      void *opaque)
{
    struct walk *walk = opaque;
    char name[EXT2_NAME_LEN + 1];
    int length = ext2fs_dirent_name_len(entry);

    (void)offset, (void)block_size, (void)block;
    if (walk->left-- == 0)
        return DIRENT_ABORT;
    memcpy(name, entry->name, (size_t)length);
    name[length] = '\0';
    return walk->fn(walk->opaque, name) ? DIRENT_ABORT : 0;
}

int extfs_list(struct extfs *fs, const char *path, extfs_name_fn fn, void *opaque)
{
    struct walk walk = {.fn = fn, .opaque = opaque, .left = IMPORT_MAX_ENTRIES};
    ext2_ino_t inode;
    int r = extfs_lookup(fs, path, true, &inode);

    if (r < 0)
        return r;
    return ext2fs_dir_iterate(fs->fs, inode, 0, NULL, walk_entry, &walk) == 0 ? 0 : -EIO;
}

int extfs_read_link(struct extfs *fs, const char *path, char *target, size_t size)
{
    struct ext2_inode inode;
    ext2_ino_t number;
    uint64_t length;
    int r = extfs_lookup(fs, path, false, &number);

    if (r < 0)
        return r;
    if (ext2fs_read_inode(fs->fs, number, &inode) != 0)
        return -EIO;
    length = EXT2_I_SIZE(&inode);
    /* Only short targets, kept in the inode: all that a kernel link ever has. */
    if (!LINUX_S_ISLNK(inode.i_mode) || !ext2fs_is_fast_symlink(&inode) || length >= size ||
        length >= sizeof(inode.i_block))
        return -EINVAL;
    memcpy(target, inode.i_block, length);
    target[length] = '\0';
    return 0;
}
