/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cowdisk: disk images for guests.
 *
 * An image is raw, or qcow2 (version 2 or 3) with whatever lies under it: a chain of qcow2 images
 * over a raw or a standalone one. Guests use overlays, qcow2 v3 files that we write ourselves.
 * Everything works on file descriptors that the caller opened; cowdisk opens nothing by name,
 * neither logs nor exits, and knows nothing of guests, the bus or memory sharing. Format: QEMU
 * docs/interop/qcow2.rst.
 *
 * Conventions: offsets and lengths are bytes. Functions return 0 or -errno; ret_ outputs are
 * untouched on failure. Where a reason helps a person, `struct cow_error` receives one line of
 * text.
 *
 * Threads: one struct cow_disk, with all that lies under it, serves one caller at a time (the
 * caller serialises); different chains are independent. Nothing here is process-global.
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
#define COW_MAX_CHAIN        200u  /* images on top of each other, the top one included */
#define COW_MAX_NAME         1024u /* bytes of a file name in an image, with a NUL behind it */

/* One line for people: names the thing and the reason, no newline at the end; printable ASCII
 * whatever the names in an image are made of. */
struct cow_error {
    char text[256];
};

struct cow_disk;
struct cow_hashes;

/* What tells a template from every other: XXH3-128 over its block hashes and its size. */
struct cow_identity {
    uint8_t bytes[16];
};

/* ---- opening ----------------------------------------------------------------------------------
 */

enum cow_format {
    COW_FORMAT_PROBE = 0, /* told by the first bytes: see cow_probe() */
    COW_FORMAT_RAW,
    COW_FORMAT_QCOW2,
};

#define COW_RDONLY (1u << 0) /* refuse writes with -EROFS; take no write locks */
/* Open the image alone although it names a backing file: what it does not hold itself reads as
 * zeroes. Its data cannot be written then (-EROFS). */
#define COW_NO_BACKING (1u << 1)
#define COW_SHARED     (1u << 2) /* take no locks, like qemu-img -U; only with COW_RDONLY */

/* qcow2 if the file begins with its magic, else raw. Never on a disk that a guest can write to and
 * that is known to be raw: a guest can write the magic. -EIO. */
int cow_probe(int fd, enum cow_format *ret_format, struct cow_error *err);

struct cow_open_options {
    int fd; /* of the image; duplicated: the caller keeps its own */
    enum cow_format format;
    unsigned flags; /* COW_RDONLY, ... */
    /* What lies under a qcow2 image that names a backing file; NULL: nothing. From success on the
     * new disk's, which closes it; on failure it stays the caller's. */
    struct cow_disk *backing;
    int data_fd;          /* external data file of a qcow2 image; duplicated; or -1 */
    const char *snapshot; /* internal snapshot by id or name, read-only; NULL: the active state */
    /* Only of a raw image opened with COW_RDONLY: each block is compared with its hash when it is
     * read for the first time; NULL: not. They stay the caller's, until the disk is closed. */
    const struct cow_hashes *hashes;
    /* Told the byte offset of each block that did not match, by the call that reads: that call
     * fails with -EIO. Each time the block is read: it is never taken for good. May be NULL. */
    void (*damaged)(void *opaque, uint64_t offset);
    void *opaque;
    /* What lies under a qcow2 image is this: compared with what the image recorded when it was
     * created, if it did; NULL: not compared. */
    const struct cow_identity *backing_identity;
};

/*
 * Opens one image. Takes QEMU's image locks (OFD locks on bytes 100..203) so that qemu-img refuses
 * to write to an image or a template in use; they belong to the open file description, so open a
 * file once for each cow_open(). -EINVAL: not a valid image, or options that do not fit it (err
 * says what); -ESTALE: what lies below is not what the image was made over, or not what the hashes
 * are of; -EBUSY: locked by someone else; -ENOTSUP: a feature we refuse (encryption, unknown
 * incompatible bits, ...); -ENOENT: no such snapshot; -ENOMEM; -EIO.
 */
int cow_open(struct cow_disk **ret_disk, const struct cow_open_options *options,
             struct cow_error *err);

/* Opens the file `path` for reading, or for reading and writing; the fd becomes cowdisk's. 0 or
 * -errno. */
typedef int (*cow_open_file_fn)(void *opaque, const char *path, bool writable, int *ret_fd);

struct cow_chain_options {
    const char *path; /* of the top image */
    enum cow_format format;
    unsigned flags;       /* of the top image; all below is COW_RDONLY */
    const char *snapshot; /* of the top image, or NULL */
    cow_open_file_fn open_file;
    void *opaque;
};

