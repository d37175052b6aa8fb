/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * value: appending and reading single values and a{sv} dictionaries.
 *
 * libdbus treats text that is not UTF-8 as a programming error, and much text here comes from
 * guests and images; bus_put_string() is the one place that makes it presentable.
 */
#include "dbus/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool printable(const char *text)
{
    for (; *text; text++)
        if (((unsigned char)*text < 0x20 && *text != '\t') || *text == 0x7f)
            return false;
    return true;
}

/* Bytes of the character at `text`: 0 if it is not well-formed UTF-8. */
static size_t utf8_length(const char *text)
{
    char one[5] = {0};

    for (size_t n = 1; n <= 4 && text[n - 1]; n++) {
        one[n - 1] = text[n - 1];
        if (dbus_validate_utf8(one, NULL))
            return n;
    }
    return 0;
}

static void make_presentable(char *text)
{
    while (*text) {
        size_t n = utf8_length(text);

        if (n == 0 || (n == 1 && (((unsigned char)*text < 0x20 && *text != '\t') || *text == 0x7f)))
            *text = '?';
        text += n ? n : 1;
    }
}

bool bus_put_string(DBusMessageIter *iter, const char *text)
{
    char *copy;
    bool ok;

    if (!text)
        text = "";
    if (printable(text) && dbus_validate_utf8(text, NULL))
        return dbus_message_iter_append_basic(iter, DBUS_TYPE_STRING, &text);
    copy = strdup(text);
    if (!copy)
        return false;
    make_presentable(copy);
    ok = dbus_message_iter_append_basic(iter, DBUS_TYPE_STRING, &copy);
    free(copy);
    return ok;
}

bool bus_put_i32(DBusMessageIter *iter, int32_t value)
{
    return dbus_message_iter_append_basic(iter, DBUS_TYPE_INT32, &value);
}

bool bus_put_u32(DBusMessageIter *iter, uint32_t value)
{
    return dbus_message_iter_append_basic(iter, DBUS_TYPE_UINT32, &value);
}

bool bus_put_u64(DBusMessageIter *iter, uint64_t value)
{
    return dbus_message_iter_append_basic(iter, DBUS_TYPE_UINT64, &value);
}

bool bus_put_double(DBusMessageIter *iter, double value)
{
    return dbus_message_iter_append_basic(iter, DBUS_TYPE_DOUBLE, &value);
}

bool bus_put_bool(DBusMessageIter *iter, bool value)
{
    dbus_bool_t wide = value;

    return dbus_message_iter_append_basic(iter, DBUS_TYPE_BOOLEAN, &wide);
}

bool bus_put_path(DBusMessageIter *iter, const char *path)
{
    return dbus_message_iter_append_basic(iter, DBUS_TYPE_OBJECT_PATH, &path);
}

bool bus_dict_open(DBusMessageIter *iter, DBusMessageIter *ret_dict)
{
    return dbus_message_iter_open_container(iter, DBUS_TYPE_ARRAY, "{sv}", ret_dict);
}

bool bus_dict_put(DBusMessageIter *dict, const char *key, int type, const void *value)
{
    const char signature[2] = {(char)type, '\0'};
    DBusMessageIter entry, variant;
    bool ok;

    if (!dbus_message_iter_open_container(dict, DBUS_TYPE_DICT_ENTRY, NULL, &entry))
        return false;
    if (!dbus_message_iter_append_basic(&entry, DBUS_TYPE_STRING, &key) ||
        !dbus_message_iter_open_container(&entry, DBUS_TYPE_VARIANT, signature, &variant)) {
        dbus_message_iter_abandon_container(dict, &entry);
        return false;
    }
    ok = type == DBUS_TYPE_STRING ? bus_put_string(&variant, *(const char *const *)value)
                                  : dbus_message_iter_append_basic(&variant, type, value);
    if (!ok) {
        dbus_message_iter_abandon_container(&entry, &variant);
        dbus_message_iter_abandon_container(dict, &entry);
        return false;
    }
    return dbus_message_iter_close_container(&entry, &variant) &&
           dbus_message_iter_close_container(dict, &entry);
}

bool bus_dict_close(DBusMessageIter *iter, DBusMessageIter *dict)
{
    return dbus_message_iter_close_container(iter, dict);
}

bool bus_dict_next(DBusMessageIter *dict, const char **ret_key, DBusMessageIter *ret_value)
{
    DBusMessageIter entry;

    if (dbus_message_iter_get_arg_type(dict) != DBUS_TYPE_DICT_ENTRY)
        return false;
    dbus_message_iter_recurse(dict, &entry);
    if (dbus_message_iter_get_arg_type(&entry) != DBUS_TYPE_STRING)
        return false;
    dbus_message_iter_get_basic(&entry, ret_key);
    dbus_message_iter_next(&entry);
    if (dbus_message_iter_get_arg_type(&entry) != DBUS_TYPE_VARIANT)
        return false;
    dbus_message_iter_recurse(&entry, ret_value);
    dbus_message_iter_next(dict);
    return true;
}

bool bus_get(DBusMessageIter *iter, int type, void *ret_value)
{
    if (dbus_message_iter_get_arg_type(iter) != type)
        return false;
    if (type == DBUS_TYPE_UNIX_FD) {
        int fd = -1;

        dbus_message_iter_get_basic(iter, &fd);
        if (fd < 0)
            return false;
        *(int *)ret_value = fd;
        return true;
    }
    dbus_message_iter_get_basic(iter, ret_value);
    return true;
}
