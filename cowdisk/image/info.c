/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * info, snapshots, check: what an image is, and whether it is in order.
 */
#include "cowdisk/image/image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cowdisk/internal.h"

int image_prepare_reading(struct image *image)
{
    int fd = image_open(image, image->o.file, false);

    return fd < 0 ? fd : 0;
}

/* While somebody writes to it, what can be read now is out of date in a moment. */
static int refuse_in_use(struct image *image)
{
    int fd = image_first(image);
    int r = image->o.force_share ? 0 : cow_lock(fd, false, &image->err);

    if (r == 0 && !image->o.force_share)
        cow_unlock(fd);
    return r;
}

static const char *format_name(enum cow_format format)
{
    return format == COW_FORMAT_RAW ? "raw" : "qcow2";
}

/* ---- info ------------------------------------------------------------------------------------ */

static const struct image_column info_columns[] = {
    {"file", "File", KIND_TEXT},
    {"image_format", "Format", KIND_TEXT},
    {"size", "Size", KIND_SIZE},
    {"disk_usage", "On disk", KIND_SIZE},
    {"file_size", "File size", KIND_SIZE},
    {"version", "Version", KIND_NUMBER},
    {"cluster_size", "Cluster", KIND_SIZE},
    {"backing", "Backing file", KIND_TEXT},
    {"backing_format", "Backing format", KIND_TEXT},
    {"backing_identity", "Backing identity", KIND_TEXT},
    {"data_file", "Data file", KIND_TEXT},
    {"compression", "Compression", KIND_TEXT},
    {"encryption", "Encryption", KIND_TEXT},
    {"snapshots", "Snapshots", KIND_NUMBER},
    {"refcount_bits", "Refcount bits", KIND_NUMBER},
    {"extended_l2", "Extended L2", KIND_TEXT},
    {"lazy_refcounts", "Lazy refcounts", KIND_TEXT},
    {"dirty", "Dirty", KIND_TEXT},
    {"corrupt", "Corrupt", KIND_TEXT},
    {0},
};

/* Of a raw image only the first five lines mean anything. */
#define RAW_COLUMNS 5

/* A name may be of any encoding; JSON text is UTF-8. */
static json_t *text(const char *bytes)
{
    json_t *string = json_string(bytes);

    return string ? string : json_string("(not UTF-8)");
}

/* Of the template that the overlay was made on, in hexadecimal; "" if none is recorded. */
static json_t *identity(const struct cow_info *info)
{
    char digits[2 * sizeof(info->identity.bytes) + 1] = "";

    for (size_t i = 0; info->has_identity && i < sizeof(info->identity.bytes); i++)
        snprintf(digits + 2 * i, 3, "%02x", info->identity.bytes[i]);
    return json_string(digits);
}

static json_t *info_row(const char *file, const struct cow_info *info)
{
    static const char *const encryption[] = {"none", "aes", "luks"};
    json_t *row = json_object();

    json_object_set_new(row, "file", text(file));
    json_object_set_new(row, "image_format", json_string(format_name(info->format)));
    json_object_set_new(row, "size", json_integer((json_int_t)info->virtual_size));
    json_object_set_new(row, "disk_usage", json_integer((json_int_t)info->allocated_bytes));
    json_object_set_new(row, "file_size", json_integer((json_int_t)info->file_bytes));
    if (info->format == COW_FORMAT_RAW)
        return row;
    json_object_set_new(row, "version", json_integer(info->version));
    json_object_set_new(row, "cluster_size", json_integer(1ll << info->cluster_bits));
    json_object_set_new(row, "backing", text(info->backing_name));
    json_object_set_new(row, "backing_format", text(info->backing_format));
    json_object_set_new(row, "backing_identity", identity(info));
    json_object_set_new(row, "data_file", text(info->data_name));
    json_object_set_new(row, "compression",
                        json_string(info->compression == COW_COMPRESSION_ZSTD ? "zstd" : "zlib"));
    json_object_set_new(row, "encryption", json_string(encryption[info->encryption]));
    json_object_set_new(row, "snapshots", json_integer(info->n_snapshots));
    json_object_set_new(row, "refcount_bits", json_integer(info->refcount_bits));
    json_object_set_new(row, "extended_l2", json_boolean(info->extended_l2));
    json_object_set_new(row, "lazy_refcounts", json_boolean(info->lazy_refcounts));
    json_object_set_new(row, "dirty", json_boolean(info->dirty));
    json_object_set_new(row, "corrupt", json_boolean(info->corrupt));
    return row;
}

