/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What vmmd has, as structs: one GetManagedObjects call, read by tables of properties. Properties
 * that are missing or of another type stay empty, so that an older or newer vmmd can be asked too.
 */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

struct field {
    const char *name;
    int type; /* DBUS_TYPE_ARRAY: a list of strings */
    size_t offset;
};

#define GUEST(property, dbus_type, member)                      \
    {                                                           \
        property, dbus_type, offsetof(struct cli_guest, member) \
    }

static const struct field guest_fields[] = {
    GUEST("Name", DBUS_TYPE_STRING, name),
    GUEST("State", DBUS_TYPE_STRING, state),
    GUEST("Reason", DBUS_TYPE_STRING, reason),
    GUEST("Engine", DBUS_TYPE_STRING, engine),
    GUEST("Template", DBUS_TYPE_STRING, tmpl),
    GUEST("ShareGroup", DBUS_TYPE_STRING, share_group),
    GUEST("ShareTiming", DBUS_TYPE_STRING, share_timing),
    GUEST("Priority", DBUS_TYPE_INT32, priority),
    GUEST("CpuControl", DBUS_TYPE_STRING, cpu_control),
    GUEST("CpuShares", DBUS_TYPE_UINT32, cpu_shares),
    GUEST("CpuLimit", DBUS_TYPE_UINT32, cpu_limit),
    GUEST("CpuReserve", DBUS_TYPE_UINT32, cpu_reserve),
    GUEST("Uuid", DBUS_TYPE_STRING, uuid),
    GUEST("Overlay", DBUS_TYPE_STRING, overlay),
    GUEST("DeviceError", DBUS_TYPE_STRING, device_error),
    GUEST("Pid", DBUS_TYPE_UINT32, pid),
    GUEST("VCPUs", DBUS_TYPE_UINT32, vcpus),
    GUEST("Memory", DBUS_TYPE_UINT64, memory),
    GUEST("Created", DBUS_TYPE_UINT64, created),
    GUEST("Started", DBUS_TYPE_UINT64, started),
    GUEST("RamAddress", DBUS_TYPE_UINT64, ram_address),
    GUEST("Resident", DBUS_TYPE_UINT64, resident),
    GUEST("Saved", DBUS_TYPE_UINT64, saved),
    GUEST("Login", DBUS_TYPE_BOOLEAN, login),
    GUEST("Settled", DBUS_TYPE_BOOLEAN, settled),
    {0},
};

#define TEMPLATE(property, dbus_type, member)                      \
    {                                                              \
        property, dbus_type, offsetof(struct cli_template, member) \
    }

static const struct field template_fields[] = {
    TEMPLATE("Name", DBUS_TYPE_STRING, name),
    TEMPLATE("OsName", DBUS_TYPE_STRING, os_name),
    TEMPLATE("KernelName", DBUS_TYPE_STRING, kernel_name),
    TEMPLATE("Cmdline", DBUS_TYPE_STRING, cmdline),
    TEMPLATE("Path", DBUS_TYPE_STRING, directory),
    TEMPLATE("Size", DBUS_TYPE_UINT64, size),
    TEMPLATE("DiskUsage", DBUS_TYPE_UINT64, disk_usage),
    TEMPLATE("Created", DBUS_TYPE_UINT64, created),
    TEMPLATE("HasInitrd", DBUS_TYPE_BOOLEAN, has_initrd),
    TEMPLATE("Guests", DBUS_TYPE_ARRAY, guests),
    {0},
};

#define MANAGER(property, dbus_type, member)                      \
    {                                                             \
        property, dbus_type, offsetof(struct cli_manager, member) \
    }

static const struct field manager_fields[] = {
    MANAGER("Version", DBUS_TYPE_STRING, version),
    MANAGER("Engine", DBUS_TYPE_STRING, engine),
    MANAGER("EngineReason", DBUS_TYPE_STRING, engine_reason),
    MANAGER("HostKind", DBUS_TYPE_STRING, host),
    MANAGER("MemoryPressure", DBUS_TYPE_STRING, pressure),
    MANAGER("MemoryPressureReason", DBUS_TYPE_STRING, pressure_reason),
    MANAGER("ScanBudget", DBUS_TYPE_UINT32, scan_budget),
    MANAGER("MemoryAvailable", DBUS_TYPE_UINT64, available),
    MANAGER("MemoryTotal", DBUS_TYPE_UINT64, total),
    MANAGER("MemoryAtRisk", DBUS_TYPE_UINT64, at_risk),
    MANAGER("MemoryLow", DBUS_TYPE_UINT64, low),
    MANAGER("MemoryCritical", DBUS_TYPE_UINT64, critical),
    MANAGER("MaxMappings", DBUS_TYPE_UINT64, max_mappings),
    {0},
};

