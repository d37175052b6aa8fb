/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Changing an ext2, ext3 or ext4 file system inside a disk that nobody else uses: a copy. What is
 * removed is gone from the disk, not only from the file system: entries of directories lose their
 * names, and at the end all that is free, and the journal, become zeroes. Never one whose journal
 * was not replayed: the next mount would write old blocks over ours.
 */
#include "cowdisk/import/extfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "cowdisk/internal.h"

/* ---- opening --------------------------------------------------------------------------------- */

static int check_clean(const struct ext2_super_block *sb, struct cow_error *err)
{
    bool journal = ext2fs_has_feature_journal((struct ext2_super_block *)sb);

    if (ext2fs_has_feature_journal_needs_recovery((struct ext2_super_block *)sb) ||
        (!journal && !(sb->s_state & EXT2_VALID_FS))) {
        cow_fail(err, "was not unmounted cleanly: its journal is to be replayed");
        return -EBUSY;
    }
    if (sb->s_state & EXT2_ERROR_FS) {
        cow_fail(err, "has errors: it needs fsck");
        return -EBUSY;
    }
    return 0;
}

/* What libext2fs opens but does not keep consistent, or we would have to treat specially. */
static int check_features(struct ext2_super_block *sb, struct cow_error *err)
{
    const char *what = NULL;

    if (ext2fs_has_feature_inline_data(sb))
        what = "inline data";
    else if (ext2fs_has_feature_quota(sb))
        what = "quotas";
    else if (ext2fs_has_feature_shared_blocks(sb))
        what = "shared blocks";
    else if (ext2fs_has_feature_mmp(sb))
        what = "multiple mount protection";
    else if (ext2fs_has_feature_journal(sb) && sb->s_journal_inum != EXT2_JOURNAL_INO)
        what = "an external journal";
    if (!what)
        return 0;
    cow_fail(err, "has %s, which is not supported", what);
    return -ENOTSUP;
}

int extfs_open_to_edit(struct extfs **ret_fs, int fd, uint64_t offset, uint64_t size,
                       struct cow_error *err)
{
    struct extfs *fs;
    int r = extfs_open_with(&fs, fd, offset, size, EXT2_FLAG_RW);

    if (r < 0) {
        cow_fail(err, "cannot be opened to be changed: it is damaged or too new");
        return r;
    }
    r = check_clean(fs->fs->super, err);
    if (r == 0)
        r = check_features(fs->fs->super, err);
    if (r == 0 && ext2fs_read_bitmaps(fs->fs) != 0) {
        cow_fail(err, "is damaged: its bitmaps cannot be read");
        r = -EIO;
    }
    if (r < 0) {
        extfs_close(fs);
        return r;
    }
    *ret_fs = fs;
    return 0;
}

/* ---- files ----------------------------------------------------------------------------------- */

static int set_contents(struct extfs *fs, ext2_ino_t number, const char *text, size_t length)
{
    unsigned written = 0;
    ext2_file_t file;
    errcode_t e = ext2fs_file_open(fs->fs, number, EXT2_FILE_WRITE, &file);

    if (e != 0)
        return -EIO;
    e = ext2fs_file_set_size2(file, 0);
    if (e == 0 && length > 0)
        e = ext2fs_file_write(file, text, (unsigned)length, &written);
    if (ext2fs_file_close(file) != 0 || e != 0 || written != length)
        return e == EXT2_ET_BLOCK_ALLOC_FAIL ? -ENOSPC : -EIO;
    return 0;
}

int extfs_set_text(struct extfs *fs, const char *path, const char *text)
{
    struct ext2_inode inode;
    ext2_ino_t number;
    int r = extfs_lookup(fs, path, true, &number);

    if (r < 0)
        return r;
    if (ext2fs_read_inode(fs->fs, number, &inode) != 0)
        return -EIO;
    return LINUX_S_ISREG(inode.i_mode) ? set_contents(fs, number, text, strlen(text)) : -ENOENT;
}

/* ---- removal --------------------------------------------------------------------------------- */

struct pruning {
    struct extfs *fs;
    extfs_judge_fn judge;
    unsigned depth;      /* as the judge sees it */
    unsigned levels;     /* of recursion that are left */
    unsigned links_gone; /* directories removed: each was a link to this one */
    int r;
};

static int prune_directory(struct extfs *fs, ext2_ino_t dir, unsigned depth, unsigned levels,
                           extfs_judge_fn judge);

static enum extfs_verdict remove_all(const struct extfs_entry *entry)
{
    (void)entry;
    return EXTFS_REMOVE;
}

static bool is_sane(const struct extfs *fs, ext2_ino_t number)
{
    return number >= EXT2_FIRST_INODE(fs->fs->super) && number <= fs->fs->super->s_inodes_count;
}

