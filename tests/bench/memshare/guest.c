/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest processes without an engine: RAM as vmmd-guest has it, a scanner thread, and a main thread
 * that obeys the measuring process over a socket. Nothing runs guest code, so "frozen" only keeps
 * out the main thread when it changes pages. A guest process never returns from guests_start and
 * ends with its parent.
 */
#include "tests/bench/memshare/bench.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memshare/ms-hash.h"

#define CHANGE_TICKS 100 /* a second */
#define HASH_ROUNDS  5

/* Inside a guest process. */
struct self {
    int control, sock, pool_fd;
    uint8_t *ram;
    uint64_t n_pages, n_resident;
    uint32_t *resident;   /* page numbers */
    pthread_mutex_t lock; /* held to write to RAM, and by frozen work */
    struct ms_scanner *scanner;
    pthread_t thread;
    uint64_t random;
};

/* ---- in the guest process ---- */

static int frozen(void *opaque, void (*work)(void *arg), void *arg)
{
    struct self *self = opaque;

    pthread_mutex_lock(&self->lock);
    work(arg);
    pthread_mutex_unlock(&self->lock);
    return 0;
}

static const struct ms_scanner_ops ops = {.frozen = frozen};

/* Between two pages that nobody may touch, so that no other mapping joins it. */
static uint8_t *map_ram(uint64_t n_pages)
{
    uint64_t bytes = n_pages * MS_PAGE_SIZE;
    uint8_t *ram = mmap(NULL, bytes + 2 * MS_PAGE_SIZE, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (ram == MAP_FAILED)
        return NULL;
    ram += MS_PAGE_SIZE;
    if (mprotect(ram, bytes, PROT_READ | PROT_WRITE) < 0 ||
        madvise(ram, bytes, MADV_NOHUGEPAGE) < 0)
        return NULL;
    return ram;
}

static int load(struct self *self, const struct image *image, bool zero_resident)
{
    uint8_t buffer[MS_PAGE_SIZE];

    self->n_pages = image->n_pages;
    self->ram = map_ram(image->n_pages);
    self->resident = malloc(image->n_pages * sizeof(*self->resident));
    if (!self->ram || !self->resident)
        return -ENOMEM;
    for (uint64_t i = 0; i < image->n_pages; i++) {
        const uint8_t *page = image_page(image, i, buffer);
        volatile uint8_t *at = self->ram + i * MS_PAGE_SIZE;

        if (!image_is_zero(page))
            memcpy(self->ram + i * MS_PAGE_SIZE, page, MS_PAGE_SIZE);
        else if (zero_resident)
            *at = 0;
        else
            continue;
        self->resident[self->n_resident++] = (uint32_t)i;
    }
    return 0;
}

static void *scan(void *opaque)
{
    struct self *self = opaque;

    ms_scanner_run(self->scanner);
    return NULL;
}

static int start_scanner(struct self *self, unsigned budget)
{
    struct ms_scanner_config config = {
        .ram = self->ram,
        .ram_bytes = self->n_pages * MS_PAGE_SIZE,
        .ops = &ops,
        .opaque = self,
        .tmpl = {.fd = -1},
        .budget_percent = budget,
    };
    int r = ms_scanner_new(&self->scanner, &config);

    if (r < 0)
        return r;
    r = ms_scanner_connect(self->scanner, self->sock, self->pool_fd);
    return r < 0 ? r : -pthread_create(&self->thread, NULL, scan, self);
}

static uint64_t next_random(struct self *self)
{
    self->random ^= self->random << 13;
    self->random ^= self->random >> 7;
    self->random ^= self->random << 17;
    return self->random;
}

/* n pages anywhere get a few bytes that no page had before. */
static void change_some(struct self *self, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        uint32_t page = self->resident[next_random(self) % self->n_resident];
        uint64_t stamp = next_random(self);

        pthread_mutex_lock(&self->lock);
        memcpy(self->ram + (uint64_t)page * MS_PAGE_SIZE + stamp % (MS_PAGE_SIZE / 8) * 8, &stamp,
               sizeof(stamp));
        pthread_mutex_unlock(&self->lock);
    }
}

