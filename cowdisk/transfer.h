/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What moves a disk's contents from image to image: convert, commit, rebase.
 */
#ifndef COWDISK_TRANSFER_H
#define COWDISK_TRANSFER_H

#include "cowdisk/internal.h"

#define TRANSFER_BYTES (2u << 20) /* moved at a time; holds the largest cluster */

struct transfer {
    uint8_t *data;    /* TRANSFER_BYTES */
    uint64_t total;   /* bytes of the disk */
    const char *verb; /* what is being done, for an error's text */
    cow_progress_fn progress;
    void *opaque;
    struct cow_error *err;
};

int transfer_start(struct transfer *t, uint64_t total, cow_progress_fn progress, void *opaque,
                   struct cow_error *err);
/* Frees; tells of `r` if nobody did. Returns r. */
int transfer_end(struct transfer *t, int r);
/* -ECANCELED if the caller has had enough. */
int transfer_tell(const struct transfer *t, uint64_t done);

/* What the beginning of a range shows, through all layers: COW_MAP_ZERO if that is known without
 * reading, else COW_MAP_DATA. Ranges behind the end of `disk` are zeroes; so is a disk that is
 * NULL. */
int transfer_map(struct cow_disk *disk, uint64_t offset, uint64_t length, struct cow_map *ret_map);
/* The end of the first part of `data` that is all zeroes or none of it, in steps of `unit`. */
uint64_t transfer_run(const uint8_t *data, uint64_t length, uint64_t unit, bool *ret_zero);
/* Writes to a disk: zeroes as zeroes, the rest as data. */
int transfer_write(struct cow_disk *disk, const uint8_t *data, uint64_t length, uint64_t offset);

/* ---- transfer-pack.c: compressed clusters */

struct packer;
int packer_new(struct packer **ret_packer, struct cow_disk *disk);
void packer_free(struct packer *packer);
/* Writes one cluster of the disk that was empty so far; compressed if that saves anything. */
int packer_write(struct packer *packer, const uint8_t *cluster, uint64_t length, uint64_t offset);

/* ---- backing-name.c */

/* Records another backing file, or none (NULL), in the header of an image without pending changes.
 * One step: killed at any moment, the header has the old name or the new one. */
int cow_set_backing_name(struct cow_disk *disk, const char *name, enum cow_format format,
                         struct cow_error *err);

#endif
