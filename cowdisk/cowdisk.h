/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cowdisk: disk images for guests.
 *
 * An overlay is a qcow2 v3 file over a raw template. Everything works on file descriptors that the
 * caller opened; cowdisk opens nothing by name, neither logs nor exits, and knows nothing of
 * guests, the bus or memory sharing. Format: QEMU docs/interop/qcow2.rst.
 *
 * Conventions: offsets and lengths are bytes. Functions return 0 or -errno; ret_ outputs are
 * untouched on failure. Where a reason helps a person, `struct cow_error` receives one line of
 * text.
 *
 * Threads: one struct cow_disk serves one caller at a time (the caller serialises); different disks
 * are independent. Nothing here is process-global.
 */
#ifndef COWDISK_H
#define COWDISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define COW_BLOCK_SIZE       4096u        /* unit of template hashes */
#define COW_CLUSTER_BITS     16u          /* default cluster: 64 KiB */
#define COW_MAX_VIRTUAL_SIZE (1ull << 46) /* 64 TiB: larger images are refused */
#define COW_MAX_IOV          1024u

/* One line for people: names the thing and the reason, no newline at the end. */
struct cow_error {
    char text[256];
};

struct cow_disk;

/* ---- opening ----------------------------------------------------------------------------------
 */

#define COW_RDONLY (1u << 0) /* refuse writes with -EROFS; take no write locks */

/*
 * Writes an empty qcow2 v3 overlay into the empty regular file `fd` (opened read-write).
 * `backing_name` (<= 1023 bytes) is stored with backing format "raw"; `virtual_size` is a multiple
 * of 512. Durable on return (fdatasync). -EINVAL for a bad size or name, -ENOSPC, -EIO.
 * The fd stays the caller's.
 */
int cow_overlay_create(int fd, const char *backing_name, uint64_t virtual_size,
                       unsigned cluster_bits, struct cow_error *err);

/*
 * Opens an image. `fd` is qcow2 v2/v3 or raw (`raw` says which: nothing is probed here);
 * `backing_fd` is the raw template under a qcow2 overlay, or -1. Both fds are duplicated; the
 * caller keeps its own. Takes QEMU's image locks (facts: OFD locks on bytes 100..203) so that
 * qemu-img refuses to write to an image or a template in use; they belong to the open file
 * description, so open a file once for each cow_open(). -EINVAL: not a valid image (err says what);
 * -EBUSY: locked by someone else; -ENOTSUP: a feature we refuse (encryption, unknown incompatible
 * bits,
 * ...); -ENOMEM; -EIO.
 */
int cow_open(struct cow_disk **ret_disk, int fd, bool raw, int backing_fd, unsigned flags,
             struct cow_error *err);

/* Flushes, releases locks and memory. NULL is fine. The result of that flush. Without it (kill -9)
 * the file is what the last flush made it, or a later state: always a clean image. */
int cow_close(struct cow_disk *disk);

uint64_t cow_size(const struct cow_disk *disk);

/* ---- input and output --------------------------------------------------------------------------
 */

/*
 * Read or write `iov` at `offset`, all of it or an error: -EINVAL beyond the end, -EIO, -ENOSPC
 * (the image stays consistent and usable; what was written before stays), -EROFS. A write is
 * durable only after cow_flush() returned 0. Any byte alignment is accepted; 4 KiB alignment is
 * fast.
 */
int cow_preadv(struct cow_disk *disk, const struct iovec *iov, int iovcnt, uint64_t offset);
int cow_pwritev(struct cow_disk *disk, const struct iovec *iov, int iovcnt, uint64_t offset);

/*
 * Everything written before is durable when this returns 0. Metadata reaches the file only here, in
 * one step (commit.c): killed or unplugged at any instant, the file is a clean image without leaks
 * that holds all flushed data. -ENOSPC: nothing is lost, the next flush tries again. Any other
 * error comes from the disk: what was not flushed may be gone, writes and flushes fail with -EIO
 * from then on; closing and opening again continues from the last state that was flushed.
 */
int cow_flush(struct cow_disk *disk);

/* The range reads as zeroes afterwards (never the template through: zero clusters, not holes). */
int cow_write_zeroes(struct cow_disk *disk, uint64_t offset, uint64_t length);

/* The guest no longer needs the range; it reads as zeroes afterwards, host space is given back
 * where whole clusters are covered. Partial clusters at the ends may be left as they are. */