/* The inode and all that only it has. */
static int free_inode(struct extfs *fs, ext2_ino_t number, struct ext2_inode_large *inode)
{
    struct ext2_inode *small = (struct ext2_inode *)inode;
    size_t size = (size_t)EXT2_INODE_SIZE(fs->fs->super);
    bool is_dir = LINUX_S_ISDIR(inode->i_mode);
    struct ext2_inode *empty;
    errcode_t e = ext2fs_free_ext_attr(fs->fs, number, inode);

    if (e == 0 && ext2fs_inode_has_valid_blocks2(fs->fs, small))
        e = ext2fs_punch(fs->fs, number, NULL, NULL, 0, ~0ull);
    if (e != 0)
        return -EIO;
    empty = calloc(1, size + sizeof(struct ext2_inode_large));
    if (!empty)
        return -ENOMEM;
    empty->i_dtime = fs->fs->super->s_wtime ? fs->fs->super->s_wtime : 1;
    e = ext2fs_write_inode_full(fs->fs, number, empty, (int)size);
    free(empty);
    ext2fs_inode_alloc_stats2(fs->fs, number, -1, is_dir);
    return e == 0 ? 0 : -EIO;
}

/* One name of an inode goes; the inode, if that was the last. */
static int drop_inode(struct pruning *p, ext2_ino_t number, struct ext2_inode_large *inode)
{
    struct extfs *fs = p->fs;
    int r = 0;

    if (LINUX_S_ISDIR(inode->i_mode)) {
        r = prune_directory(fs, number, 0, p->levels - 1, remove_all);
        p->links_gone++;
        return r == 0 ? free_inode(fs, number, inode) : r;
    }
    if (inode->i_links_count > 1) {
        inode->i_links_count--;
        return ext2fs_write_inode_full(fs->fs, number, (struct ext2_inode *)inode,
                                       sizeof(*inode)) == 0
                   ? 0
                   : -EIO;
    }
    return free_inode(fs, number, inode);
}

/* Its name is no longer to be read on the disk, not even as that of a free entry. */
static void clear_entry(struct ext2_dir_entry *dirent)
{
    memset(dirent->name, 0, (size_t)ext2fs_dirent_name_len(dirent));
    ext2fs_dirent_set_name_len(dirent, 0);
    ext2fs_dirent_set_file_type(dirent, 0);
    dirent->inode = 0;
}

static int obey(struct pruning *p, struct ext2_dir_entry *dirent, struct ext2_inode_large *inode,
                enum extfs_verdict verdict)
{
    bool is_dir = LINUX_S_ISDIR(inode->i_mode), is_file = LINUX_S_ISREG(inode->i_mode);

    switch (verdict) {
    case EXTFS_KEEP: break;
    case EXTFS_ENTER:
        if (is_dir)
            p->r = prune_directory(p->fs, dirent->inode, p->depth + 1, p->levels - 1, p->judge);
        break;
    case EXTFS_EMPTY:
        if (is_file)
            p->r = set_contents(p->fs, dirent->inode, "", 0);
        break;
    case EXTFS_REMOVE:
        p->r = drop_inode(p, dirent->inode, inode);
        if (p->r < 0)
            return DIRENT_ABORT;
        clear_entry(dirent);
        return DIRENT_CHANGED;
    }
    return p->r < 0 ? DIRENT_ABORT : 0;
}

static int prune_entry(ext2_ino_t dir, int kind, struct ext2_dir_entry *dirent, int offset,
                       int block_size, char *block, void *opaque)
{
    struct pruning *p = opaque;
    struct ext2_inode_large inode = {0};
    char name[EXT2_NAME_LEN + 1];
    size_t length = (size_t)ext2fs_dirent_name_len(dirent);
    struct extfs_entry entry = {.name = name, .depth = p->depth};

    (void)dir, (void)offset, (void)block_size, (void)block;
    if (kind == DIRENT_DOT_FILE || kind == DIRENT_DOT_DOT_FILE)
        return 0;
    if (p->fs->n_pruned++ >= IMPORT_MAX_PRUNED)
        p->r = -EFBIG;
    else if (!is_sane(p->fs, dirent->inode) ||
             ext2fs_read_inode_full(p->fs->fs, dirent->inode, (struct ext2_inode *)&inode,
                                    sizeof(inode)) != 0)
        p->r = -EIO;
    if (p->r < 0)
        return DIRENT_ABORT;
    memcpy(name, dirent->name, length);
    name[length] = '\0';
    entry.is_dir = LINUX_S_ISDIR(inode.i_mode);
    entry.is_file = LINUX_S_ISREG(inode.i_mode);
    return obey(p, dirent, &inode, p->judge(&entry));
}

/* A directory has a link from each that lies in it; 1 stands for more than can be counted. */
static int drop_links(struct extfs *fs, ext2_ino_t number, unsigned n)
{
    struct ext2_inode inode;

    if (n == 0)
        return 0;
    if (ext2fs_read_inode(fs->fs, number, &inode) != 0)
        return -EIO;
    if (inode.i_links_count == 1)
        return 0;
    inode.i_links_count = inode.i_links_count > n + 2 ? (uint16_t)(inode.i_links_count - n) : 2;
    return ext2fs_write_inode(fs->fs, number, &inode) == 0 ? 0 : -EIO;
}