/* ---- reading ---- */

static char **read_names(DBusMessageIter *value, size_t *ret_n)
{
    DBusMessageIter array;
    char **names;
    size_t n = 0;

    if (dbus_message_iter_get_arg_type(value) != DBUS_TYPE_ARRAY ||
        dbus_message_iter_get_element_type(value) != DBUS_TYPE_STRING)
        return NULL;
    names = calloc((size_t)dbus_message_iter_get_element_count(value) + 1, sizeof(*names));
    if (!names)
        return NULL;
    dbus_message_iter_recurse(value, &array);
    while (dbus_message_iter_get_arg_type(&array) == DBUS_TYPE_STRING) {
        const char *name;

        dbus_message_iter_get_basic(&array, &name);
        names[n++] = strdup(name);
        dbus_message_iter_next(&array);
    }
    *ret_n = n;
    return names;
}

static void read_field(const struct field *field, void *object, DBusMessageIter *value)
{
    void *place = (char *)object + field->offset;

    if (field->type == DBUS_TYPE_STRING) {
        const char *text;

        if (bus_get(value, DBUS_TYPE_STRING, &text)) {
            free(*(char **)place);
            *(char **)place = strdup(text);
        }
    } else if (field->type == DBUS_TYPE_ARRAY) {
        struct cli_template *tmpl = object;

        cli_names_free(tmpl->guests);
        tmpl->guests = read_names(value, &tmpl->n_guests);
    } else {
        bus_get(value, field->type, place);
    }
}

/* a{sv} of one interface. */
static void read_fields(const struct field *fields, void *object, DBusMessageIter *array)
{
    DBusMessageIter dict, value;
    const char *key;

    dbus_message_iter_recurse(array, &dict);
    while (bus_dict_next(&dict, &key, &value))
        for (const struct field *field = fields; field->name; field++)
            if (!strcmp(field->name, key))
                read_field(field, object, &value);
}

/* Strings are never NULL afterwards. */
static bool complete(const struct field *fields, void *object)
{
    for (const struct field *field = fields; field->name; field++) {
        char **text = (char **)((char *)object + field->offset);

        if (field->type == DBUS_TYPE_STRING && !*text && !(*text = strdup("")))
            return false;
    }
    return true;
}

static void *append(void **items, size_t *n, size_t size)
{
    char *grown = realloc(*items, (*n + 1) * size);

    if (!grown)
        return NULL;
    *items = grown;
    return memset(grown + (*n)++ * size, 0, size);
}

static int read_interface(struct cli_objects *objects, const char *path, const char *interface,
                          DBusMessageIter *properties)
{
    const struct field *fields;
    void *object;
    char **place;

    if (!strcmp(interface, CLI_GUEST)) {
        fields = guest_fields;
        object = append((void **)&objects->guest, &objects->n_guests, sizeof(struct cli_guest));
        place = object ? &((struct cli_guest *)object)->path : NULL;
    } else if (!strcmp(interface, CLI_TEMPLATE)) {
        fields = template_fields;
        object =
            append((void **)&objects->tmpl, &objects->n_templates, sizeof(struct cli_template));
        place = object ? &((struct cli_template *)object)->path : NULL;
    } else {
        return 0;
    }
    if (!object)
        return -1;
    *place = strdup(path);
    read_fields(fields, object, properties);
    return *place && complete(fields, object) ? 0 : -1;
}

/* One {object path, a{sa{sv}}}. */
static int read_object(struct cli_objects *objects, DBusMessageIter *entry)
{
    DBusMessageIter interfaces, pair;
    const char *path, *interface;

    dbus_message_iter_get_basic(entry, &path);
    dbus_message_iter_next(entry);
    dbus_message_iter_recurse(entry, &interfaces);
    while (dbus_message_iter_get_arg_type(&interfaces) == DBUS_TYPE_DICT_ENTRY) {
        dbus_message_iter_recurse(&interfaces, &pair);
        dbus_message_iter_get_basic(&pair, &interface);
        dbus_message_iter_next(&pair);
        if (read_interface(objects, path, interface, &pair) < 0)
            return -1;
        dbus_message_iter_next(&interfaces);
    }
    return 0;
}