/*
 * Opens an image with all that lies under it. cowdisk opens nothing by name: `open_file` does, with
 * the caller's rights, and decides what may be opened. A name in an image is taken relative to the
 * directory of the image that names it (a prefix "file:" is dropped; "json:" and other protocols
 * are refused). A backing file whose format is not recorded is probed. An image that comes twice
 * and more than COW_MAX_CHAIN images are refused. Errors as of cow_open(), the text names the file;
 * and those of `open_file`; -ELOOP.
 */
int cow_chain_open(struct cow_disk **ret_disk, const struct cow_chain_options *options,
                   struct cow_error *err);

/* What lies under the disk, or NULL; borrowed: it goes with the disk. */
struct cow_disk *cow_backing(struct cow_disk *disk);

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

enum cow_map_kind {
    COW_MAP_DATA,    /* in the image itself; of a raw image: what is not a hole */
    COW_MAP_ZERO,    /* reads as zeroes, and the image itself says so */
    COW_MAP_BACKING, /* not in the image: comes from below, or is zeroes if nothing is there */
};

struct cow_map {
    enum cow_map_kind kind;
    uint64_t length; /* of the uniform prefix of the range: > 0, <= the range's */
    uint64_t offset; /* COW_MAP_BACKING: in what lies below */
};

/* What the image itself knows of the beginning of a range. -EINVAL for an empty range or one beyond
 * the end; -EIO: damaged tables. */
int cow_map(struct cow_disk *disk, uint64_t offset, uint64_t length, struct cow_map *ret_map);

/*
 * The same through the whole chain: COW_MAP_BACKING if the bytes come unchanged from the raw image
 * at the bottom, `offset` is their place in that file; COW_MAP_ZERO if they are known to be zeroes;
 * else COW_MAP_DATA, as all of a raw disk that lies under nothing. Reads no data and asks no file
 * system. Used to tell memory sharing which template block was read into which guest page.
 */
int cow_map_chain(struct cow_disk *disk, uint64_t offset, uint64_t length, struct cow_map *ret_map);

struct cow_stats {
    uint64_t reads, writes, flushes, discards; /* requests */
    uint64_t read_bytes, written_bytes;
    uint64_t allocated_clusters; /* of the file in use, data and tables; 0 if read-only or raw */
};
void cow_get_stats(const struct cow_disk *disk, struct cow_stats *ret_stats);

/* ---- image files --------------------------------------------------------------------------------
 */

enum cow_compression { COW_COMPRESSION_ZLIB = 0, COW_COMPRESSION_ZSTD = 1 };
enum cow_encryption { COW_ENCRYPTION_NONE = 0, COW_ENCRYPTION_AES = 1, COW_ENCRYPTION_LUKS = 2 };

/* What an image file says about itself. Names are the bytes in the file, of any encoding, without
 * control characters. Of a raw image only the first group is set. */
struct cow_info {
    enum cow_format format;
    uint64_t virtual_size;
    uint64_t file_bytes;      /* length of the file */
    uint64_t allocated_bytes; /* what it takes on its file system */

    uint32_t version, cluster_bits, refcount_bits;
    uint32_t n_snapshots;
    enum cow_compression compression;
    enum cow_encryption encryption;
    bool extended_l2, lazy_refcounts, dirty, corrupt;
    bool has_data_file, data_file_raw;
    char backing_name[COW_MAX_NAME]; /* "": it stands alone */
    char backing_format[16];         /* "": not recorded */
    char data_name[COW_MAX_NAME];    /* external data file; "": not recorded, or none */
    bool has_identity;               /* of the backing file: recorded, */
    struct cow_identity identity;    /* and this */
};

/* Opens no other file, takes no lock. Also of images that cow_open() refuses, as long as the header
 * can be understood. Errors as of cow_open(). */
int cow_info_read(int fd, enum cow_format format, struct cow_info *ret_info, struct cow_error *err);

struct cow_snapshot {
    char id[128], name[256];      /* bytes of any encoding */
    uint64_t date_sec, date_nsec; /* when it was taken, since 1970 */
    uint64_t vm_clock_ns;         /* how long the guest had run */
    uint64_t vm_state_bytes;      /* 0: the disk only */
    uint64_t virtual_size;        /* of the disk then */
};

/* The internal snapshots of a qcow2 image; *ret_list is the caller's to free(), NULL if there are
 * none. Every number in the table is checked: -EINVAL. */
int cow_snapshots_read(int fd, struct cow_snapshot **ret_list, size_t *ret_n,
                       struct cow_error *err);