static uint64_t change(struct self *self, unsigned per_second, unsigned seconds)
{
    uint64_t start = now_ns(CLOCK_MONOTONIC), done = 0;

    for (unsigned tick = 1; tick <= seconds * CHANGE_TICKS && self->n_resident; tick++) {
        uint64_t at = start + tick * (1000000000ull / CHANGE_TICKS);
        uint64_t wanted = (uint64_t)per_second * tick / CHANGE_TICKS;
        struct timespec until = {.tv_sec = (time_t)(at / 1000000000),
                                 .tv_nsec = (long)(at % 1000000000)};

        change_some(self, (unsigned)(wanted - done));
        done = wanted;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    }
    return done;
}

/* libxxhash's variant for wide vectors may leave their upper halves set, and plain code that uses
 * the lower halves is several times slower then: that would not be its own fault. */
static void clear_vectors(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx"))
        __asm__ volatile("vzeroupper");
#endif
}

static uint64_t hash_resident(const struct self *self, bool plainly)
{
    uint64_t start;
    volatile uint64_t sum = 0;

    clear_vectors();
    start = now_ns(CLOCK_THREAD_CPUTIME_ID);

    for (uint64_t i = 0; i < self->n_resident; i++) {
        const uint8_t *page = self->ram + (uint64_t)self->resident[i] * MS_PAGE_SIZE;

        sum += plainly ? plain_hash(page) : ms_hash_page(page);
    }
    return now_ns(CLOCK_THREAD_CPUTIME_ID) - start;
}

static void hash(const struct self *self, struct guest_reply *reply)
{
    reply->ours_ns = reply->plain_ns = UINT64_MAX;
    for (int round = 0; round < HASH_ROUNDS; round++) {
        uint64_t ours = hash_resident(self, false), plain = hash_resident(self, true);

        reply->ours_ns = ours < reply->ours_ns ? ours : reply->ours_ns;
        reply->plain_ns = plain < reply->plain_ns ? plain : reply->plain_ns;
    }
    reply->changed = self->n_resident;
}

static void obey(struct self *self, const struct guest_request *request, struct guest_reply *reply)
{
    switch (request->command) {
    case GUEST_SCAN: reply->error = start_scanner(self, request->value); break;
    case GUEST_MERGEABLE:
        if (madvise(self->ram, self->n_pages * MS_PAGE_SIZE, MADV_MERGEABLE) < 0)
            reply->error = -errno;
        break;
    case GUEST_COUNTERS: ms_scanner_counters(self->scanner, &reply->ledger); break;
    case GUEST_LEDGER: reply->error = ms_scanner_ledger(self->scanner, &reply->ledger); break;
    case GUEST_CHANGE: reply->changed = change(self, request->value, request->seconds); break;
    case GUEST_HASH: hash(self, reply); break;
    }
}

/* The first reply says that the image is loaded, and where. */
static _Noreturn void serve(struct self *self, const struct image *image, bool zero_resident)
{
    struct guest_request request;
    struct guest_reply reply = {.error = load(self, image, zero_resident)};

    reply.changed = (uint64_t)(uintptr_t)self->ram;
    for (;;) {
        reply.main_ns = now_ns(CLOCK_THREAD_CPUTIME_ID);
        if (send(self->control, &reply, sizeof(reply), MSG_NOSIGNAL) != sizeof(reply) ||
            recv(self->control, &request, sizeof(request), 0) != sizeof(request))
            _exit(0);
        memset(&reply, 0, sizeof(reply));
        obey(self, &request, &reply);
    }
}

static _Noreturn void be_guest(const struct guests *guests, struct self *self,
                               const struct image *image, bool zero_resident)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (unsigned i = 0; i <= guests->n; i++) {
        if (guests->guest[i].control >= 0)
            close(guests->guest[i].control);
        if (guests->guest[i].sock >= 0)
            close(guests->guest[i].sock);
    }
    pthread_mutex_init(&self->lock, NULL);
    self->random = 0x9e3779b97f4a7c15ull * (guests->n + 1);
    serve(self, image, zero_resident);
}

