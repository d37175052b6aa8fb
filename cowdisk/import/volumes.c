/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The partitions of a disk and what kind of file system each holds, through libblkid: GPT, MBR, or
 * a file system on the whole disk. Names from the disk become part of a kernel command line, so
 * only the characters of a UUID are let through.
 */
#include "cowdisk/import/import.h"

#include <blkid/blkid.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SECTOR 512ull

static bool is_uuid(const char *text)
{
    size_t n = 0;

    for (; text[n]; n++) {
        if (!isxdigit((unsigned char)text[n]) && text[n] != '-')
            return false;
    }
    return n > 0 && n < 64;
}

static void copy_uuid(char *to, size_t size, const char *from)
{
    if (from && is_uuid(from))
        snprintf(to, size, "%s", from);
}

/* What is in a volume: type and UUID stay "" if that is unknown. */
static void probe_volume(int fd, struct volume *volume)
{
    /* Those we read, and those we can name in a message. */
    char *types[] = {"ext2", "ext3",       "ext4", "xfs",         "btrfs",       "f2fs",
                     "vfat", "zfs_member", "swap", "LVM2_member", "crypto_LUKS", NULL};
    blkid_probe probe = blkid_new_probe();
    const char *value;

    if (!probe)
        return;
    if (blkid_probe_set_device(probe, fd, (blkid_loff_t)volume->offset,
                               (blkid_loff_t)volume->size) == 0) {
        blkid_probe_enable_superblocks(probe, 1);
        blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_UUID |
                                                     BLKID_SUBLKS_LABEL);
        blkid_probe_filter_superblocks_type(probe, BLKID_FLTR_ONLYIN, types);
        if (blkid_do_safeprobe(probe) == 0) {
            if (blkid_probe_lookup_value(probe, "TYPE", &value, NULL) == 0)
                snprintf(volume->type, sizeof(volume->type), "%s", value);
            if (blkid_probe_lookup_value(probe, "UUID", &value, NULL) == 0)
                copy_uuid(volume->uuid, sizeof(volume->uuid), value);
            if (blkid_probe_lookup_value(probe, "LABEL", &value, NULL) == 0)
                snprintf(volume->label, sizeof(volume->label), "%s", value);
        }
    }
    blkid_free_probe(probe);
}

static bool read_partition(blkid_partition partition, uint64_t disk_bytes, struct volume *volume)
{
    uint64_t start = (uint64_t)blkid_partition_get_start(partition);
    uint64_t size = (uint64_t)blkid_partition_get_size(partition);

    if (blkid_partition_is_extended(partition) || size == 0 || start >= disk_bytes / SECTOR ||
        size > disk_bytes / SECTOR - start)
        return false;
    *volume = (struct volume){
        .offset = start * SECTOR,
        .size = size * SECTOR,
        .number = blkid_partition_get_partno(partition),
    };
    copy_uuid(volume->partuuid, sizeof(volume->partuuid), blkid_partition_get_uuid(partition));
    return true;
}

static size_t read_partitions(blkid_probe probe, uint64_t disk_bytes, struct volume *volumes,
                              size_t max)
{
    blkid_partlist list = blkid_probe_get_partitions(probe);
    int n = list ? blkid_partlist_numof_partitions(list) : 0;
    size_t count = 0;

    for (int i = 0; i < n && count < max; i++) {
        blkid_partition partition = blkid_partlist_get_partition(list, i);
        if (partition && read_partition(partition, disk_bytes, &volumes[count]))
            count++;
    }
    return count;
}

int volumes_find(int fd, uint64_t disk_bytes, struct volume *volumes, size_t max, size_t *ret_count)
{
    blkid_probe probe = blkid_new_probe();
    size_t count = 0;

    if (!probe)
        return -ENOMEM;
    if (blkid_probe_set_device(probe, fd, 0, (blkid_loff_t)disk_bytes) == 0) {
        blkid_probe_enable_superblocks(probe, 0);
        blkid_probe_enable_partitions(probe, 1);
        blkid_probe_set_partitions_flags(probe, BLKID_PARTS_ENTRY_DETAILS);
        count = read_partitions(probe, disk_bytes, volumes, max);
    }
    blkid_free_probe(probe);
    if (count == 0) {
        volumes[0] = (struct volume){.size = disk_bytes};
        count = 1;
    }
    for (size_t i = 0; i < count; i++)
        probe_volume(fd, &volumes[i]);
    *ret_count = count;
    return 0;
}

bool volume_is_ext(const struct volume *volume)
{
    return strncmp(volume->type, "ext", 3) == 0;
}