struct cow_create_options {
    uint64_t size;                  /* a multiple of 512, not 0 */
    unsigned cluster_bits;          /* 9..21, 0: COW_CLUSTER_BITS */
    const char *backing_name;       /* NULL: a standalone image */
    enum cow_format backing_format; /* of the backing file: COW_FORMAT_RAW or COW_FORMAT_QCOW2 */
    const struct cow_identity *backing_identity; /* to be recorded; NULL: nothing is */
};

/* Writes an empty qcow2 v3 image into the empty regular file `fd` (opened read-write; it stays the
 * caller's). Durable on return; when the power goes before, the file may be anything, so it should
 * get its name afterwards. -EINVAL for a bad size or name, -ENOSPC, -EIO. */
int cow_create(int fd, const struct cow_create_options *options, struct cow_error *err);

/* ---- many requests at a time
 * ---------------------------------------------------------------------
 *
 * A queue serves requests to one disk side by side, by io_uring or by a few threads. One thread
 * owns it: all calls below are that thread's, and so is the disk while the queue exists; between
 * them only cow_map(), cow_size() and cow_get_stats() may be called. Data goes between the file and
 * the caller's buffers without a copy. A write is durable only after a flush that was submitted
 * when the write was done. Requests may be done in any order.
 */

#define COW_QUEUE_DEPTH 64u /* requests that are worth having under way; more are accepted */

enum cow_request_kind { COW_READ, COW_WRITE, COW_FLUSH, COW_DISCARD, COW_WRITE_ZEROES };

struct cow_request {
    enum cow_request_kind kind;
    const struct iovec *iov; /* of a read or write: the caller's until it is done */
    int iovcnt;
    uint64_t offset, length; /* of a discard or write-zeroes, bytes */
    /* Called by cow_queue_reap() when it is done: the request is the caller's again. */
    void (*done)(struct cow_request *request);
    void *opaque; /* the caller's */
    int result;   /* 0 or -errno as of cow_preadv(), cow_pwritev(), cow_flush(), ... */
    struct {      /* the queue's */
        struct cow_request *next;
        uint64_t length;
        unsigned pieces;
    } own;
};

struct cow_queue;

enum cow_queue_kind { COW_QUEUE_ANY, COW_QUEUE_URING, COW_QUEUE_THREADS };

/* `event_fd`: an eventfd, the caller's, written to when cow_queue_reap() has something to do.
 * COW_QUEUE_ANY takes io_uring if the kernel has it. To be called before a seccomp filter forbids
 * io_uring_setup(2) and clone(2); afterwards io_uring_enter(2) is needed. -ENOSYS or -EPERM: not
 * to be had; -ENOMEM. */
int cow_queue_new(struct cow_queue **ret_queue, struct cow_disk *disk, enum cow_queue_kind kind,
                  int event_fd);
/* Waits for what is under way; requests not done are done with -ECANCELED if they have not begun.
 * The disk stays the caller's. NULL is fine. */
void cow_queue_free(struct cow_queue *queue);
const char *cow_queue_name(const struct cow_queue *queue); /* "io_uring" or "threads" */

/* Takes a request; it begins with this call, or with a cow_queue_reap() when it has to wait for
 * others. Never blocks but for tables of the image that are not in memory, and for a flush or
 * discard that changes them. */
void cow_queue_submit(struct cow_queue *queue, struct cow_request *request);
/* Has the kernel begin what was submitted and calls done() for what is done, which may submit.
 * Returns how many requests are not done. */
unsigned cow_queue_reap(struct cow_queue *queue);
/* Waits until all requests are done. */
void cow_queue_drain(struct cow_queue *queue);

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
    struct cow_identity identity;
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

/* The identity in a hash file, for little: its checksum is not looked at. Errors as of
 * cow_hashes_map(). */
int cow_hashes_identity(int hash_fd, uint64_t disk_bytes, struct cow_identity *ret_identity,
                        struct cow_error *err);

/* Reads all of `raw_fd` and compares it with its hashes; `damaged` is told the byte offset of each
 * block that differs. 0: none does; -EILSEQ: some do; -ECANCELED by `progress` (may be NULL); -EIO,
 * -ENOMEM. */
int cow_hashes_verify(int raw_fd, const struct cow_hashes *hashes,
                      void (*damaged)(void *opaque, uint64_t offset), cow_progress_fn progress,
                      void *opaque);

/* ---- changing images ----------------------------------------------------------------------------
 */

