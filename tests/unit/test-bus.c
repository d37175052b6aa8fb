/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The bus layer and the daemon's interfaces, on a private message bus with server and client in
 * this process: what introspection says is what dbus/org.vmmd1.xml promises; the client half;
 * properties and their signals; object manager; hostile texts. Skipped (77) without dbus-daemon.
 */
#include "tests/unit/test-daemon-util.h"
#include "vmmd/adapter.h"

#include <dbus/dbus.h>

#define CONTRACT      "dbus/org.vmmd1.xml"
#define DESCRIPTION   65536
#define PROPERTIES    DBUS_INTERFACE_PROPERTIES
#define NO_BUS_STATUS 77

/* ---- a private bus ---- */

struct bus_world {
    struct world *world;
    pid_t bus_pid;
    char address[256];
    struct bus *server, *client;
    struct adapter *adapter;
};

static pid_t start_dbus_daemon(const char *dir, char *address, size_t size)
{
    char option[192], config[160];
    int pipe_fds[2];
    FILE *file;
    ssize_t n;
    pid_t pid;

    snprintf(config, sizeof(config), "%s/bus.conf", dir);
    file = fopen(config, "w");
    fprintf(file,
            "<busconfig><type>session</type><listen>unix:path=%s/bus</listen>"
            "<auth>EXTERNAL</auth><policy context=\"default\"><allow send_destination=\"*\"/>"
            "<allow receive_sender=\"*\"/><allow own=\"*\"/></policy></busconfig>",
            dir);
    fclose(file);
    snprintf(option, sizeof(option), "--config-file=%s", config);
    assert_int_equal(pipe(pipe_fds), 0);
    pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(pipe_fds[1], 1);
        dup2(open("/dev/null", O_WRONLY), 2);
        execlp("dbus-daemon", "dbus-daemon", option, "--nofork", "--nosyslog", "--print-address",
               (char *)NULL);
        _exit(127);
    }
    close(pipe_fds[1]);
    n = read(pipe_fds[0], address, size - 1);
    close(pipe_fds[0]);
    address[n > 0 ? n : 0] = '\0';
    address[strcspn(address, "\n")] = '\0';
    return pid;
}