int image_info(struct image *image)
{
    struct image_column raw_columns[RAW_COLUMNS + 1] = {0};
    struct cow_info info;
    int r = refuse_in_use(image);

    if (r == 0)
        r = cow_info_read(image_first(image), image->o.image_format, &info, &image->err);
    if (r < 0)
        return r;
    memcpy(raw_columns, info_columns, RAW_COLUMNS * sizeof(raw_columns[0]));
    image_print_object(image, info_row(image->o.file, &info),
                       info.format == COW_FORMAT_RAW && image->o.output == OUTPUT_TABLE
                           ? raw_columns
                           : info_columns);
    return 0;
}

/* ---- chain ----------------------------------------------------------------------------------- */

int image_prepare_chain(struct image *image)
{
    return image_open_chain(image, image->o.file, image->o.image_format, false);
}

/* Every file that the image is made of; what lies under it behind it. */
int image_chain_files(struct image *image)
{
    static const struct image_column columns[] = {
        {"role", "ROLE", KIND_TEXT}, {"file", "FILE", KIND_TEXT}, {0}};
    json_t *rows = json_array();

    for (size_t i = 0; i < image->n_files; i++) {
        const struct image_file *file = &image->files[i];
        const char *role = file->is_data ? "data" : i == 0 ? "image" : "backing";
        json_t *row = json_object();

        json_object_set_new(row, "role", json_string(role));
        json_object_set_new(row, "file", text(file->path));
        json_array_append_new(rows, row);
    }
    image_print_rows(image, rows, columns);
    return 0;
}

/* ---- check ----------------------------------------------------------------------------------- */

static const struct image_column check_columns[] = {
    {"file", "File", KIND_TEXT},
    {"result", "Result", KIND_TEXT},
    {"corruptions", "Errors", KIND_NUMBER},
    {"leaks", "Leaked clusters", KIND_NUMBER},
    {"corruptions_fixed", "Errors repaired", KIND_NUMBER},
    {"leaks_fixed", "Leaks repaired", KIND_NUMBER},
    {"clusters", "Clusters", KIND_NUMBER},
    {"allocated", "Allocated", KIND_NUMBER},
    {"compressed", "Compressed", KIND_NUMBER},
    {"fragmented", "Fragmented", KIND_NUMBER},
    {"image_end", "Image end", KIND_SIZE},
    {"dirty", "Dirty", KIND_TEXT},
    {"corrupt", "Corrupt", KIND_TEXT},
    {"problems", NULL, KIND_TEXT},
    {0},
};

int image_prepare_check(struct image *image)
{
    int fd = image_open(image, image->o.file, image->o.repair != 0);

    return fd < 0 ? fd : 0;
}