#define COW_SHRINK (1u << 4) /* the new size may be smaller: what lies behind it is lost */

/*
 * Gives the disk another size (a multiple of 512). What is new reads as zeroes. Durable on return.
 * Killed at any moment, the disk has the old or the new size and all its data. -EINVAL: not a size,
 * or smaller without COW_SHRINK; -EROFS; -ENOTSUP: a block device; -ENOSPC: nothing changed; -EIO.
 */
int cow_resize(struct cow_disk *disk, uint64_t size, unsigned flags, struct cow_error *err);

struct cow_convert_options {
    enum cow_format format; /* COW_FORMAT_RAW or COW_FORMAT_QCOW2 */
    unsigned cluster_bits;  /* of a new qcow2 image; 0: COW_CLUSTER_BITS */
    bool compress;          /* qcow2: compress clusters (zlib) where that saves space */
};

/*
 * Writes all that a disk shows into the empty regular file `fd` (open for reading and writing; it
 * stays the caller's): a sparse raw image or a qcow2 image that stands alone. Zeroes become holes.
 * Durable on return. Until then the file is no use; the caller gives it its name afterwards.
 * -ECANCELED by `progress` (may be NULL); -ENOSPC; -EIO.
 */
int cow_convert(struct cow_disk *disk, int fd, const struct cow_convert_options *options,
                cow_progress_fn progress, void *opaque, struct cow_error *err);

#define COW_KEEP (1u << 5) /* the overlay keeps its clusters */

/*
 * Writes what the overlay holds into its backing file, which grows if it is smaller, and, unless
 * COW_KEEP, empties the overlay. `overlay` and cow_backing(overlay) are open for writing. What the
 * overlay shows is the same before, after, and at every moment between, also after a kill: its
 * clusters go only after the backing file is durable. Other overlays of that backing file are
 * ruined. Errors: -EROFS, -EINVAL: no backing file; -ENOTSUP: it has internal snapshots, or
 * records that its backing file is a template; -ENOSPC, -EIO; -ECANCELED.
 */
int cow_commit_to_backing(struct cow_disk *overlay, unsigned flags, cow_progress_fn progress,
                          void *opaque, struct cow_error *err);

struct cow_rebase_options {
    const char *backing_name;       /* to be recorded; NULL: the image shall stand alone */
    enum cow_format backing_format; /* COW_FORMAT_RAW or COW_FORMAT_QCOW2 */
    struct cow_disk *backing;       /* the new backing file, open for reading; NULL: none */
    bool unsafe;                    /* only record the name: the contents are equal already */
};

/*
 * Gives an image another backing file, or none. What the disk shows stays the same: where the old
 * and the new one differ, data is copied into the image first; the name changes last, in one step.
 * The disk must be closed afterwards: it still reads from the old one. `backing` stays the
 * caller's. -ENOTSUP: the header has no room; -ENOSPC, -EIO; -ECANCELED.
 */
int cow_rebase(struct cow_disk *disk, const struct cow_rebase_options *options,
               cow_progress_fn progress, void *opaque, struct cow_error *err);

/* The path of what the image at the path `from` calls `name`; malloc'ed. As cow_chain_open() does
 * it. -ENOTSUP, -EINVAL, -ENAMETOOLONG, -ENOMEM. */
int cow_resolve_name(const char *from, const char *name, char **ret_path, struct cow_error *err);

/* ---- checking an image ------------------------------------------------------------------------
 */

#define COW_REPAIR_LEAKS (1u << 8) /* give back clusters that are counted but not used */
#define COW_REPAIR_ALL   (1u << 9) /* leaks, refcounts, COPIED flags, dirty and corrupt bit */

#define COW_CHECK_PROBLEMS 16 /* errors told in words; all are counted */

struct cow_check_result {
    uint64_t corruptions, leaks;             /* found; after a repair: left */
    uint64_t corruptions_fixed, leaks_fixed; /* by this repair */
    uint64_t total_clusters;                 /* of the virtual disk */
    uint64_t allocated_clusters, compressed_clusters, fragmented_clusters;
    uint64_t image_end;  /* bytes: the last cluster in use ends here */
    bool dirty, corrupt; /* the header says so: refcounts out of date, an error was seen */
    size_t n_problems;
    char problem[COW_CHECK_PROBLEMS][112]; /* one line each, of the first errors */
};

