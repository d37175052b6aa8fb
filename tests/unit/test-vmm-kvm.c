/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The KVM engine on a real /dev/kvm, with flat guests of a few instructions. Ring 3 on page tables
 * that the test builds runs natively on every kind of host, also where the kernel emulates ring 0
 * (a cloud machine without VT-x or SVM). Without /dev/kvm: skipped.
 */
#include "vmmd/vmm/engine-kvm/kvm.h"

#include "vmmd/vmm/machine.h"
#include "vmmd/vmm/state.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#define MIB      (1ull << 20)
#define RAM      (64 * MIB)
#define PAGE     4096u
#define GDT      0x1000u
#define IDT      0x3000u
#define AP_CODE  0x8000u
#define TABLES   0x10000u
#define CODE     0x100000u
#define STACK    0x90000u
#define DATA     0x200000u /* what guests count in */
#define WINDOW   0x400000u /* what is replaced under them */
#define MMIO     0xd0000000u
#define PATIENCE 30      /* seconds until a hang is called one */
#define FLAGS_R3 0x3002u /* IOPL 3: ports from ring 3 */

/* Guest code; what it does is in the name. rax..: as the comments say. */
#define GUEST(name, text)                                                                         \
    extern const uint8_t name##_start[], name##_end[];                                            \
    __asm__(".pushsection .rodata\n.globl " #name "_start," #name "_end\n" #name "_start:\n" text \
            "\n" #name "_end:\n.popsection\n")

/* Each access that leaves for the host, then port 0x99 as the end. */
GUEST(accesses,
      "mov $0x5a, %al; out %al, $0x80; in $0x81, %al; mov %al, 0x200000\n"
      "mov $0x1234, %ax; mov $0x300, %dx; out %ax, %dx; in %dx, %eax; mov %eax, 0x200008\n"
      "mov $0xd0000000, %rbx; movl $0x11223344, (%rbx); mov $0x5566778899aabbcc, %rax\n"
      "mov %rax, 8(%rbx); mov 16(%rbx), %rax; mov %rax, 0x200010; movb $7, 3(%rbx)\n"
      "out %al, $0x99; 1: jmp 1b");
GUEST(count, "1: incq 0x200000; incq 0x201000; jmp 1b");
GUEST(count_and_port, "1: incq 0x200000; out %al, $0x80; in $0x81, %al; mov %al, 0x200010; jmp 1b");
GUEST(halt, "1: sti; hlt; incq 0x200000; jmp 1b");
GUEST(fetch_from_nowhere, "mov $0xd0000000, %rax; jmp *%rax");
GUEST(notify, "mov $0xd0003000, %rbx; movw $1, (%rbx); movw $2, (%rbx); movl $9, 0x100(%rbx)\n"
              "out %al, $0x99; 1: jmp 1b");
GUEST(dirty, "movb $1, 0x800000; movb $1, 0x805123; movb $1, 0xfff000; mov 0x900000, %al\n"
             "out %al, $0x99; 1: jmp 1b");
/* Copies the window's first word to where the host sees it, and counts turns. */
GUEST(watch, "1: mov 0x400000, %rax; mov %rax, 0x200000; incq 0x200010; jmp 1b");
GUEST(write_window, "mov 0x400000, %rax; mov %rax, 0x200000; movq $0x77, 0x400008\n"
                    "mov 0x400008, %rax; mov %rax, 0x200008; out %al, $0x99; 1: jmp 1b");
/* LAPIC on; waits for vector 0x40, whose handler (below) counts. */
GUEST(await_msi, "mov $0xfee00000, %rbx; movl $0x1ff, 0xf0(%rbx); out %al, $0x98\n"
                 "1: sti; hlt; jmp 1b");
GUEST(msi_handler,
      "incq 0x200000; push %rbx; mov $0xfee00000, %ebx; movl $0, 0xb0(%rbx); pop %rbx\n"
      "iretq");
/* The same in a machine: it is ready when it says so in memory. */
GUEST(await_msi_here, "mov $0xfee00000, %rbx; movl $0x1ff, 0xf0(%rbx); movb $1, 0x200010\n"
                      "1: sti; hlt; jmp 1b");
GUEST(other_msi_handler,
      "incq 0x200008; push %rbx; mov $0xfee00000, %ebx; movl $0, 0xb0(%rbx); pop %rbx\n"
      "iretq");
/* INIT and SIPI to all but itself; each AP counts and halts, in real mode. */
GUEST(start_aps,
      "mov $0xfee00000, %rbx; movl $0x1ff, 0xf0(%rbx); movl $0xc4500, 0x300(%rbx)\n"
      "mov $200000, %ecx; 1: dec %ecx; jnz 1b; movl $0xc4608, 0x300(%rbx); 2: sti; hlt; jmp 2b");
GUEST(ap, ".code16; lock incw %cs:0x100; 1: cli; hlt; jmp 1b; .code64");
/* CPUID 1, 7 and 0xb into memory. */
GUEST(cpuid_leaves,
      "mov $1, %eax; cpuid; mov %ecx, 0x200000; mov %ebx, 0x200004; mov %edx, 0x200008\n"
      "mov $7, %eax; xor %ecx, %ecx; cpuid; mov %ebx, 0x20000c\n"
      "mov $0x40000000, %eax; cpuid; mov %ebx, 0x200010\n"
      "out %al, $0x99; 1: jmp 1b");
/* A value in each register, counted up as long as it is whole. */
GUEST(registers, "mov $0x1111111111111111, %r8; mov $0x2222222222222222, %r9; xor %r10, %r10\n"
                 "movq %r8, %xmm3\n"
                 "1: movq %xmm3, %rax; cmp %r8, %rax; jne 2f\n"
                 "lea (%r8,%r8), %rax; cmp %rax, %r9; jne 2f\n"
                 "inc %r10; mov %r10, 0x200000; jmp 1b; 2: out %al, $0x97; jmp 2b");

struct lab {
    const struct engine_ops *ops;
    struct engine *engine;
    struct memory memory;
    struct vcpu *vcpu;
    pthread_t thread;
    enum engine_exit exit;
    char log[512]; /* of accesses */
    uint64_t rounds;
    atomic_bool stop;
    atomic_int ports[256];
};

/* ---- the host's side ---- */

static void note(struct lab *l, const char *format, ...)
{
    size_t n = strlen(l->log);
    va_list args;

    va_start(args, format);
    vsnprintf(l->log + n, sizeof(l->log) - n, format, args);
    va_end(args);
}

static uint64_t pio_read(void *opaque, uint16_t port, unsigned size)
{
    note(opaque, "in %x/%u;", port, size);
    return 0xfedcba98;
}

static void pio_write(void *opaque, uint16_t port, unsigned size, uint64_t value)
{
    struct lab *l = opaque;

    if (port < 256)
        l->ports[port]++;
    if (port == 0x99)
        l->stop = true;
    if (port == 0x99 || port == 0x98)
        return;
    note(l, "out %x/%u %llx;", port, size, (unsigned long long)value);
}

static uint64_t mmio_read(void *opaque, uint64_t gpa, unsigned size)
{
    note(opaque, "read %llx/%u;", (unsigned long long)gpa, size);
    return 0x0123456789abcdef;
}

static void mmio_write(void *opaque, uint64_t gpa, unsigned size, uint64_t value)
{
    note(opaque, "write %llx/%u %llx;", (unsigned long long)gpa, size, (unsigned long long)value);
}

static bool go_on(void *opaque, unsigned vcpu)
{
    (void)vcpu;
    return !((struct lab *)opaque)->stop;
}

static void no_halt(void *opaque, unsigned vcpu)
{
    (void)opaque, (void)vcpu;
}

/* The end that a guest asks for by its port comes by a kick, like any other. */
static void pio_write_and_end(void *opaque, uint16_t port, unsigned size, uint64_t value)
{
    struct lab *l = opaque;

    pio_write(opaque, port, size, value);
    if (l->stop)
        l->ops->vcpu_kick(l->vcpu);
}

/* ---- the guest ---- */

#define LOAD(memory, at, name) load(memory, at, name##_start, (size_t)(name##_end - name##_start))

static void load(struct memory *m, uint64_t at, const uint8_t *code, size_t bytes)
{
    assert_int_equal(memory_write(m, at, code, bytes), 0);
}

/* Identity of the first GiB and of 3 to 4 GiB. */
static void build_tables(struct memory *m, unsigned ring)
{
    uint64_t flags = ring == 3 ? 7 : 3, *p = memory_at(m, TABLES, 4 * PAGE);

    memset(p, 0, 4 * PAGE);
    p[0] = (TABLES + PAGE) | flags;
    p[512] = (TABLES + 2 * PAGE) | flags;
    p[512 + 3] = (TABLES + 3 * PAGE) | flags;
    for (uint64_t i = 0; i < 512; i++) {
        p[1024 + i] = i << 21 | 0x80 | flags;
        p[1536 + i] = (3ull << 30) + (i << 21) + (0x80 | flags);
    }
}

static void build_gdt(struct memory *m)
{
    const uint64_t gdt[9] = {0,
                             0,
                             0x00af9b000000ffff, /* 0x10 code */
                             0x00cf93000000ffff, /* 0x18 data */
                             0x00cff3000000ffff, /* 0x20 data of ring 3 */
                             0x00affb000000ffff, /* 0x28 code of ring 3 */
                             0,
                             0x0000890020000067, /* 0x38 TSS */
                             0};

    assert_int_equal(memory_write(m, GDT, gdt, sizeof(gdt)), 0);
}

static void set_gate(struct memory *m, unsigned vector, uint64_t to)
{
    uint64_t gate[2] = {(to & 0xffff) | 0x10ull << 16 | 0x8e00ull << 32 | (to >> 16 & 0xffff) << 48,
                        to >> 32};

    assert_int_equal(memory_write(m, IDT + 16 * vector, gate, sizeof(gate)), 0);
}

static void enter(const struct engine_ops *ops, struct vcpu *v, struct memory *m, unsigned ring)
{
    struct engine_entry entry = {
        .rip = CODE, .rsp = STACK, .cr3 = TABLES, .gdt_base = GDT, .gdt_limit = 71};
    struct kvm_regs regs;
    struct kvm_sregs s;

    build_tables(m, ring);
    build_gdt(m);
    assert_int_equal(ops->vcpu_enter_at(v, &entry), 0);
    assert_int_equal(kvm_ioctl(v->fd, KVM_GET_SREGS, &s), 0);
    s.idt.base = IDT;
    s.idt.limit = 16 * 256 - 1;
    s.tr = (struct kvm_segment){
        .base = 0x2000, .limit = 0x67, .selector = 0x38, .type = 11, .present = 1};
    s.cr4 |= 0x600; /* FXSR, SSE exceptions */
    s.efer |= 0x801;
    if (ring == 3) {
        s.cs.dpl = s.ss.dpl = s.ds.dpl = s.es.dpl = 3;
        s.cs.selector = 0x2b;
        s.ss.selector = s.ds.selector = s.es.selector = 0x23;
    }
    assert_int_equal(kvm_ioctl(v->fd, KVM_SET_SREGS, &s), 0);
    if (ring != 3)
        return;
    assert_int_equal(kvm_ioctl(v->fd, KVM_GET_REGS, &regs), 0);
    regs.rflags = FLAGS_R3;
    assert_int_equal(kvm_ioctl(v->fd, KVM_SET_REGS, &regs), 0);
}

static int open_kvm(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

static void lab_create(struct lab *l, enum engine_cpu_model model)
{
    struct engine_config config = {
        .host = {l, pio_read, pio_write_and_end, mmio_read, mmio_write, go_on, no_halt, go_on},
        .vcpus = 1,
        .kvm_fd = open_kvm(),
        .cpu_model = model,
    };

    memset(l, 0, sizeof(*l));
    l->ops = engine_kvm();
    assert_int_equal(memory_init(&l->memory, RAM), 0);
    assert_int_equal(l->ops->create(&config, &l->engine), 0);
    close(config.kvm_fd); /* it is not needed any more */
    assert_int_equal(l->ops->map_ram(l->engine, 0, RAM, l->memory.base), 0);
    assert_int_equal(l->ops->vcpu_create(l->engine, 0, &l->vcpu), 0);
}

static void lab_destroy(struct lab *l)
{
    l->ops->destroy(l->engine);
    memory_free(&l->memory);
}

static void *run(void *opaque)
{
    struct lab *l = opaque;

    l->exit = l->ops->vcpu_run(l->vcpu);
    return NULL;
}

static void start(struct lab *l)
{
    l->stop = false;
    assert_int_equal(pthread_create(&l->thread, NULL, run, l), 0);
}

static void join(struct lab *l)
{
    struct timespec end;

    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += PATIENCE;
    assert_int_equal(pthread_timedjoin_np(l->thread, NULL, &end), 0);
}

static void end(struct lab *l)
{
    l->stop = true;
    l->ops->vcpu_kick(l->vcpu);
    join(l);
}

/* To port 0x99. */
static void run_through(struct lab *l, unsigned ring)
{
    enter(l->ops, l->vcpu, &l->memory, ring);
    start(l);
    join(l);
    if (l->exit != ENGINE_EXIT_STOPPED)
        print_message("%s\n", l->ops->error(l->engine));
    assert_int_equal(l->exit, ENGINE_EXIT_STOPPED);
}

static uint64_t word(const struct memory *m, uint64_t gpa)
{
    return *(volatile uint64_t *)memory_at(m, gpa, 8);
}

static void wait_beyond(const struct memory *m, uint64_t gpa, uint64_t count)
{
    time_t until = time(NULL) + PATIENCE;

    while (word(m, gpa) <= count) {
        assert_true(time(NULL) < until);
        sched_yield();
    }
}

static void wait_for_port(struct lab *l, uint8_t port, int count)
{
    time_t until = time(NULL) + PATIENCE;

    while (atomic_load(&l->ports[port]) < count) {
        assert_true(time(NULL) < until);
        sched_yield();
    }
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* ---- tests ---- */

static void test_accesses(void **state)
{
    struct lab l;

    (void)state;
    for (unsigned ring = 0; ring <= 3; ring += 3) {
        lab_create(&l, ENGINE_CPU_HOST);
        LOAD(&l.memory, CODE, accesses);
        run_through(&l, ring);
        assert_string_equal(l.log, "out 80/1 5a;in 81/1;out 300/2 1234;in 300/4;"
                                   "write d0000000/4 11223344;write d0000008/8 5566778899aabbcc;"
                                   "read d0000010/8;write d0000003/1 7;");
        assert_int_equal(word(&l.memory, DATA) & 0xff, 0x98);
        assert_int_equal(word(&l.memory, DATA + 8) & 0xffffffff, 0xfedcba98);
        assert_true(word(&l.memory, DATA + 16) == 0x0123456789abcdef);
        lab_destroy(&l);
    }
}

static void test_exit_rate(void **state)
{
    struct lab l;
    uint64_t began, ns, before;

    (void)state;
    for (unsigned ring = 0; ring <= 3; ring += 3) {
        lab_create(&l, ENGINE_CPU_HOST);
        LOAD(&l.memory, CODE, count_and_port);
        enter(l.ops, l.vcpu, &l.memory, ring);
        start(&l);
        wait_beyond(&l.memory, DATA, 1000);
        l.log[0] = '\0';
        began = now_ns();
        before = word(&l.memory, DATA);
        wait_beyond(&l.memory, DATA, before + 20000);
        ns = now_ns() - began;
        print_message("ring %u: %llu port exits a second\n", ring,
                      (unsigned long long)(40000ull * 1000000000 / ns));
        end(&l);
        lab_destroy(&l);
    }
}

/* The report tells where and, if the kernel knows it, what. */
static void test_report(void **state)
{
    struct lab l;

    (void)state;
    lab_create(&l, ENGINE_CPU_HOST);
    LOAD(&l.memory, CODE, fetch_from_nowhere);
    enter(l.ops, l.vcpu, &l.memory, 0);
    start(&l);
    join(&l);
    print_message("%s\n", l.ops->error(l.engine));
    assert_int_equal(l.exit, ENGINE_EXIT_FAILED);
    assert_non_null(strstr(l.ops->error(l.engine), "rip 0xd0000000"));
    lab_destroy(&l);
}

/* Without a usable IDT the first fault is the third. */
static void test_triple_fault(void **state)
{
    static const uint8_t ud2[] = {0x0f, 0x0b};
    struct lab l;

    (void)state;
    lab_create(&l, ENGINE_CPU_HOST);
    load(&l.memory, CODE, ud2, sizeof(ud2));
    enter(l.ops, l.vcpu, &l.memory, 0);
    start(&l);
    join(&l);
    assert_int_equal(l.exit, ENGINE_EXIT_RESET);
    lab_destroy(&l);
}

static uint64_t drain(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    uint64_t n = 0;

    if (poll(&p, 1, 0) == 1)
        assert_int_equal(read(fd, &n, sizeof(n)), sizeof(n));
    return n;
}

static void test_ioeventfd(void **state)
{
    int fd = eventfd(0, EFD_CLOEXEC);
    struct lab l;

    (void)state;
    lab_create(&l, ENGINE_CPU_HOST);
    LOAD(&l.memory, CODE, notify);
    assert_int_equal(l.ops->ioeventfd(l.engine, MMIO + 0x3000, 2, fd, true), 0);
    run_through(&l, 3);
    assert_int_equal(drain(fd), 2);
    assert_string_equal(l.log, "write d0003100/4 9;"); /* the others never came here */
    assert_int_equal(l.ops->ioeventfd(l.engine, MMIO + 0x3000, 2, fd, false), 0);
    assert_int_equal(l.ops->ioeventfd(l.engine, MMIO + 0x3000, 2, fd, false), -ENOENT);
    run_through(&l, 3);
    assert_int_equal(drain(fd), 0);
    lab_destroy(&l);
    close(fd);
}

/* By ioctl and by eventfd, and not after its removal; the vCPU halts in the kernel meanwhile. */
static void test_msi(void **state)
{
    const uint64_t address = 0xfee00000, one = 1;
    int fd = eventfd(0, EFD_CLOEXEC);
    struct lab l;

    (void)state;
    lab_create(&l, ENGINE_CPU_HOST);
    LOAD(&l.memory, CODE, await_msi);
    LOAD(&l.memory, CODE + PAGE, msi_handler);
    set_gate(&l.memory, 0x40, CODE + PAGE);
    enter(l.ops, l.vcpu, &l.memory, 0);
    start(&l);
    wait_for_port(&l, 0x98, 1);
    assert_int_equal(l.ops->msi(l.engine, address, 0x40), 0);
    wait_beyond(&l.memory, DATA, 0);
    assert_int_equal(l.ops->irqfd(l.engine, fd, address, 0x41), 0);
    assert_int_equal(l.ops->irqfd(l.engine, fd, address, 0x40), 0); /* moved */
    for (uint64_t n = 1; n < 50; n++) {
        assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
        wait_beyond(&l.memory, DATA, n);
    }
    assert_int_equal(l.ops->irqfd(l.engine, fd, 0, 0), 0);
    assert_int_equal(l.ops->irqfd(l.engine, fd, 0, 0), -ENOENT);
    end(&l);
    assert_int_equal(word(&l.memory, DATA), 50);
    lab_destroy(&l);
    close(fd);
}

static bool is_dirty(const uint64_t *bitmap, uint64_t gpa)
{
    return bitmap[gpa / PAGE / 64] >> (gpa / PAGE % 64) & 1;
}

static void test_dirty_log(void **state)
{
    static uint64_t bitmap[RAM / PAGE / 64];
    struct lab l;

    (void)state;
    lab_create(&l, ENGINE_CPU_HOST);
    LOAD(&l.memory, CODE, dirty);
    assert_int_equal(l.ops->dirty_log(l.engine, 0, RAM / 2, bitmap), -ENOENT);
    assert_int_equal(l.ops->dirty_log(l.engine, 0, RAM, bitmap), 0);
    for (size_t i = 0; i < sizeof(bitmap) / 8; i++)
        assert_true(bitmap[i] == UINT64_MAX); /* before it began: anything */
    assert_int_equal(l.ops->dirty_log(l.engine, 0, RAM, bitmap), 0);
    run_through(&l, 3);
    assert_int_equal(l.ops->dirty_log(l.engine, 0, RAM, bitmap), 0);
    assert_true(is_dirty(bitmap, 0x800000) && is_dirty(bitmap, 0x805000));
    assert_true(is_dirty(bitmap, 0xfff000));
    assert_false(is_dirty(bitmap, 0x900000)); /* only read */
    assert_false(is_dirty(bitmap, 0x801000));
    assert_int_equal(l.ops->dirty_log(l.engine, 0, RAM, bitmap), 0);
    assert_false(is_dirty(bitmap, 0x800000)); /* told already */
    assert_int_equal(l.ops->dirty_log(l.engine, 0, RAM, NULL), 0);
    lab_destroy(&l);
}

/* Two guests on one page: each gets its own when it writes, the page stays as it is. */
static void test_copy_on_write(void **state)
{
    int fd = memfd_create("page", MFD_CLOEXEC);
    uint64_t page[PAGE / 8] = {0xaaaa}, back[PAGE / 8];
    struct lab l[2];

    (void)state;
    assert_int_equal(pwrite(fd, page, PAGE, 0), PAGE);
    for (int i = 0; i < 2; i++) {
        lab_create(&l[i], ENGINE_CPU_HOST);
        LOAD(&l[i].memory, CODE, write_window);
        assert_true(mmap(memory_at(&l[i].memory, WINDOW, PAGE), PAGE, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_FIXED, fd, 0) != MAP_FAILED);
    }
    for (int i = 0; i < 2; i++) {
        run_through(&l[i], 3);
        assert_int_equal(word(&l[i].memory, DATA), 0xaaaa);
        assert_int_equal(word(&l[i].memory, DATA + 8), 0x77);
        assert_int_equal(word(&l[i].memory, WINDOW + 8), 0x77);
        assert_int_equal(pread(fd, back, PAGE, 0), PAGE);
        assert_memory_equal(page, back, PAGE);
        if (i == 0)
            assert_int_equal(word(&l[1].memory, WINDOW + 8), 0);
    }
    lab_destroy(&l[0]);
    lab_destroy(&l[1]);
    close(fd);
}

/* What is mapped over a page while the guest reads it is what it reads from then on. */
static void test_remap_under_it(void **state)
{
    int fd = memfd_create("pages", MFD_CLOEXEC);
    struct lab l;

    (void)state;
    assert_int_equal(ftruncate(fd, 301 * PAGE), 0);
    lab_create(&l, ENGINE_CPU_HOST);
    LOAD(&l.memory, CODE, watch);
    enter(l.ops, l.vcpu, &l.memory, 3);
    start(&l);
    wait_beyond(&l.memory, DATA + 16, 0);
    for (uint64_t i = 1; i <= 300; i++) {
        uint64_t turns;
        assert_int_equal(pwrite(fd, &i, sizeof(i), (off_t)(i * PAGE)), sizeof(i));
        assert_true(mmap(memory_at(&l.memory, WINDOW, PAGE), PAGE, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_FIXED, fd, (off_t)(i * PAGE)) != MAP_FAILED);
        turns = word(&l.memory, DATA + 16);
        wait_beyond(&l.memory, DATA + 16, turns + 1); /* one whole turn since */
        assert_int_equal(word(&l.memory, DATA), i);
    }
    end(&l);
    lab_destroy(&l);
    close(fd);
}

/* What the guest sees on this host. */
static void test_cpuid(void **state)
{
    struct lab l;
    uint32_t ecx;

    (void)state;
    lab_create(&l, ENGINE_CPU_HOST);
    LOAD(&l.memory, CODE, cpuid_leaves);
    run_through(&l, 0);
    ecx = (uint32_t)word(&l.memory, DATA);
    assert_true(ecx >> 31);                                             /* a hypervisor ... */
    assert_int_equal((uint32_t)word(&l.memory, DATA + 16), 0x4b4d564b); /* ... called KVM */
    assert_false(ecx & (1u << 5 | 1u << 3));                            /* no VMX, no MONITOR */
    assert_true(word(&l.memory, DATA + 8) & 1u << 26);                  /* SSE2 */
    assert_int_equal(word(&l.memory, DATA) >> 56, 0);                   /* APIC id 0 ... */
    assert_int_equal(word(&l.memory, DATA) >> 48 & 0xff, 1);            /* ... of 1 */
    lab_destroy(&l);
}

struct cpuid_table {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entries[KVM_MAX_CPUID];
};

static const struct kvm_cpuid_entry2 *leaf(const struct cpuid_table *t, uint32_t function,
                                           uint32_t index)
{
    for (uint32_t i = 0; i < t->head.nent; i++)
        if (t->entries[i].function == function && t->entries[i].index == index)
            return &t->entries[i];
    return NULL;
}

/* A host that has everything, AVX-512 too. */
static const struct cpuid_table rich = {
    .head.nent = 11,
    .entries =
        {
            {0, 0, 0, 0x1f, 0x756e6547, 0x6c65746e, 0x49656e69, {0}},
            {1, 0, 0, 0xb06f2, 0x800, 0xffffffff, 0xffffffff, {0}},
            {7, 0, 1, 0, 0xffffffff, 0xffffffff, 0xffffffff, {0}},
            {0xd, 0, 1, 0xe7, 0x980, 0x980, 0, {0}},
            {0xd, 1, 1, 0xf, 0, 0, 0, {0}},
            {0xd, 2, 1, 0x100, 0x240, 0, 0, {0}},
            {0xd, 6, 1, 0x200, 0x380, 0, 0, {0}},
            {0x80000000, 0, 0, 0x80000021, 0, 0, 0, {0}},
            {0x80000001, 0, 0, 0, 0, 0xffffffff, 0xffffffff, {0}},
            {0x80000007, 0, 0, 0, 0, 0, 0x100, {0}},
            {0x80000021, 0, 0, 0xffffffff, 0, 0, 0, {0}},
        },
};

/* A named model shows the level's features and no more; the save area shrinks with them. */
static void test_cpu_models(void **state)
{
    static struct cpuid_table poor, c;
    struct engine e = {.supported = (struct kvm_cpuid2 *)&rich.head};

    (void)state;
    assert_int_equal(kvm_cpuid_filter(&rich.head, ENGINE_CPU_V2, &c.head), 0);
    assert_true(leaf(&c, 1, 0)->ecx & 1u << 20);                         /* SSE 4.2 */
    assert_false(leaf(&c, 1, 0)->ecx & (1u << 28 | 1u << 26 | 1u << 5)); /* AVX, XSAVE, VMX */
    assert_int_equal(leaf(&c, 7, 0)->ebx, 0);
    assert_null(leaf(&c, 0x80000021, 0));
    assert_int_equal(kvm_cpuid_filter(&rich.head, ENGINE_CPU_V3, &c.head), 0);
    assert_true(leaf(&c, 1, 0)->ecx & 1u << 28);
    assert_int_equal(leaf(&c, 7, 0)->ebx, 0x128); /* BMI1 AVX2 BMI2 */
    assert_int_equal(leaf(&c, 0xd, 0)->eax, 7);
    assert_int_equal(leaf(&c, 0xd, 0)->ecx, 0x340); /* where AVX ends */
    assert_non_null(leaf(&c, 0xd, 2));
    assert_null(leaf(&c, 0xd, 6));
    assert_int_equal(leaf(&c, 0x80000007, 0)->edx, 0);
    assert_true(kvm_cpuid_possible(&e, &c.head));
    poor = rich;
    poor.entries[2].ebx &= ~(1u << 5); /* without AVX2 */
    e.supported = &poor.head;
    assert_false(kvm_cpuid_possible(&e, &c.head));
    assert_int_equal(kvm_cpuid_filter(&poor.head, ENGINE_CPU_V3, &c.head), -ENOTSUP);
    assert_int_equal(kvm_cpuid_filter(&poor.head, ENGINE_CPU_V2, &c.head), 0);
    assert_true(kvm_cpuid_possible(&e, &c.head));
}

/* ---- state ---- */

static void save(struct lab *l, struct state *s)
{
    state_init(s);
    assert_int_equal(l->ops->vcpu_get_state(l->vcpu, s), 0);
    assert_int_equal(l->ops->get_irqchip(l->engine, s), 0);
}

static int load_state(struct lab *l, struct state *s)
{
    int r;

    s->at = s->end = 0;
    s->error = 0;
    r = l->ops->vcpu_set_state(l->vcpu, s);
    return r < 0 ? r : l->ops->set_irqchip(l->engine, s);
}

static void test_state_goes_on_elsewhere(void **state)
{
    struct lab l, k;
    struct kvm_regs before, after;
    struct state s, t;
    uint64_t count;

    (void)state;
    lab_create(&l, ENGINE_CPU_HOST);
    LOAD(&l.memory, CODE, registers);
    enter(l.ops, l.vcpu, &l.memory, 3);
    start(&l);
    wait_beyond(&l.memory, DATA, 1000);
    end(&l);
    save(&l, &s);
    count = word(&l.memory, DATA);
    lab_create(&k, ENGINE_CPU_HOST);
    memcpy(k.memory.base, l.memory.base, RAM);
    assert_int_equal(load_state(&k, &s), 0);
    save(&k, &t);
    assert_int_equal(t.size, s.size);
    assert_int_equal(kvm_ioctl(l.vcpu->fd, KVM_GET_REGS, &before), 0);
    assert_int_equal(kvm_ioctl(k.vcpu->fd, KVM_GET_REGS, &after), 0);
    assert_memory_equal(&before, &after, sizeof(before));
    lab_destroy(&l);
    start(&k);
    wait_beyond(&k.memory, DATA, count + 1000);
    end(&k);
    assert_int_equal(k.ports[0x97], 0); /* all registers were whole, xmm3 too */
    state_free(&s);
    state_free(&t);
    lab_destroy(&k);
}

/* Its time goes on where it was, and stands still for as long as it is told. */
static void test_time_stands_still(void **state)
{
    struct kvm_clock_data before = {0}, after = {0};
    struct lab l;
    uint64_t hour = 3600ull * 1000000000;

    (void)state;
    lab_create(&l, ENGINE_CPU_HOST);
    before.clock = 2 * hour;
    assert_int_equal(kvm_ioctl(l.engine->vm_fd, KVM_SET_CLOCK, &before), 0);
    l.ops->clock_shift(l.engine, hour);
    assert_int_equal(kvm_ioctl(l.engine->vm_fd, KVM_GET_CLOCK, &after), 0);
    assert_true(after.clock >= hour && after.clock < hour + hour / 2);
    assert_true(l.ops->tsc_khz(l.engine) > 100000);
    lab_destroy(&l);
}

/* Whatever a state says: it is refused or loaded, nothing worse. */
static void test_hostile_state(void **state)
{
    struct lab l;
    struct state s, bad;
    unsigned refused = 0;

    (void)state;
    srand(5);
    lab_create(&l, ENGINE_CPU_HOST);
    enter(l.ops, l.vcpu, &l.memory, 3);
    save(&l, &s);
    for (size_t n = 0; n < s.size; n += s.size / 97 + 1) { /* cut off */
        bad = s;
        bad.size = n;
        assert_true(load_state(&l, &bad) < 0);
    }
    state_init(&bad);
    state_put(&bad, s.data, s.size);
    for (int i = 0; i < 3000; i++) {
        size_t at = (size_t)rand() % s.size, end_at = i % 2 ? 400 : s.size;
        at %= end_at; /* half of them where the counts are */
        bad.data[at] = (uint8_t)rand();
        refused += load_state(&l, &bad) < 0;
        bad.data[at] = s.data[at];
    }
    print_message("%u of 3000 changed states refused\n", refused);
    assert_true(refused > 100);
    assert_int_equal(load_state(&l, &s), 0);
    state_free(&s);
    state_free(&bad);
    lab_destroy(&l);
}

/* ---- machines: many vCPUs, the gate ---- */

static void machine_create(struct machine *m, unsigned vcpus)
{
    struct machine_config config = {
        .memory_bytes = RAM, .vcpus = vcpus, .ops = engine_kvm(), .kvm_fd = open_kvm()};
    char text[128] = "";

    assert_int_equal(machine_init(m, &config, text, sizeof(text)), 0);
    close(config.kvm_fd);
}

static void test_application_processors(void **state)
{
    static const unsigned counts[] = {2, 4, 64};
    static struct machine m;

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        time_t until = time(NULL) + PATIENCE;
        machine_create(&m, counts[i]);
        LOAD(&m.memory, CODE, start_aps);
        LOAD(&m.memory, AP_CODE, ap);
        enter(m.ops, m.vcpus[0].vcpu, &m.memory, 0);
        assert_int_equal(machine_start(&m), 0);
        while (*(volatile uint16_t *)memory_at(&m.memory, AP_CODE + 0x100, 2) < counts[i] - 1) {
            assert_true(time(NULL) < until);
            assert_int_equal(m.end, MACHINE_RUNS);
            sched_yield();
        }
        machine_pause(&m); /* all of them halt in the kernel now */
        machine_resume(&m);
        machine_destroy(&m);
        assert_string_equal(m.end_text, "");
    }
}

/* ---- MSI-X of devices: by eventfd, and counted ---- */

static unsigned n_msi, n_irqfd;

static int count_msi(struct engine *e, uint64_t address, uint32_t data)
{
    n_msi++;
    return engine_kvm()->msi(e, address, data);
}

static int count_irqfd(struct engine *e, int fd, uint64_t address, uint32_t data)
{
    n_irqfd++;
    return engine_kvm()->irqfd(e, fd, address, data);
}

/* A machine whose guest waits for the vectors 0x40 and 0x41. */
static void create_awaiting(struct machine *m, struct engine_ops *ops)
{
    struct machine_config config = {
        .memory_bytes = RAM, .vcpus = 1, .ops = ops, .kvm_fd = open_kvm()};
    char text[128] = "";

    *ops = *engine_kvm();
    ops->msi = count_msi;
    ops->irqfd = count_irqfd;
    n_msi = n_irqfd = 0;
    assert_int_equal(machine_init(m, &config, text, sizeof(text)), 0);
    close(config.kvm_fd);
    LOAD(&m->memory, CODE, await_msi_here);
    LOAD(&m->memory, CODE + PAGE, msi_handler);
    LOAD(&m->memory, CODE + 2 * PAGE, other_msi_handler);
    set_gate(&m->memory, 0x40, CODE + PAGE);
    set_gate(&m->memory, 0x41, CODE + 2 * PAGE);
    enter(m->ops, m->vcpus[0].vcpu, &m->memory, 0);
}

static void fire(struct machine *m, unsigned vector, uint32_t data)
{
    pthread_mutex_lock(&m->lock);
    msi_fire(m, vector, 0xfee00000, data);
    pthread_mutex_unlock(&m->lock);
}

/* None is lost: not one of them is KVM_SIGNAL_MSI but the first after a change, and routes are set
 * as often. Pauses come in between. */
static void test_msi_by_eventfd(void **state)
{
    static struct machine m;
    struct engine_ops ops;
    unsigned vector;

    (void)state;
    create_awaiting(&m, &ops);
    assert_int_equal(msi_add(&m, 1, &vector), 0);
    assert_int_equal(machine_start(&m), 0);
    wait_beyond(&m.memory, DATA + 16, 0);
    for (unsigned i = 0; i < 500; i++) {
        if (i % 50 == 49)
            machine_pause(&m);
        fire(&m, vector, 0x40);
        machine_resume(&m);
        wait_beyond(&m.memory, DATA, i);
    }
    assert_int_equal(n_msi, 1);
    assert_int_equal(n_irqfd, 1);
    assert_int_equal(word(&m.memory, DATA + 8), 0);
    for (unsigned i = 0; i < 500; i++) { /* the driver moves it */
        fire(&m, vector, 0x41);
        wait_beyond(&m.memory, DATA + 8, i);
    }
    assert_int_equal(n_msi, 2);
    assert_int_equal(n_irqfd, 2);
    assert_int_equal(word(&m.memory, DATA), 500);
    machine_destroy(&m);
}

/* Beyond KVM_MAX_ROUTES, and where the kernel refuses a message, each still arrives. */
static void test_msi_without_routes(void **state)
{
    static struct machine m;
    struct engine_ops ops;
    unsigned first;

    (void)state;
    create_awaiting(&m, &ops);
    assert_int_equal(msi_add(&m, KVM_MAX_ROUTES + 2, &first), 0);
    assert_int_equal(msi_add(&m, MSI_MAX, &first), -ENOSPC);
    first = 0;
    assert_int_equal(machine_start(&m), 0);
    wait_beyond(&m.memory, DATA + 16, 0);
    for (unsigned v = 0, n = 0; v < KVM_MAX_ROUTES + 2; v++) {
        for (unsigned i = 0; i < 3; i++, n++) {
            fire(&m, first + v, 0x40);
            wait_beyond(&m.memory, DATA, n);
        }
    }
    assert_int_equal(n_irqfd, KVM_MAX_ROUTES + 2);
    assert_int_equal(n_msi, KVM_MAX_ROUTES + 2 * 3);
    machine_destroy(&m);
}

/* What was fired before a save is in the saved guest, or still comes; nothing is lost or doubled.
 */
static void test_msi_and_state(void **state)
{
    static struct machine m, n;
    struct engine_ops ops;
    struct state s;
    unsigned vector;

    (void)state;
    for (unsigned round = 0; round < 20; round++) {
        create_awaiting(&m, &ops);
        assert_int_equal(msi_add(&m, 1, &vector), 0);
        assert_int_equal(machine_start(&m), 0);
        wait_beyond(&m.memory, DATA + 16, 0);
        for (unsigned i = 0; i < 2; i++) {
            fire(&m, vector, 0x40);
            wait_beyond(&m.memory, DATA, i);
        }
        machine_pause(&m);
        fire(&m, vector, 0x40); /* by the eventfd */
        state_init(&s);
        assert_int_equal(machine_save(&m, &s), 0);
        create_awaiting(&n, &ops);
        assert_int_equal(msi_add(&n, 1, &vector), 0);
        memcpy(n.memory.base, m.memory.base, RAM);
        machine_destroy(&m);
        machine_pause(&n);
        assert_int_equal(machine_load(&n, &s), 0);
        assert_int_equal(machine_start(&n), 0);
        machine_resume(&n);
        wait_beyond(&n.memory, DATA, 2);
        for (unsigned i = 3; i < 6; i++) { /* by routes of its own */
            fire(&n, vector, 0x40);
            wait_beyond(&n.memory, DATA, i);
        }
        assert_int_equal(n_msi, 1);
        assert_int_equal(n_irqfd, 1);
        assert_int_equal(word(&n.memory, DATA), 6);
        state_free(&s);
        machine_destroy(&n);
    }
}

struct merge {
    struct machine *m;
    uint64_t count, works;
};

static void replace_page(struct memory *memory, uint64_t gpa)
{
    uint8_t *old = memory_at(memory, gpa, PAGE);
    uint8_t *copy = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(copy != MAP_FAILED);
    memcpy(copy, old, PAGE);
    assert_true(mremap(copy, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, old) == old);
}

static void replace(void *opaque)
{
    struct merge *w = opaque;
    uint64_t count = word(&w->m->memory, DATA), other = word(&w->m->memory, DATA + PAGE);

    assert_true(count == other || count == other + 1); /* between two instructions */
    assert_true(count >= w->count);
    w->count = count;
    replace_page(&w->m->memory, DATA);
    replace_page(&w->m->memory, DATA + PAGE);
    assert_int_equal(word(&w->m->memory, DATA), count);
    w->works++;
}

static void print_times(const char *what, const struct histogram *h)
{
    print_message("%s: %llu times, us: p50 %llu p99 %llu max %llu\n", what,
                  (unsigned long long)h->count,
                  (unsigned long long)histogram_quantile(h, 50, 100) / 1000,
                  (unsigned long long)histogram_quantile(h, 99, 100) / 1000,
                  (unsigned long long)h->max / 1000);
}

/* Pages that a guest writes are replaced in frozen work: not one turn is lost. */
static void test_frozen_work(void **state)
{
    static struct machine m;
    struct merge w = {.m = &m};

    (void)state;
    machine_create(&m, 4); /* three that wait for a SIPI are frozen like the one that counts */
    LOAD(&m.memory, CODE, count);
    enter(m.ops, m.vcpus[0].vcpu, &m.memory, 3);
    assert_int_equal(machine_start(&m), 0);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(machine_frozen(&m, replace, &w), 0);
        if (i % 100 == 0) { /* paused, the work is done all the same */
            machine_pause(&m);
            assert_int_equal(machine_frozen(&m, replace, &w), 0);
            machine_resume(&m);
        }
        wait_beyond(&m.memory, DATA, w.count);
    }
    assert_int_equal(w.works, 1010);
    print_times("two pages replaced under a running guest, it stood", &m.gate.times.held);
    print_times("from the kick to the work", &m.gate.times.came);
    machine_destroy(&m);
}

static void nothing(void *opaque)
{
    ++*(uint64_t *)opaque;
}

/* A kick must never be lost, wherever the vCPU is: in guest code, on its way in or out, halted. The
 * moments vary by themselves; a lost one hangs, which the runner's time limit ends. */
static void test_kicks(void **state)
{
    static struct machine m;
    uint64_t works = 0;

    (void)state;
    for (unsigned kind = 0; kind < 3; kind++) {
        machine_create(&m, 1);
        if (kind == 0)
            LOAD(&m.memory, CODE, count);
        else if (kind == 1)
            LOAD(&m.memory, CODE, count_and_port);
        else
            LOAD(&m.memory, CODE, halt);
        enter(m.ops, m.vcpus[0].vcpu, &m.memory, kind == 2 ? 0 : 3);
        assert_int_equal(machine_start(&m), 0);
        works = 0;
        for (int i = 0; i < 20000; i++)
            assert_int_equal(machine_frozen(&m, nothing, &works), 0);
        assert_int_equal(works, 20000);
        for (int i = 0; i < 500; i++) {
            uint64_t before;
            machine_pause(&m);
            before = word(&m.memory, DATA);
            sched_yield();
            assert_int_equal(word(&m.memory, DATA), before);
            machine_resume(&m);
        }
        print_times(kind == 0   ? "kick of a computing vCPU"
                    : kind == 1 ? "kick of one that uses ports"
                                : "kick of a halted one",
                    &m.gate.times.came);
        machine_destroy(&m);
    }
}

/* The whole machine: state of several vCPUs into another one. */
static void test_machine_state(void **state)
{
    static struct machine m, n;
    struct state s;
    uint64_t before;

    (void)state;
    machine_create(&m, 3);
    LOAD(&m.memory, CODE, count);
    enter(m.ops, m.vcpus[0].vcpu, &m.memory, 3);
    assert_int_equal(machine_start(&m), 0);
    wait_beyond(&m.memory, DATA, 1000);
    machine_pause(&m);
    state_init(&s);
    assert_int_equal(machine_save(&m, &s), 0);
    machine_create(&n, 3);
    memcpy(n.memory.base, m.memory.base, RAM);
    machine_pause(&n);
    assert_int_equal(machine_load(&n, &s), 0);
    assert_int_equal(machine_start(&n), 0);
    before = word(&m.memory, DATA);
    machine_destroy(&m);
    assert_int_equal(word(&n.memory, DATA), before);
    machine_resume(&n);
    wait_beyond(&n.memory, DATA, before + 1000);
    state_free(&s);
    machine_destroy(&n);
}

/* From the request for a machine to its first instruction. */
static void test_time_to_first_instruction(void **state)
{
    static struct machine m;
    uint64_t took[51];

    (void)state;
    for (int i = 0; i < 51; i++) {
        uint64_t began = now_ns(), at = 0;
        machine_create(&m, 1);
        LOAD(&m.memory, CODE, count);
        enter(m.ops, m.vcpus[0].vcpu, &m.memory, 3);
        assert_int_equal(machine_start(&m), 0);
        wait_beyond(&m.memory, DATA, 0);
        took[i] = now_ns() - began;
        machine_destroy(&m);
        for (int j = i; j > 0 && took[j] < took[j - 1]; j--) { /* kept in order */
            at = took[j];
            took[j] = took[j - 1];
            took[j - 1] = at;
        }
    }
    print_message("machine to first instruction: median %llu us, worst %llu us of 51\n",
                  (unsigned long long)took[25] / 1000, (unsigned long long)took[50] / 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accesses),
        cmocka_unit_test(test_exit_rate),
        cmocka_unit_test(test_report),
        cmocka_unit_test(test_triple_fault),
        cmocka_unit_test(test_ioeventfd),
        cmocka_unit_test(test_msi),
        cmocka_unit_test(test_dirty_log),
        cmocka_unit_test(test_copy_on_write),
        cmocka_unit_test(test_remap_under_it),
        cmocka_unit_test(test_cpuid),
        cmocka_unit_test(test_cpu_models),
        cmocka_unit_test(test_state_goes_on_elsewhere),
        cmocka_unit_test(test_time_stands_still),
        cmocka_unit_test(test_hostile_state),
        cmocka_unit_test(test_application_processors),
        cmocka_unit_test(test_msi_by_eventfd),
        cmocka_unit_test(test_msi_without_routes),
        cmocka_unit_test(test_msi_and_state),
        cmocka_unit_test(test_frozen_work),
        cmocka_unit_test(test_kicks),
        cmocka_unit_test(test_machine_state),
        cmocka_unit_test(test_time_to_first_instruction),
    };
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        printf("the KVM engine is NOT tested here: /dev/kvm: %s\n", strerror(errno));
        return 77;
    }
    close(fd);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