int cow_discard(struct cow_disk *disk, uint64_t offset, uint64_t length);

/*
 * Which part of the range comes unchanged from the backing file? Sets *ret_length (> 0, <= length)
 * to the length of the uniform prefix and *ret_backing_offset to its offset in the backing file, or
 * to UINT64_MAX if that prefix does not come from it. Used to tell memory sharing which template
 * block was read into which guest page.
 */
int cow_map(struct cow_disk *disk, uint64_t offset, uint64_t length, uint64_t *ret_length,
            uint64_t *ret_backing_offset);

struct cow_stats {
    uint64_t reads, writes, flushes, discards; /* requests */
    uint64_t read_bytes, written_bytes;
    uint64_t allocated_clusters; /* of the file in use, data and tables; 0 if read-only or raw */
};
void cow_get_stats(const struct cow_disk *disk, struct cow_stats *ret_stats);

/* ---- template block hashes ----------------------------------------------------------------------
 */

/*
 * The hash file of a template: XXH3-64 (seed 0) of each 4 KiB block of the raw disk (the last block
 * padded with zeroes), and all block numbers sorted by (hash, block). It serves integrity and
 * sharing.
 */
struct cow_hashes {
    uint64_t disk_bytes;
    uint64_t n_blocks;
    const uint64_t *hash;    /* [n_blocks], by block number */
    const uint32_t *by_hash; /* [n_blocks], block numbers in order of (hash, block) */
    void *map;               /* private: the mapping */
    size_t map_bytes;
};

/* Called now and then; `done` of `total` bytes. A return other than 0 cancels with -ECANCELED. */
typedef int (*cow_progress_fn)(void *opaque, uint64_t done, uint64_t total);

/* Reads all of `raw_fd` and writes the hash file into the empty file `hash_fd`; durable on return.
 */
int cow_hashes_write(int raw_fd, int hash_fd, cow_progress_fn progress, void *opaque);

/* Maps a hash file read-only (shared by all guests of the template) and checks every bound in it:
 * header, lengths, each block number. `disk_bytes` must match. cow_hashes_unmap() undoes it. */
int cow_hashes_map(int hash_fd, uint64_t disk_bytes, struct cow_hashes *ret_hashes,
                   struct cow_error *err);
void cow_hashes_unmap(struct cow_hashes *hashes);

/* ---- import
 * -------------------------------------------------------------------------------------- */

/*
 * vmmd-import is a program (cowdisk/import/): the only one that parses foreign images and foreign
 * file systems. vmmd starts it with these fds and nothing else, sandboxed; it sends struct
 * cow_import_msg on the status socket (SOCK_SEQPACKET) and exits 0 after COW_IMPORT_DONE, 1 after
 * COW_IMPORT_FAILED. vmmd-import [--kernel] [--initrd] [--cmdline TEXT] fd 3  status socket fd 4
 * source image, read-only (raw or qcow2: told by its magic) fd 5  disk.raw   empty, read-write:
 * receives the sparse raw disk fd 6  hashes     empty, read-write: receives the hash file fd 7
 * kernel     empty, read-write, or with --kernel a copy of the caller's kernel, read-only: then it
 * is only checked (bzImage magic, size) fd 8  initrd     likewise with --initrd Without --cmdline
 * the command line is found: root= from the image's own file systems, e.g. "root=PARTUUID=... ro
 * console=ttyS0".
 */
enum cow_import_type { COW_IMPORT_PROGRESS = 1, COW_IMPORT_DONE = 2, COW_IMPORT_FAILED = 3 };

struct cow_import_msg {
    uint32_t type;       /* enum cow_import_type */
    uint32_t has_kernel; /* DONE: 1 if fd 7 holds a kernel */
    uint32_t has_initrd; /* DONE: 1 if fd 8 holds an initrd */
    uint32_t reserved;
    uint64_t done, total;  /* PROGRESS: bytes, over copying and hashing */
    uint64_t disk_bytes;   /* DONE: size of disk.raw */
    char os_name[128];     /* DONE: PRETTY_NAME of the image, or "" */
    char kernel_name[128]; /* DONE: e.g. "vmlinuz-6.1.0-30-cloud-amd64", or "" */
    char cmdline[1024];    /* DONE: kernel command line found or given */
    char error[512];       /* FAILED: one line: what and why */
};

#endif
