/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nano-native: the operations of tests/guest/nano.c that an ordinary process can do, through the
 * kernel that it runs on, and forkwait: "nano: NAME NANOSECONDS" for each.
 *
 *   nano-native [NAME...]
 *
 * As the init of an initramfs it does forkwait only, on the serial console, and powers off.
 *
 *   syscall  getppid           callret  CALL and RET
 *   pgfault  first touch of a page that a file in memory has already
 *   divzero  SIGFPE, whose handler skips the instruction
 *   ptemod   mprotect of a page, there and back by turns, and a read of it
 *   forkwait fork, _exit in the child, wait
 */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE  4096u
#define PAGES 400u
#define NS    1000000000ull

static uint64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS + (uint64_t)t.tv_nsec;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t run_syscall(uint64_t n)
{
    uint64_t start = now();

    while (n-- > 0)
        syscall(SYS_getppid);
    return now() - start;
}

static uint64_t run_callret(uint64_t n)
{
    uint64_t start = now();

    __asm__ volatile("sub $128, %%rsp; jmp 3f; 2: ret; .p2align 4; 3: call 2b; dec %0; jnz 3b; add "
                     "$128, %%rsp"
                     : "+r"(n)
                     :
                     : "memory");
    return now() - start;
}

static uint64_t run_pgfault(uint64_t n)
{
    int fd = memfd_create("pages", 0);
    volatile uint8_t *pages;
    uint64_t sum = 0, start;

    if (fd < 0 || ftruncate(fd, PAGES * PAGE) < 0)
        fail("memfd");
    pages = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (pages == MAP_FAILED)
        fail("mmap");
    for (uint64_t i = 0; i < n / PAGES; i++) {
        madvise((void *)pages, PAGES * PAGE, MADV_DONTNEED);
        start = now();
        for (unsigned page = 0; page < PAGES; page++)
            pages[page * PAGE] = 1; /* a write: the kernel maps neighbours at a read */
        sum += now() - start;
    }
    munmap((void *)pages, PAGES * PAGE);
    close(fd);
    return sum;
}

static void on_divide(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
}

static uint64_t run_divzero(uint64_t n)
{
    struct sigaction action = {.sa_sigaction = on_divide, .sa_flags = SA_SIGINFO};
    uint64_t start;

    sigaction(SIGFPE, &action, NULL);
    start = now();
    while (n-- > 0)
        __asm__ volatile("xor %%edx, %%edx; xor %%ecx, %%ecx; div %%ecx" : : : "eax", "ecx", "edx");
    return now() - start;
}

static uint64_t run_ptemod(uint64_t n)
{
    volatile uint8_t *page =
        mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    uint64_t start = now();

    if (page == MAP_FAILED)
        fail("mmap");
    while (n-- > 0) {
        mprotect((void *)page, PAGE, n % 2 ? PROT_READ : PROT_READ | PROT_WRITE);
        (void)*page;
    }
    munmap((void *)page, PAGE);
    return now() - start;
}

static uint64_t run_forkwait(uint64_t n)
{
    uint64_t start = now();

    while (n-- > 0) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(0);
        if (pid < 0 || waitpid(pid, NULL, 0) != pid)
            fail("fork");
    }
    return now() - start;
}

static const struct {
    const char *name;
    uint64_t (*run)(uint64_t n); /* n is a power of two times PAGES */
    uint64_t ms;                 /* a measurement takes at least */
} operations[] = {
    {"syscall", run_syscall, 20}, {"callret", run_callret, 20}, {"pgfault", run_pgfault, 20},
    {"divzero", run_divzero, 20}, {"ptemod", run_ptemod, 20},   {"forkwait", run_forkwait, 300},
};

static void measure(const char *name)
{
    for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
        uint64_t n = PAGES, ns;
        if (strcmp(operations[i].name, name) != 0)
            continue;
        operations[i].run(n); /* warms up */
        while ((ns = operations[i].run(n)) < operations[i].ms * NS / 1000)
            n *= 2;
        printf("nano: %s %.1f\n", name, (double)ns / (double)n);
        fflush(stdout);
    }
}

static void as_init(void)
{
    mount("none", "/dev", "devtmpfs", 0, NULL);
    int fd = open("/dev/ttyS0", O_RDWR);

    if (fd >= 0) {
        dup2(fd, STDOUT_FILENO);
        dup2(fd, STDERR_FILENO);
    }
    measure("forkwait");
    printf("nano: done\n");
    fflush(stdout);
    sync();
    reboot(RB_POWER_OFF);
}

int main(int argc, char **argv)
{
    if (getpid() == 1)
        as_init();
    for (size_t i = 0; argc == 1 && i < sizeof(operations) / sizeof(operations[0]); i++)
        measure(operations[i].name);
    for (int i = 1; i < argc; i++)
        measure(argv[i]);
    return 0;
}