static int prune_directory(struct extfs *fs, ext2_ino_t dir, unsigned depth, unsigned levels,
                           extfs_judge_fn judge)
{
    struct pruning p = {.fs = fs, .judge = judge, .depth = depth, .levels = levels};

    if (levels == 0)
        return -EFBIG;
    if (ext2fs_dir_iterate2(fs->fs, dir, 0, NULL, prune_entry, &p) != 0 && p.r == 0)
        p.r = -EIO;
    return p.r < 0 ? p.r : drop_links(fs, dir, p.links_gone);
}

int extfs_prune(struct extfs *fs, const char *dir, unsigned depth, extfs_judge_fn judge)
{
    ext2_ino_t number;

    if (extfs_lookup(fs, dir, true, &number) < 0 || ext2fs_check_directory(fs->fs, number) != 0)
        return 0;
    return prune_directory(fs, number, depth, IMPORT_MAX_DEPTH, judge);
}

/* ---- what is free ---------------------------------------------------------------------------- */

static bool is_zero(const uint8_t *data, size_t length)
{
    return length == 0 || (data[0] == 0 && memcmp(data, data + 1, length - 1) == 0);
}

/* Where no holes can be made: writes what is not zero already. */
static int write_zeroes(int fd, uint64_t offset, uint64_t length)
{
    static const uint8_t zeroes[64u << 10];
    uint8_t *data = malloc(sizeof(zeroes));
    int r = data ? 0 : -ENOMEM;

    while (r == 0 && length > 0) {
        size_t n = (size_t)cow_min(length, sizeof(zeroes));
        r = cow_read_full(fd, data, n, offset);
        if (r == 0 && !is_zero(data, n))
            r = cow_write_full(fd, zeroes, n, offset);
        offset += n;
        length -= n;
    }
    free(data);
    return r;
}

int extfs_wipe(int fd, uint64_t offset, uint64_t length)
{
    if (length == 0 || fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                                 (off_t)length) == 0)
        return 0;
    return errno == EOPNOTSUPP || errno == ENOSYS ? write_zeroes(fd, offset, length) : -errno;
}

static int wipe_blocks(const struct extfs *fs, uint64_t first, uint64_t n)
{
    const struct extfs_window *window = fs->fs->io->private_data;
    uint64_t size = fs->fs->blocksize, blocks = window->size / size;

    if (first >= blocks)
        return 0;
    return extfs_wipe(window->fd, window->offset + first * size, cow_min(n, blocks - first) * size);
}

static int wipe_free(struct extfs *fs)
{
    blk64_t at = fs->fs->super->s_first_data_block, last = ext2fs_blocks_count(fs->fs->super) - 1;
    int r = 0;

    while (r == 0 && at <= last) {
        blk64_t begin, end;
        if (ext2fs_find_first_zero_block_bitmap2(fs->fs->block_map, at, last, &begin) != 0)
            break;
        if (ext2fs_find_first_set_block_bitmap2(fs->fs->block_map, begin, last, &end) != 0)
            end = last + 1;
        begin = begin < at ? at : begin; /* of a cluster of blocks */
        r = wipe_blocks(fs, begin, end - begin);
        at = end;
    }
    return r;
}

struct run {
    struct extfs *fs;
    blk64_t first, n;
    int r;
};

static int end_run(struct run *run)
{
    if (run->n > 0 && run->r == 0)
        run->r = wipe_blocks(run->fs, run->first, run->n);
    run->n = 0;
    return run->r;
}

static int on_journal_block(ext2_filsys fs, blk64_t *block, e2_blkcnt_t number, blk64_t ref,
                            int ref_offset, void *opaque)
{
    struct run *run = opaque;

    (void)fs, (void)ref, (void)ref_offset;
    if (number == 0) /* its superblock, which says that it is empty */
        return 0;
    if (run->n > 0 && *block != run->first + run->n && end_run(run) < 0)
        return BLOCK_ABORT;
    if (run->n++ == 0)
        run->first = *block;
    return 0;
}

/* What was in directories and inodes lately is in the journal, too. */
static int wipe_journal(struct extfs *fs)
{
    struct run run = {.fs = fs};

    if (!ext2fs_has_feature_journal(fs->fs->super))
        return 0;
    if (ext2fs_block_iterate3(fs->fs, EXT2_JOURNAL_INO, BLOCK_FLAG_DATA_ONLY | BLOCK_FLAG_READ_ONLY,
                              NULL, on_journal_block, &run) != 0)
        return -EIO;
    return end_run(&run);
}

int extfs_finish(struct extfs *fs)
{
    int r;

    ext2fs_mark_super_dirty(fs->fs);
    r = ext2fs_flush(fs->fs) == 0 ? 0 : -EIO;
    if (r == 0)
        r = wipe_free(fs);
    if (r == 0)
        r = wipe_journal(fs);
    extfs_close(fs);
    return r;
}