/*
 * Walks all metadata of a qcow2 image of version 2 or 3, snapshots and bitmaps included, and
 * compares every refcount with the references found: the verdict is that of qemu-img check
 * (corruptions: 2, leaks alone: 3). Memory: 8 bytes a cluster, at most 256 MiB; larger files are
 * walked several times. `flags`: COW_SHARED takes no locks, COW_REPAIR_* repair (fd open for
 * writing, nobody else using it). A repair that is killed at any moment leaves the image no worse
 * than it was. 0: *ret_result tells, errors found included. -EINVAL: no such image; -EBUSY;
 * -ENOTSUP, -EFBIG, -ERANGE: cannot be repaired (err says why); -ECANCELED by `progress` (may be
 * NULL); -EIO.
 */
int cow_check(int fd, unsigned flags, struct cow_check_result *ret_result, cow_progress_fn progress,
              void *opaque, struct cow_error *err);

/* ---- import
 * -------------------------------------------------------------------------------------- */

/*
 * vmmd-import is a program (cowdisk/import/): the only one that parses foreign file systems, and
 * the only one that runs libqcow (for qcow version 1 and for AES). vmmd starts it with these fds
 * and nothing else; it sandboxes itself, sends struct cow_import_msg on the status socket and exits
 * 0 after COW_IMPORT_DONE, 1 after COW_IMPORT_FAILED.
 *
 * vmmd-import [--kernel] [--initrd] [--cmdline TEXT] [--passphrase] [--snapshot S]
 *             [--below N [--below-hashes]] [--remove-identity]
 * vmmd-import --verify
 * vmmd-import --export raw|qcow2 [--compress]
 * vmmd-import --disk raw|qcow2 [--resize BYTES [--shrink]] [--below N]
 *
 * - fd 3: status socket, SOCK_SEQPACKET
 * - fd 4: source image, read-only: raw, qcow2 or qcow, told by its first bytes
 * - fd 5: disk.raw, empty, read-write: receives the sparse raw disk
 * - fd 6: hashes, empty, read-write: receives the hash file
 * - fd 7: kernel, empty, read-write; with --kernel a copy of the caller's, read-only: it is only
 *   checked (bzImage magic, size)
 * - fd 8: initrd, likewise with --initrd
 * - fd 9: with --passphrase: a file, read-only, whose first line decrypts the source if it is
 *   encrypted with AES. Whether it was the right one cannot be told but by what is then found.
 * - fds 10...: with --below N: the N files that the source needs, read-only: of each image, from
 * the top down, its external data file, if it has one, and what lies under it; then, with
 *   --below-hashes, the hash file of the last of them, which is the disk of a template: all that is
 *   read from it is compared
 *
 * With --remove-identity what tells a machine from its copies is removed from the disk (identity.c
 * says what); only from ext2, ext3 and ext4 that were unmounted cleanly.
 *
 * With --verify alone nothing is imported: fd 4 is the disk of a template and fd 6 its hash file,
 * both read-only; they are compared, FAILED names the first damaged blocks. What the other fds are
 * does not matter.
 *
 * With --export nothing is imported either: fds 4 and 6 are the same, and the disk is written to fd
 * 5, an empty file, read-write, as an image that stands alone; each block is compared with its
 * hash.
 *
 * With --disk fd 4 is a disk of a guest, of that format, with what lies under it on fds 10...: DONE
 * tells its size, after it was changed if it is to be (fd 4 is read-write then; --shrink: also to
 * less).
 *
 * With --snapshot an internal snapshot of the source, by id or name, instead of its current state.
 * Without --cmdline the command line is found: root= from the image's own file systems, e.g.
 * "root=PARTUUID=... ro console=ttyS0".
 */
#define COW_IMPORT_MAX_BELOW 8u

enum cow_import_type { COW_IMPORT_PROGRESS = 1, COW_IMPORT_DONE = 2, COW_IMPORT_FAILED = 3 };

struct cow_import_msg {
    uint32_t type;         /* enum cow_import_type */
    uint32_t has_kernel;   /* DONE: 1 if fd 7 holds a kernel */
    uint32_t has_initrd;   /* DONE: 1 if fd 8 holds an initrd */
    uint32_t damaged;      /* FAILED: 1 if a template's disk did not match its hashes */
    uint64_t done, total;  /* PROGRESS: bytes, over copying and hashing */
    uint64_t disk_bytes;   /* DONE: size of disk.raw, or of the disk */
    char os_name[128];     /* DONE: PRETTY_NAME of the image, or "" */
    char kernel_name[128]; /* DONE: e.g. "vmlinuz-6.1.0-30-cloud-amd64", or "" */
    char cmdline[1024];    /* DONE: kernel command line found or given */
    char error[512];       /* FAILED: one line: what and why */
};

#endif
