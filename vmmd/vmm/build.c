/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * build: puts a machine together from what vmmd passed. The order matters: privileges go first,
 * before any file is looked at; all threads exist before the system call filter, which no thread
 * may then extend; no guest instruction runs before both.
 */
#include "vmmd/vmm/worker.h"

#include "vmmd/vmm/acpi.h"
#include "vmmd/vmm/boot.h"
#include "vmmd/vmm/sandbox.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void close_setup_fds(struct setup_fds *f)
{
    close_fd(&f->kernel);
    close_fd(&f->log);
    close_fd(&f->initrd);
    close_fd(&f->template_disk);
    close_fd(&f->hashes);
    close_fd(&f->kvm);
    for (unsigned i = 0; i < PROTO_DISKS_MAX; i++)
        close_fd(&f->disk[i]);
}

static const struct engine_ops *find_engine(uint32_t engine)
{
    switch (engine) {
    case PROTO_ENGINE_SOFT: return engine_soft();
    case PROTO_ENGINE_KVM: return engine_kvm();
    default: return NULL;
    }
}

static int find_model(uint32_t number, enum engine_cpu_model *ret_model)
{
    switch (number) {
    case PROTO_CPU_HOST: *ret_model = ENGINE_CPU_HOST; return 0;
    case PROTO_CPU_V2: *ret_model = ENGINE_CPU_V2; return 0;
    case PROTO_CPU_V3: *ret_model = ENGINE_CPU_V3; return 0;
    default: return -EINVAL;
    }
}

static int init_machine(struct worker *w, const struct proto_setup *setup, int kvm_fd, char *text,
                        size_t size)
{
    struct machine_config config = {
        .memory_bytes = setup->memory_bytes,
        .vcpus = setup->vcpus,
        .ops = find_engine(setup->engine),
        .kvm_fd = kvm_fd,
        .events = {w, worker_on_ended, worker_on_device_failed, worker_on_idle},
    };

    if (!config.ops || find_model(setup->cpu_model, &config.cpu_model) < 0) {
        snprintf(text, size, "this build has no engine number %u with CPU model %u", setup->engine,
                 setup->cpu_model);
        return -ENOTSUP;
    }
    w->have_machine = true;
    return machine_init(&w->machine, &config, text, size);
}

/* The hashes of the template's blocks: what is read from it is compared with them, and pages are
 * found by them. */
static int map_hashes(struct worker *w, const struct setup_fds *f, char *text, size_t size)
{
    struct cow_error error = {{0}};
    struct stat st;
    int r = fstat(f->template_disk, &st) < 0
                ? -errno
                : cow_hashes_map(f->hashes, (uint64_t)st.st_size, &w->hashes, &error);

    if (r < 0)
        snprintf(text, size, "template hashes: %s", error.text[0] ? error.text : strerror(-r));
    return r;
}

static int open_template(struct worker *w, const struct setup_fds *f, struct cow_disk **ret_disk,
                         char *text, size_t size)
{
    struct cow_open_options options = {.fd = f->template_disk,
                                       .format = COW_FORMAT_RAW,
                                       .flags = COW_RDONLY,
                                       .data_fd = -1,
                                       .hashes = &w->hashes,
                                       .damaged = worker_on_damaged,
                                       .opaque = w};
    struct cow_error error = {{0}};
    int r = map_hashes(w, f, text, size);

    if (r == 0) {
        r = cow_open(ret_disk, &options, &error);
        if (r < 0)
            snprintf(text, size, "template: %s", error.text);
    }
    return r;
}

static enum cow_format disk_format(const struct proto_disk *disk)
{
    return disk->format == PROTO_DISK_RAW ? COW_FORMAT_RAW : COW_FORMAT_QCOW2;
}