static int bus_setup(void **state)
{
    struct bus_world *b = calloc(1, sizeof(*b));
    struct bus_error err;
    void *world;

    world_setup(&world);
    b->world = world;
    b->bus_pid = start_dbus_daemon(b->world->dir, b->address, sizeof(b->address));
    assert_true(b->address[0]);
    if (bus_connect(&b->server, b->world->base, b->address, &err) < 0 ||
        bus_connect(&b->client, b->world->base, b->address, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(adapter_new(&b->adapter, b->world->daemon, b->server), 0);
    assert_int_equal(bus_request_name(b->server, ADAPTER_BUS_NAME, &err), 0);
    *state = b;
    return 0;
}

static int bus_teardown(void **state)
{
    struct bus_world *b = *state;
    void *world = b->world;

    adapter_free(b->adapter);
    kill_guests(b->world->daemon);
    daemon_free(b->world->daemon);
    b->world->daemon = NULL;
    bus_free(b->client);
    bus_free(b->server);
    kill(b->bus_pid, SIGKILL);
    waitpid(b->bus_pid, NULL, 0);
    free(b);
    return world_teardown(&world);
}

/* ---- calls, without ever blocking the loop that serves them ---- */

struct reply {
    bool done;
    DBusMessage *message;
    struct bus_error err;
};

static void on_reply(void *opaque, DBusMessage *message, const struct bus_error *err)
{
    struct reply *reply = opaque;

    reply->done = true;
    if (message)
        reply->message = dbus_message_ref(message);
    if (err)
        reply->err = *err;
}

static struct reply call(struct bus_world *b, DBusMessage *message)
{
    struct reply reply = {0};

    assert_int_equal(bus_send(b->client, message, -1, on_reply, &reply), 0);
    run_until(b->world, &reply.done);
    return reply;
}

static DBusMessage *method(const char *path, const char *interface, const char *name)
{
    return bus_method(ADAPTER_BUS_NAME, path, interface, name);
}

static void expect_error(struct bus_world *b, DBusMessage *message, const char *name)
{
    struct reply reply = call(b, message);

    assert_null(reply.message);
    if (strcmp(reply.err.name, name) != 0)
        fail_msg("expected %s, got %s: %s", name, reply.err.name, reply.err.text);
    assert_true(reply.err.text[0]);
}

/* ---- introspection against the contract ---- */

/* The value of an attribute in one tag, or "". */
static void attribute(const char *tag, const char *end, const char *name, char *value, size_t size)
{
    char pattern[32];
    const char *at;
    size_t n;

    value[0] = '\0';
    snprintf(pattern, sizeof(pattern), " %s=\"", name);
    at = strstr(tag, pattern);
    if (!at || at > end)
        return;
    at += strlen(pattern);
    n = strcspn(at, "\"");
    if (n >= size)
        n = size - 1;
    memcpy(value, at, n);
    value[n] = '\0';
}

struct description {
    char lines[256][160];
    size_t n;
};

static int compare_lines(const void *a, const void *b)
{
    return strcmp(a, b);
}

static bool tag_is(const char *tag, const char *name)
{
    size_t n = strlen(name);

    return strncmp(tag + 1, name, n) == 0 && strchr(" />", tag[n + 1]);
}

/*
 * Adds one line for each member of the interfaces whose name begins with org.vmmd1:
 * "org.vmmd1.Guest method Stop in:b:force". Comments and annotations are skipped.
 */
static void describe(const char *xml, struct description *d)
{
    char interface[96] = "", member[64], type[32], access[32], name[64];

    for (const char *tag = strchr(xml, '<'); tag; tag = strchr(tag + 1, '<')) {
        const char *end;

        if (strncmp(tag, "<!--", 4) == 0)
            tag = strstr(tag, "-->");
        end = strchr(tag, '>');
        assert_non_null(end);
        if (tag_is(tag, "interface"))
            attribute(tag, end, "name", interface, sizeof(interface));
        if (strncmp(interface, "org.vmmd1", 9) != 0)
            continue;
        attribute(tag, end, "name", name, sizeof(name));
        attribute(tag, end, "type", type, sizeof(type));
        attribute(tag, end, "access", access, sizeof(access));
        assert_true(d->n < 256);
        if (tag_is(tag, "method") || tag_is(tag, "signal")) {
            snprintf(member, sizeof(member), "%.60s", name);
            snprintf(d->lines[d->n++], 160, "%.60s %.6s %.60s", interface, tag + 1, member);
        } else if (tag_is(tag, "property")) {
            snprintf(d->lines[d->n++], 160, "%.60s property %.30s %.20s %.20s", interface, name,
                     type, access);
        } else if (tag_is(tag, "arg")) {
            attribute(tag, end, "direction", access, sizeof(access));
            snprintf(d->lines[d->n - 1] + strlen(d->lines[d->n - 1]),
                     160 - strlen(d->lines[d->n - 1]), " %.3s:%.10s:%.20s", access, type, name);
        }
    }
}

static void introspect(struct bus_world *b, const char *path, struct description *d)
{
    struct reply reply = call(b, method(path, DBUS_INTERFACE_INTROSPECTABLE, "Introspect"));
    const char *xml;

    assert_non_null(reply.message);
    assert_true(
        dbus_message_get_args(reply.message, NULL, DBUS_TYPE_STRING, &xml, DBUS_TYPE_INVALID));
    describe(xml, d);
    dbus_message_unref(reply.message);
}

static void test_introspection_is_the_contract(void **state)
{
    static struct description wanted, got;
    struct bus_world *b = *state;
    static char xml[DESCRIPTION];
    FILE *file = fopen(CONTRACT, "r");
    char path[ADAPTER_PATH_MAX];
    struct job *job;

    if (!file)
        fail_msg("cannot open %s: run this in the top directory", CONTRACT);
    xml[fread(xml, 1, sizeof(xml) - 1, file)] = '\0';
    fclose(file);
    describe(xml, &wanted);
    import_template(b->world, "deb");
    create_guest(b->world, "deb", "web-1");
    job = import_image(b->world, "slow", "hang");
    introspect(b, ADAPTER_ROOT, &got);
    introspect(b, ADAPTER_ROOT "/guest/web_2d1", &got);
    introspect(b, ADAPTER_ROOT "/template/deb", &got);
    adapter_job_path(job->id, path);
    introspect(b, path, &got);
    qsort(wanted.lines, wanted.n, sizeof(wanted.lines[0]), compare_lines);
    qsort(got.lines, got.n, sizeof(got.lines[0]), compare_lines);
    assert_true(wanted.n > 50);
    for (size_t i = 0; i < wanted.n && i < got.n; i++)
        assert_string_equal(wanted.lines[i], got.lines[i]);
    assert_int_equal(wanted.n, got.n);
}

/* ---- object manager and property signals ---- */

struct heard {
    unsigned added, removed, changed, events;
    char last_changed[256], last_event[64], last_saved[24];
};

static void on_added(void *opaque, DBusMessage *signal)
{
    assert_true(dbus_message_has_signature(signal, "oa{sa{sv}}"));
    ((struct heard *)opaque)->added++;
}

static void on_removed(void *opaque, DBusMessage *signal)
{
    assert_true(dbus_message_has_signature(signal, "oas"));
    ((struct heard *)opaque)->removed++;
}

static void on_changed(void *opaque, DBusMessage *signal)
{
    struct heard *heard = opaque;
    DBusMessageIter iter, dict, value;
    dbus_uint64_t saved;
    const char *key;

    assert_true(dbus_message_has_signature(signal, "sa{sv}as"));
    heard->changed++;
    dbus_message_iter_init(signal, &iter);
    dbus_message_iter_next(&iter);
    dbus_message_iter_recurse(&iter, &dict);
    while (bus_dict_next(&dict, &key, &value))
        if (strcmp(key, "State") == 0) {
            assert_true(bus_get(&value, DBUS_TYPE_STRING, &key));
        } else if (strcmp(key, "Saved") == 0) {
            assert_true(bus_get(&value, DBUS_TYPE_UINT64, &saved));
            snprintf(heard->last_saved, sizeof(heard->last_saved), "%llu",
                     (unsigned long long)saved);
        }
    snprintf(heard->last_changed, sizeof(heard->last_changed), "%s", dbus_message_get_path(signal));
}

static void on_event(void *opaque, DBusMessage *signal)
{
    struct heard *heard = opaque;
    const char *kind, *name, *text;
    dbus_uint64_t when;

    heard->events++;
    assert_true(dbus_message_get_args(signal, NULL, DBUS_TYPE_UINT64, &when, DBUS_TYPE_STRING,
                                      &kind, DBUS_TYPE_STRING, &name, DBUS_TYPE_STRING, &text,
                                      DBUS_TYPE_INVALID));
    snprintf(heard->last_event, sizeof(heard->last_event), "%.63s", kind);
}

static bool guest_deleted(void *opaque)
{
    return strcmp(((struct heard *)opaque)->last_event, "guest-deleted") == 0;
}

static void test_signals(void **state)
{
    struct bus_world *b = *state;
    struct heard heard = {0};
    struct bus_error err;
    struct reply reply;

    assert_int_equal(bus_match(b->client, ADAPTER_BUS_NAME, ADAPTER_ROOT, NULL, "InterfacesAdded",
                               on_added, &heard, &err),
                     0);
    assert_int_equal(bus_match(b->client, ADAPTER_BUS_NAME, ADAPTER_ROOT, NULL, "InterfacesRemoved",
                               on_removed, &heard, &err),
                     0);
    assert_int_equal(bus_match(b->client, ADAPTER_BUS_NAME, ADAPTER_ROOT "/guest/", PROPERTIES,
                               "PropertiesChanged", on_changed, &heard, &err),
                     0);
    assert_int_equal(bus_match(b->client, ADAPTER_BUS_NAME, NULL, "org.vmmd1.Manager", "Event",
                               on_event, &heard, &err),
                     0);
    import_template(b->world, "deb"); /* a job and a template */
    create_guest(b->world, "deb", "web");
    reply = call(b, method(ADAPTER_ROOT "/guest/web", "org.vmmd1.Guest", "Start"));
    assert_non_null(reply.message);
    dbus_message_unref(reply.message);
    assert_true(heard.changed > 0); /* before the answer, not after */
    assert_string_equal(heard.last_changed, ADAPTER_ROOT "/guest/web");
    reply =
        call(b, method(ADAPTER_ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"));
    assert_true(dbus_message_has_signature(reply.message, "a{oa{sa{sv}}}"));
    dbus_message_unref(reply.message);
    expect_error(b, method(ADAPTER_ROOT "/guest/web", "org.vmmd1.Guest", "Delete"),
                 "org.vmmd1.Error.WrongState");
    child_kill(guest_find(b->world->daemon, "web")->process);
    while (guest_find(b->world->daemon, "web")->phase != PHASE_IDLE)
        event_base_loop(b->world->base, EVLOOP_ONCE);
    reply = call(b, method(ADAPTER_ROOT "/guest/web", "org.vmmd1.Guest", "Delete"));
    assert_non_null(reply.message);
    dbus_message_unref(reply.message);
    run_while_not(b->world, guest_deleted, &heard);
    assert_int_equal(heard.added, 3);
    assert_int_equal(heard.removed, 1);
}

/* Many changes in one turn are one signal. */
static void test_changes_are_coalesced(void **state)
{
    struct bus_world *b = *state;
    struct heard heard = {0};
    struct bus_error err;
    struct guest *guest;
    struct reply reply;

    import_template(b->world, "deb");
    guest = create_guest(b->world, "deb", "web");
    assert_int_equal(bus_match(b->client, ADAPTER_BUS_NAME, NULL, PROPERTIES, "PropertiesChanged",
                               on_changed, &heard, &err),
                     0);
    for (int i = 0; i < 1000; i++)
        guest_changed(guest, GUEST_CHANGE_STATE | GUEST_CHANGE_DEVICE);
    reply = call(b, method(ADAPTER_ROOT, DBUS_INTERFACE_PEER, "Ping"));
    dbus_message_unref(reply.message);
    reply = call(b, method(ADAPTER_ROOT, DBUS_INTERFACE_PEER, "Ping"));
    dbus_message_unref(reply.message);
    assert_int_equal(heard.changed, 1);
}

static bool saved_is_announced(void *opaque)
{
    return strcmp(((struct heard *)opaque)->last_saved, "0") == 0;
}

/* What a guest saves may change without a word from the guest. */
static void test_memory_signals(void **state)
{
    struct bus_world *b = *state;
    struct heard heard = {0};
    struct bus_error err;
    struct guest *guest;

    import_template(b->world, "deb");
    guest = create_guest(b->world, "deb", "web");
    assert_int_equal(bus_match(b->client, ADAPTER_BUS_NAME, NULL, PROPERTIES, "PropertiesChanged",
                               on_changed, &heard, &err),
                     0);
    guest->saved = 4096; /* as if others had gone */
    for (int i = 0; i < SAVED_SECONDS; i++)
        guests_measure_saved(b->world->daemon);
    run_while_not(b->world, saved_is_announced, &heard);
    assert_string_equal(heard.last_changed, ADAPTER_ROOT "/guest/web");
}

/* ---- values and errors ---- */

static void test_texts_are_always_valid(void **state)
{
    struct bus_world *b = *state;
    struct reply reply;
    DBusMessage *message;
    DBusMessageIter iter, value;
    const char *interface = "org.vmmd1.Guest", *name = "Reason", *text;
    struct guest *guest;

    import_template(b->world, "deb");
    guest = create_guest(b->world, "deb", "web");
    strcpy(guest->reason, "bad \xff\xfe\n\x1b[2J and good \xc3\xa4");
    message = method(ADAPTER_ROOT "/guest/web", PROPERTIES, "Get");
    dbus_message_append_args(message, DBUS_TYPE_STRING, &interface, DBUS_TYPE_STRING, &name,
                             DBUS_TYPE_INVALID);
    reply = call(b, message);
    assert_non_null(reply.message);
    dbus_message_iter_init(reply.message, &iter);
    dbus_message_iter_recurse(&iter, &value);
    assert_true(bus_get(&value, DBUS_TYPE_STRING, &text));
    assert_string_equal(text, "bad ????[2J and good \xc3\xa4");
    assert_false(bus_get(&value, DBUS_TYPE_UINT32, &text));
    dbus_message_unref(reply.message);
}

static void test_errors(void **state)
{
    struct bus_world *b = *state;
    dbus_uint32_t number = 7;
    DBusMessage *message;

    expect_error(b, method(ADAPTER_ROOT, "org.vmmd1.Manager", "Nothing"),
                 DBUS_ERROR_UNKNOWN_METHOD);
    expect_error(b, method(ADAPTER_ROOT "/guest/none", "org.vmmd1.Guest", "Start"),
                 DBUS_ERROR_UNKNOWN_METHOD);
    expect_error(b, method(ADAPTER_ROOT, "org.vmmd1.Manager", "GetGuest"), DBUS_ERROR_INVALID_ARGS);
    message = method(ADAPTER_ROOT, "org.vmmd1.Manager", "GetGuest");
    dbus_message_append_args(message, DBUS_TYPE_UINT32, &number, DBUS_TYPE_INVALID);
    expect_error(b, message, DBUS_ERROR_INVALID_ARGS);
    message = method(ADAPTER_ROOT, PROPERTIES, "Set");
    dbus_message_append_args(message, DBUS_TYPE_UINT32, &number, DBUS_TYPE_INVALID);
    expect_error(b, message, DBUS_ERROR_INVALID_ARGS);
}

static void test_the_name_is_taken(void **state)
{
    struct bus_world *b = *state;
    struct bus_error err;

    assert_int_equal(bus_request_name(b->client, ADAPTER_BUS_NAME, &err), -EEXIST);
    assert_non_null(strstr(err.text, "is taken"));
}

static void test_no_such_bus(void **state)
{
    struct bus_error err;
    struct bus *bus;

    (void)state;
    assert_int_equal(bus_connect(&bus, NULL, "unix:path=/nonexistent/bus", &err), -ECONNREFUSED);
    assert_non_null(strstr(err.text, "/nonexistent/bus"));
    assert_int_equal(bus_connect(&bus, NULL, "nonsense", &err), -ECONNREFUSED);
}

/* Calls still unanswered when the daemon ends get an answer. */
static void test_end_answers_everyone(void **state)
{
    struct bus_world *b = *state;
    struct reply start = {0};

    import_template(b->world, "deb");
    create_guest(b->world, "deb", "silent-1");
    assert_int_equal(bus_send(b->client,
                              method(ADAPTER_ROOT "/guest/silent_2d1", "org.vmmd1.Guest", "Start"),
                              -1, on_reply, &start),
                     0);
    while (guest_find(b->world->daemon, "silent-1")->phase != PHASE_STARTING)
        event_base_loop(b->world->base, EVLOOP_ONCE);
    kill_guests(b->world->daemon);
    adapter_free(b->adapter);
    b->adapter = NULL;
    daemon_free(b->world->daemon);
    b->world->daemon = NULL;
    run_until(b->world, &start.done);
    assert_string_equal(start.err.name, "org.vmmd1.Error.Busy");
    world_open_daemon(b->world);
}

#define CASE(function) cmocka_unit_test_setup_teardown(function, bus_setup, bus_teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        CASE(test_introspection_is_the_contract),
        CASE(test_signals),
        CASE(test_changes_are_coalesced),
        CASE(test_memory_signals),
        CASE(test_texts_are_always_valid),
        CASE(test_errors),
        CASE(test_the_name_is_taken),
        cmocka_unit_test(test_no_such_bus),
        CASE(test_end_answers_everyone),
    };

    be_a_fake_if_asked(argc, argv);
    if (system("command -v dbus-daemon >/dev/null") != 0) {
        fprintf(stderr, "dbus-daemon is not installed\n");
        return NO_BUS_STATUS;
    }
    alarm(10 * TEST_LIMIT_SECS);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