/* ---- in the measuring process ---- */

static int start_one(struct guests *guests, const struct image *image, struct ms_pool *pool,
                     bool zero_resident)
{
    struct guest *guest = &guests->guest[guests->n];
    struct self self = {.sock = -1, .pool_fd = -1};
    int control[2], sock[2] = {-1, -1};

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) < 0)
        return -errno;
    if (pool) {
        self.pool_fd = ms_pool_guest_fd(pool);
        if (self.pool_fd < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sock) < 0)
            return -errno;
    }
    self.control = control[1];
    self.sock = sock[1];
    *guest = (struct guest){
        .control = control[0], .sock = sock[0], .ram_bytes = image->n_pages * MS_PAGE_SIZE};
    guest->pid = fork();
    if (guest->pid < 0)
        return -errno;
    if (guest->pid == 0)
        be_guest(guests, &self, image, zero_resident);
    guests->n++;
    close(control[1]);
    if (pool) {
        close(sock[1]);
        close(self.pool_fd);
    }
    return -clock_getcpuclockid(guest->pid, &guest->clock);
}

int guest_send(struct guest *guest, const struct guest_request *request)
{
    if (send(guest->control, request, sizeof(*request), MSG_NOSIGNAL) != sizeof(*request))
        return -EPIPE;
    return 0;
}

int guest_receive(struct guest *guest, struct guest_reply *ret_reply)
{
    struct guest_reply reply;

    if (recv(guest->control, &reply, sizeof(reply), 0) != sizeof(reply))
        return -EPIPE;
    atomic_store(&guest->main_ns, reply.main_ns);
    if (ret_reply)
        *ret_reply = reply;
    return reply.error;
}

int guests_ask(struct guests *guests, const struct guest_request *request,
               struct guest_reply *ret_reply)
{
    int r = 0;

    for (unsigned i = 0; i < guests->n && r == 0; i++)
        r = guest_send(&guests->guest[i], request);
    for (unsigned i = 0; i < guests->n && r == 0; i++)
        r = guest_receive(&guests->guest[i], ret_reply ? &ret_reply[i] : NULL);
    return r;
}

static int note_start(struct guest *guest)
{
    struct guest_reply reply;
    struct memory memory;
    int r = guest_receive(guest, &reply);

    if (r < 0)
        return r;
    guest->ram = (uintptr_t)reply.changed;
    r = proc_memory(guest->pid, guest->ram, guest->ram_bytes, &memory);
    guest->other_pss_before = memory.other_pss;
    guest->start_ns = now_ns(guest->clock) - atomic_load(&guest->main_ns);
    return r;
}

int guests_start(struct guests *guests, const struct image *image, unsigned n, struct ms_pool *pool,
                 bool zero_resident)
{
    int r = 0;

    memset(guests, 0, sizeof(*guests));
    for (unsigned i = 0; i < n && r == 0; i++)
        r = start_one(guests, &image[i], pool, zero_resident);
    for (unsigned i = 0; i < guests->n && r == 0; i++)
        r = note_start(&guests->guest[i]);
    return r;
}

/* The daemon's ends of the pool sockets belong to the pool's clients once they are attached. */
void guests_end(struct guests *guests)
{
    for (unsigned i = 0; i < guests->n; i++) {
        kill(guests->guest[i].pid, SIGKILL);
        waitpid(guests->guest[i].pid, NULL, 0);
        close(guests->guest[i].control);
        if (guests->guest[i].sock >= 0)
            close(guests->guest[i].sock);
    }
    guests->n = 0;
}

uint64_t guests_cpu_ns(const struct guests *guests)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < guests->n; i++)
        sum += now_ns(guests->guest[i].clock) - atomic_load(&guests->guest[i].main_ns) -
               guests->guest[i].start_ns;
    return sum;
}