/* Disk number i; the template's, if there is one, lies under the first. */
static int open_disk(struct worker *w, const struct proto_setup *setup, const struct setup_fds *f,
                     unsigned i, struct cow_disk **ret_disk, char *text, size_t size)
{
    const struct proto_disk *disk = &setup->disks[i];
    struct cow_open_options options = {.fd = f->disk[i],
                                       .format = disk_format(disk),
                                       .flags = disk->flags & PROTO_DISK_READONLY ? COW_RDONLY : 0,
                                       .data_fd = -1};
    struct cow_error error = {{0}};
    int r = 0;

    if (i == 0 && f->template_disk >= 0) {
        r = open_template(w, f, &options.backing, text, size);
        options.backing_identity = &w->hashes.identity;
    }
    if (r < 0)
        return r;
    r = cow_open(ret_disk, &options, &error);
    if (r < 0) {
        snprintf(text, size, "%s%s: %s", i == 0 ? "overlay" : "disk ", i == 0 ? "" : disk->serial,
                 error.text);
        (void)cow_close(options.backing);
    }
    return r;
}

/* Disks come before the scanner: their threads idle until the guest runs. */
static int add_disk(struct worker *w, const struct proto_setup *setup, const struct setup_fds *f,
                    unsigned i, char *text, size_t size)
{
    struct cow_disk *disk;
    int r = open_disk(w, setup, f, i, &disk, text, size);

    if (r < 0)
        return r;
    r = virtio_blk_add(&w->machine, disk, setup->disks[i].serial,
                       setup->disks[i].flags & PROTO_DISK_READONLY);
    if (r < 0)
        snprintf(text, size, "cannot add disk %s: %s", setup->disks[i].serial, strerror(-r));
    return r;
}

static int add_devices(struct worker *w, const struct proto_setup *setup, const struct setup_fds *f,
                       char *text, size_t size)
{
    struct machine *m = &w->machine;
    int r = add_disk(w, setup, f, 0, text, size);

    if (r < 0)
        return r;
    w->console_on_virtio = strstr(setup->cmdline, "console=hvc0") != NULL;
    r = serial_add(m, &w->console, &w->serial);
    if (r == 0)
        r = rtc_add(m);
    if (r == 0)
        r = i8042_add(m);
    if (r == 0)
        r = acpi_pm_add(m, &w->pm);
    if (r == 0)
        r = virtio_rng_add(m);
    if (r == 0)
        r = virtio_console_add(m, &w->console, w->console_on_virtio, &w->vconsole);
    if (r == 0)
        r = virtio_balloon_add(m, &w->balloon);
    if (r < 0)
        snprintf(text, size, "cannot add a device: %s", strerror(-r));
    /* Behind all else: where the other devices are does not depend on how many there are. */
    for (unsigned i = 1; i < setup->n_disks && r == 0; i++)
        r = add_disk(w, setup, f, i, text, size);
    return r;
}

static int load_guest(struct worker *w, const struct proto_setup *setup, const struct setup_fds *f,
                      char *text, size_t size)
{
    struct machine *m = &w->machine;
    struct boot_config config = {
        .kernel_fd = f->kernel,
        .initrd_fd = f->initrd,
        .cmdline = setup->cmdline,
        .tsc_khz = m->ops->tsc_khz(m->engine),
    };
    struct engine_entry entry;
    int r = acpi_build(&m->memory, m->n_vcpus, &config.rsdp);

    if (r < 0)
        snprintf(text, size, "guest memory is too small for its tables");
    else
        r = boot_linux(&m->memory, &config, &entry, text, size);
    if (r < 0)
        return r;
    r = m->ops->vcpu_enter_at(m->vcpus[0].vcpu, &entry);
    if (r < 0)
        snprintf(text, size, "the engine refuses the entry point: %s", strerror(-r));
    return r;
}

static int run_frozen(void *opaque, void (*work)(void *arg), void *arg)
{
    return machine_frozen(opaque, work, arg);
}

static const struct ms_scanner_ops scanner_ops = {.frozen = run_frozen};

/* Of which the scanner may map pages. */
static struct ms_template template_source(const struct worker *w)
{
    return (struct ms_template){
        .fd = w->template_fd,
        .bytes = w->hashes.disk_bytes,
        .n_blocks = w->hashes.n_blocks,
        .hash = w->hashes.hash,
        .by_hash = w->hashes.by_hash,
    };
}