/* ---- order ---- */

static int compare_guests(const void *left, const void *right)
{
    return strverscmp(((const struct cli_guest *)left)->name,
                      ((const struct cli_guest *)right)->name);
}

static int compare_templates(const void *left, const void *right)
{
    return strverscmp(((const struct cli_template *)left)->name,
                      ((const struct cli_template *)right)->name);
}

int cli_objects_get(struct cli *cli, struct cli_objects *ret_objects)
{
    struct cli_objects objects = {0};
    DBusMessageIter iter, array, entry;
    DBusMessage *reply;
    int r = cli_call(cli, &reply, CLI_ROOT, "org.freedesktop.DBus.ObjectManager",
                     "GetManagedObjects", DBUS_TYPE_INVALID);

    if (r < 0)
        return r;
    if (!dbus_message_has_signature(reply, "a{oa{sa{sv}}}")) {
        cli_tell("vmmd answered GetManagedObjects in a way that vmctl does not understand");
        dbus_message_unref(reply);
        return -1;
    }
    dbus_message_iter_init(reply, &iter);
    dbus_message_iter_recurse(&iter, &array);
    while (r == 0 && dbus_message_iter_get_arg_type(&array) == DBUS_TYPE_DICT_ENTRY) {
        dbus_message_iter_recurse(&array, &entry);
        r = read_object(&objects, &entry);
        dbus_message_iter_next(&array);
    }
    dbus_message_unref(reply);
    if (r < 0) {
        cli_tell("out of memory");
        cli_objects_free(&objects);
        return -1;
    }
    if (objects.n_guests)
        qsort(objects.guest, objects.n_guests, sizeof(*objects.guest), compare_guests);
    if (objects.n_templates)
        qsort(objects.tmpl, objects.n_templates, sizeof(*objects.tmpl), compare_templates);
    *ret_objects = objects;
    return 0;
}

static void free_fields(const struct field *fields, void *object)
{
    for (const struct field *field = fields; field->name; field++)
        if (field->type == DBUS_TYPE_STRING)
            free(*(char **)((char *)object + field->offset));
}

void cli_objects_free(struct cli_objects *objects)
{
    for (size_t i = 0; i < objects->n_guests; i++) {
        free_fields(guest_fields, &objects->guest[i]);
        free(objects->guest[i].path);
    }
    for (size_t i = 0; i < objects->n_templates; i++) {
        free_fields(template_fields, &objects->tmpl[i]);
        cli_names_free(objects->tmpl[i].guests);
        free(objects->tmpl[i].path);
    }
    free(objects->guest);
    free(objects->tmpl);
    memset(objects, 0, sizeof(*objects));
}

int cli_manager_get(struct cli *cli, struct cli_manager *ret_manager)
{
    const char *interface = CLI_MANAGER;
    struct cli_manager manager = {0};
    DBusMessageIter iter;
    DBusMessage *reply;
    int r = cli_call(cli, &reply, CLI_ROOT, DBUS_INTERFACE_PROPERTIES, "GetAll", DBUS_TYPE_STRING,
                     &interface, DBUS_TYPE_INVALID);

    if (r < 0)
        return r;
    if (dbus_message_has_signature(reply, "a{sv}")) {
        dbus_message_iter_init(reply, &iter);
        read_fields(manager_fields, &manager, &iter);
    }
    dbus_message_unref(reply);
    if (!complete(manager_fields, &manager)) {
        cli_tell("out of memory");
        cli_manager_free(&manager);
        return -1;
    }
    *ret_manager = manager;
    return 0;
}

void cli_manager_free(struct cli_manager *manager)
{
    free_fields(manager_fields, manager);
}

const struct cli_guest *cli_find_guest(const struct cli_objects *objects, const char *name)
{
    for (size_t i = 0; i < objects->n_guests; i++)
        if (!strcmp(objects->guest[i].name, name))
            return &objects->guest[i];
    cli_tell("there is no guest %s", name);
    return NULL;
}

bool cli_guest_is_up(const struct cli_guest *guest)
{
    return !strcmp(guest->state, "running") || !strcmp(guest->state, "paused");
}