static json_t *check_row(const char *file, const struct cow_check_result *c)
{
    const char *result = c->corruptions ? "errors" : c->leaks ? "leaks" : "clean";
    json_t *row = json_object(), *problems = json_array();

    for (size_t i = 0; i < c->n_problems; i++)
        json_array_append_new(problems, json_string(c->problem[i]));
    json_object_set_new(row, "file", text(file));
    json_object_set_new(row, "result", json_string(result));
    json_object_set_new(row, "corruptions", json_integer((json_int_t)c->corruptions));
    json_object_set_new(row, "leaks", json_integer((json_int_t)c->leaks));
    json_object_set_new(row, "corruptions_fixed", json_integer((json_int_t)c->corruptions_fixed));
    json_object_set_new(row, "leaks_fixed", json_integer((json_int_t)c->leaks_fixed));
    json_object_set_new(row, "clusters", json_integer((json_int_t)c->total_clusters));
    json_object_set_new(row, "allocated", json_integer((json_int_t)c->allocated_clusters));
    json_object_set_new(row, "compressed", json_integer((json_int_t)c->compressed_clusters));
    json_object_set_new(row, "fragmented", json_integer((json_int_t)c->fragmented_clusters));
    json_object_set_new(row, "image_end", json_integer((json_int_t)c->image_end));
    json_object_set_new(row, "dirty", json_boolean(c->dirty));
    json_object_set_new(row, "corrupt", json_boolean(c->corrupt));
    json_object_set_new(row, "problems", problems);
    return row;
}

static void tell_problems(const struct image *image, const struct cow_check_result *result)
{
    for (size_t i = 0; i < result->n_problems; i++)
        fprintf(stderr, "%s: %s: %s\n", image->program, image->o.file, result->problem[i]);
    if (result->corruptions > result->n_problems)
        fprintf(stderr, "%s: %s: %llu more errors\n", image->program, image->o.file,
                (unsigned long long)(result->corruptions - result->n_problems));
    if (result->corruptions || result->leaks)
        fprintf(stderr, "%s: %s: %s\n", image->program, image->o.file,
                image->o.repair ? "not everything could be repaired: copy what can be read with "
                                  "\"vmctl image convert\", or restore a backup"
                                : "to repair it: vmctl image check --repair all (a copy first, if "
                                  "the data matters)");
}

int image_check(struct image *image)
{
    unsigned flags = image->o.repair | (image->o.force_share ? COW_SHARED : 0);
    struct cow_check_result result;
    int r = cow_check(image_first(image), flags, &result, image_progress, image, &image->err);

    image_progress_end(image);
    if (r < 0)
        return r;
    image_print_object(image, check_row(image->o.file, &result), check_columns);
    fflush(stdout);
    if (image->o.output == OUTPUT_TABLE)
        tell_problems(image, &result);
    image->status = result.corruptions ? IMAGE_FAILED : result.leaks ? IMAGE_LEAKS : IMAGE_DONE;
    return 0;
}

/* ---- snapshots ------------------------------------------------------------------------------- */

static const struct image_column snapshot_columns[] = {
    {"id", "ID", KIND_TEXT},          {"name", "NAME", KIND_TEXT},     {"size", "SIZE", KIND_SIZE},
    {"vm_state", "STATE", KIND_SIZE}, {"created", "TAKEN", KIND_TIME}, {0},
};

static json_t *snapshot_row(const struct cow_snapshot *snapshot)
{
    uint64_t taken = snapshot->date_sec * 1000000 + snapshot->date_nsec / 1000;
    json_t *row = json_object();

    json_object_set_new(row, "id", text(snapshot->id));
    json_object_set_new(row, "name", text(snapshot->name));
    json_object_set_new(row, "size", json_integer((json_int_t)snapshot->virtual_size));
    json_object_set_new(row, "vm_state", json_integer((json_int_t)snapshot->vm_state_bytes));
    json_object_set_new(row, "created", json_integer((json_int_t)taken));
    return row;
}

int image_snapshots(struct image *image)
{
    struct cow_snapshot *list;
    size_t n;
    json_t *rows;
    int r = refuse_in_use(image);

    if (r == 0)
        r = cow_snapshots_read(image_first(image), &list, &n, &image->err);
    if (r < 0)
        return r;
    rows = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(rows, snapshot_row(&list[i]));
    free(list);
    image_print_rows(image, rows, snapshot_columns);
    return 0;
}