static int create_scanner(struct worker *w, const struct proto_setup *setup, struct setup_fds *f,
                          char *text, size_t size)
{
    struct memory *memory = &w->machine.memory;
    struct ms_scanner_config config = {
        .ram = memory->base,
        .ram_bytes = memory->bytes,
        .ops = &scanner_ops,
        .opaque = &w->machine,
        .tmpl.fd = -1,
        .budget_percent = setup->scan_budget,
        .max_mappings = setup->max_mappings,
    };
    int r;

    if ((setup->flags & PROTO_SETUP_TEMPLATE) && !(setup->flags & PROTO_SETUP_PRIVATE)) {
        w->template_fd = f->template_disk;
        f->template_disk = -1;
        config.tmpl = template_source(w);
    }
    r = ms_scanner_new(&w->scanner, &config);
    if (r < 0)
        snprintf(text, size, "cannot create the page scanner: %s", strerror(-r));
    else
        memory->scanner = w->scanner;
    return r;
}

static void *scanner_thread(void *opaque)
{
    pthread_setname_np(pthread_self(), "scanner");
    ms_scanner_run(opaque);
    return NULL;
}

static void no_kick(void *opaque)
{
    (void)opaque;
}

/* The gate is closed: vCPU threads come up and wait; the caller opens it behind the filter. */
static int start_threads(struct worker *w, char *text, size_t size)
{
    int r;

    gate_close(&w->machine.gate, no_kick, NULL);
    r = machine_start(&w->machine);
    if (r == 0) {
        r = -pthread_create(&w->scanner_thread, NULL, scanner_thread, w->scanner);
        w->scanner_started = r == 0;
    }
    if (r < 0)
        snprintf(text, size, "cannot start a thread: %s", strerror(-r));
    return r;
}

static int lock_in(const struct proto_setup *setup, char *text, size_t size)
{
    int r = sandbox_drop_privileges(setup->drop_uid, setup->drop_gid);

    if (r < 0)
        snprintf(text, size, "cannot drop privileges: %s", strerror(-r));
    return r;
}

static int assemble(struct worker *w, const struct proto_setup *setup, struct setup_fds *f,
                    char *text, size_t size)
{
    int r = lock_in(setup, text, size);

    if (r == 0) {
        r = console_init(&w->console, f->log);
        f->log = -1; /* the console's, also after a failure */
        w->have_console = true;
        if (r < 0)
            snprintf(text, size, "cannot create the console: %s", strerror(-r));
    }
    if (r == 0)
        r = init_machine(w, setup, f->kvm, text, size);
    if (r == 0)
        r = add_devices(w, setup, f, text, size);
    if (r == 0)
        r = load_guest(w, setup, f, text, size);
    if (r == 0)
        r = create_scanner(w, setup, f, text, size);
    if (r == 0)
        r = start_threads(w, text, size);
    if (r == 0) {
        r = sandbox_filter(w->machine.ops->ioctls);
        if (r < 0)
            snprintf(text, size, "cannot install the system call filter: %s", strerror(-r));
    }
    return r;
}

int worker_build(struct worker *w, const struct proto_setup *setup, struct setup_fds *f, char *text,
                 size_t size)
{
    int r = assemble(w, setup, f, text, size);

    close_setup_fds(f);
    if (r == 0)
        gate_open(&w->machine.gate);
    return r;
}

void worker_demolish(struct worker *w)
{
    if (w->scanner_started) {
        ms_scanner_stop(w->scanner);
        pthread_join(w->scanner_thread, NULL);
        w->scanner_started = false;
    }
    if (w->have_machine)
        machine_destroy(&w->machine);
    w->have_machine = false;
    ms_scanner_free(w->scanner);
    w->scanner = NULL;
    cow_hashes_unmap(&w->hashes);
    close_fd(&w->template_fd);
}
