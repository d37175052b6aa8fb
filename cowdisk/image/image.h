/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The parts of vmmd-image. A command has two halves: `prepare` opens files by name with the
 * caller's rights and reads no more of an image than its header; `work` runs in the sandbox, on
 * those files. A command that makes a new file works in a child, and its parent gives the file its
 * name when the child is done.
 *
 *   main.c   command line, order of things   files.c     the files of a chain
 *   info.c   info, snapshots, check          new-file.c  a file that appears when it is complete
 *   change.c create, convert, commit, ...    output.c    table, JSON, CSV; progress
 */
#ifndef COWDISK_IMAGE_H
#define COWDISK_IMAGE_H

#include <jansson.h>

#include "cowdisk/cowdisk.h"

#define IMAGE_MEMORY    (1280ull << 20) /* address space */
#define IMAGE_MAX_FILES 1024u           /* file descriptors: two chains of 200 with their data */

enum image_exit { IMAGE_DONE = 0, IMAGE_FAILED = 1, IMAGE_USAGE = 2, IMAGE_LEAKS = 3 };
enum image_output { OUTPUT_TABLE, OUTPUT_JSON, OUTPUT_CSV };

struct image_options {
    const char *file;
    enum image_output output;
    enum cow_format image_format; /* of the file */
    const char *backing;          /* NULL: not given; "": none wanted */
    enum cow_format backing_format;
    const char *target; /* of convert, create: the new file; NULL: none */
    enum cow_format target_format;
    const char *snapshot;
    uint64_t size; /* 0: not given */
    unsigned cluster_bits;
    unsigned repair; /* COW_REPAIR_* */
    bool compress, keep, unsafe, shrink, force_share, replace;
};

/* A file opened by name, waiting to be asked for by cowdisk. */
struct image_file {
    char *path;
    int fd;       /* -1: given away */
    bool is_data; /* of the image before it */
};

struct image {
    const char *program; /* for messages */
    struct image_options o;
    struct image_file *files;
    size_t n_files;
    int new_fd;     /* of the target, empty; -1: none */
    char *new_path; /* its name while it is made; NULL: it has none */
    char *below;    /* commit: path of the backing file */
    bool terminal;  /* a bar can be drawn */
    int shown;      /* of it, per mille */
    int status;     /* enum image_exit if the work succeeds */
    struct cow_error err;
};

struct image_command {
    const char *name;
    int (*prepare)(struct image *image); /* 0 or -errno and image->err */
    int (*work)(struct image *image);
    const char *options; /* letters of main.c's table */
    const char *required;
};

extern const struct image_command image_commands[]; /* ends with name NULL */

/* ---- files.c */
/* Opens one file. */
int image_open(struct image *image, const char *path, bool writable);
/* Opens a file and all that lies under it (at most COW_MAX_CHAIN), as headers tell. */
int image_open_chain(struct image *image, const char *path, enum cow_format format, bool writable);
/* The fd of the file opened first; stays with the image. */
int image_first(const struct image *image);
/* Gives the first file opened under that path to cowdisk: a cow_open_file_fn. */
int image_take_file(void *opaque, const char *path, bool writable, int *ret_fd);
void image_close_files(struct image *image);
/* Opens a chain out of the files there are. */
int image_chain(struct image *image, const char *path, enum cow_format format, unsigned flags,
                const char *snapshot, struct cow_disk **ret_disk);

/* ---- new-file.c */
/* A new file beside image->o.target that has no name, or one nobody looks for. */
int image_new_file(struct image *image);
/* It is complete: gives it its name. */
int image_publish(struct image *image);
void image_drop_new_file(struct image *image);

/* ---- output.c */
enum image_kind { KIND_TEXT, KIND_NUMBER, KIND_SIZE, KIND_TIME };

struct image_column {
    const char *key, *title; /* title NULL: not shown to people */
    enum image_kind kind;
};

/* Prints and takes a row, line by line for people; columns end with key NULL. */
void image_print_object(const struct image *image, json_t *row, const struct image_column *columns);
void image_print_rows(const struct image *image, json_t *rows, const struct image_column *columns);
/* A cow_progress_fn of the image. */
int image_progress(void *opaque, uint64_t done, uint64_t total);
void image_progress_end(struct image *image);

/* ---- the commands' halves */
int image_prepare_reading(struct image *image);
int image_info(struct image *image);
int image_snapshots(struct image *image);
int image_prepare_chain(struct image *image);
int image_chain_files(struct image *image);
int image_prepare_check(struct image *image);
int image_check(struct image *image);
int image_prepare_create(struct image *image);
int image_create(struct image *image);
int image_prepare_convert(struct image *image);
int image_convert(struct image *image);
int image_prepare_commit(struct image *image);
int image_commit(struct image *image);
int image_prepare_rebase(struct image *image);
int image_rebase(struct image *image);
int image_prepare_resize(struct image *image);
int image_resize(struct image *image);

#endif
