/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * boot: see boot.h. The kernel file is checked field by field: it comes out of an image. Files are
 * read straight into guest memory, so that no second copy stays in the process.
 *
 * Guest memory below 1 MiB: 0x7000 boot_params, 0x8000 GDT, 0x9000 page tables (identity, 4 GiB),
 * 0x20000 command line, 0xe0000 ACPI tables.
 */
#include "vmmd/vmm/boot.h"

#include "vmmd/vmm/acpi.h"
#include "vmmd/vmm/memory.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PARAMS_GPA   0x7000ull
#define STACK_GPA    0x6ff0ull
#define GDT_GPA      0x8000ull
#define TABLES_GPA   0x9000ull
#define CMDLINE_GPA  0x20000ull
#define LOW_RAM_END  0x9fc00ull
#define HIGH_START   0x100000ull
#define PROTOCOL_MIN 0x20cu /* xloadflags */
#define HEADER_AT    0x1f1u
#define ENTRY_64     0x200u
#define PAGE         4096ull
#define PTE_TABLE    3ull /* present, writable */
#define PTE_2M       0x83ull

static int fail(char *text, size_t size, int error, const char *what)
{
    snprintf(text, size, "%s", what);
    return error;
}

static int read_all(int fd, void *data, uint64_t bytes, uint64_t offset)
{
    uint8_t *at = data;

    while (bytes > 0) {
        ssize_t n = pread(fd, at, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EINVAL;
        at += n;
        offset += (uint64_t)n;
        bytes -= (uint64_t)n;
    }
    return 0;
}

static int file_size(int fd, uint64_t *ret_bytes)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    *ret_bytes = (uint64_t)st.st_size;
    return 0;
}

/* Reads the setup header; *ret_setup is where the 64-bit code begins in the file. */
static int read_header(int fd, uint64_t bytes, struct setup_header *h, uint64_t *ret_setup,
                       char *text, size_t size)
{
    if (bytes < HEADER_AT + sizeof(*h) || read_all(fd, h, sizeof(*h), HEADER_AT) < 0)
        return fail(text, size, -EINVAL, "kernel: the file is too short for a bzImage");
    if (h->header != 0x53726448 || h->boot_flag != 0xaa55)
        return fail(text, size, -EINVAL, "kernel: not a bzImage (no HdrS)");
    if (h->version < PROTOCOL_MIN || !(h->xloadflags & XLF_KERNEL_64) ||
        !(h->loadflags & LOADED_HIGH))
        return fail(text, size, -EINVAL,
                    "kernel: no 64-bit entry point (x86-64, Linux 3.8 or later is needed)");
    *ret_setup = ((uint64_t)(h->setup_sects ? h->setup_sects : 4) + 1) * 512;
    if (bytes <= *ret_setup || bytes - *ret_setup + 15 < (uint64_t)h->syssize * 16)
        return fail(text, size, -EINVAL, "kernel: the file is truncated");
    return 0;
}

static int load_kernel(struct memory *m, int fd, struct setup_header *h, uint64_t *ret_gpa,
                       char *text, size_t size)
{
    uint64_t bytes = 0, setup, at, needed;
    void *to;
    int r = file_size(fd, &bytes);

    if (r < 0)
        return fail(text, size, r, "kernel: cannot be read");
    r = read_header(fd, bytes, h, &setup, text, size);
    if (r < 0)
        return r;
    at = h->pref_address;
    bytes -= setup;
    needed = h->init_size > bytes ? h->init_size : bytes;
    if (at < HIGH_START || at % PAGE != 0 || !memory_at(m, at, needed))
        return fail(text, size, -ENOMEM, "kernel: guest memory is too small for it");
    to = memory_at(m, at, bytes);
    r = read_all(fd, to, bytes, setup);
    if (r < 0)
        return fail(text, size, r, "kernel: cannot be read");
    *ret_gpa = at;
    return 0;
}

static int load_initrd(struct memory *m, int fd, struct boot_params *bp, uint64_t kernel_end,
                       char *text, size_t size)
{
    uint64_t bytes = 0, top, at;
    int r = file_size(fd, &bytes);

    if (r < 0 || bytes == 0)
        return fail(text, size, r < 0 ? r : -EINVAL, "initrd: empty, or cannot be read");
    top = (uint64_t)bp->hdr.initrd_addr_max + 1;
    if (top > m->low_bytes)
        top = m->low_bytes;
    if (bytes > top || ((top - bytes) & ~(PAGE - 1)) < kernel_end)
        return fail(text, size, -ENOMEM, "initrd: guest memory is too small for it and the kernel");
    at = (top - bytes) & ~(PAGE - 1);
    r = read_all(fd, memory_at(m, at, bytes), bytes, 0);
    if (r < 0)
        return fail(text, size, r, "initrd: cannot be read");
    bp->hdr.ramdisk_image = (uint32_t)at;
    bp->hdr.ramdisk_size = (uint32_t)bytes;
    return 0;
}

static void add_region(struct boot_params *bp, uint64_t start, uint64_t end, uint32_t type)
{
    bp->e820_table[bp->e820_entries++] =
        (struct boot_e820_entry){.addr = start, .size = end - start, .type = type};
}

static void fill_memory_map(const struct memory *m, struct boot_params *bp)
{
    add_region(bp, 0, LOW_RAM_END, 1);
    add_region(bp, ACPI_START, ACPI_END, 2);
    add_region(bp, HIGH_START, m->low_bytes, 1);
    if (m->bytes > m->low_bytes)
        add_region(bp, MEMORY_HOLE_END, MEMORY_HOLE_END + m->bytes - m->low_bytes, 1);
}

/* The TSC is the host's: given its rate, the kernel need not measure it against timers that jitter
 * here. */
static int put_cmdline(struct memory *m, const struct boot_config *c, char *text, size_t size)
{
    char line[BOOT_CMDLINE_MAX];
    int n = snprintf(line, sizeof(line), "%s tsc=reliable tsc_early_khz=%llu no_timer_check",
                     c->cmdline, (unsigned long long)c->tsc_khz);

    if (n < 0 || (size_t)n >= sizeof(line))
        return fail(text, size, -EINVAL, "kernel command line: longer than 2 KiB");
    return memory_write(m, CMDLINE_GPA, line, (size_t)n + 1);
}

static int put_tables(struct memory *m)
{
    uint64_t gdt[4] = {0, 0, 0x00af9b000000ffffull,
                       0x00cf93000000ffffull}; /* 0x10 code, 0x18 data */
    uint64_t *p = memory_at(m, TABLES_GPA, 6 * PAGE);

    if (!p || memory_write(m, GDT_GPA, gdt, sizeof(gdt)) < 0)
        return -ENOMEM;
    p[0] = (TABLES_GPA + PAGE) | PTE_TABLE;
    for (uint64_t i = 0; i < 4; i++) {
        p[512 + i] = (TABLES_GPA + (2 + i) * PAGE) | PTE_TABLE;
        for (uint64_t j = 0; j < 512; j++)
            p[1024 + 512 * i + j] = (i << 30 | j << 21) | PTE_2M;
    }
    return 0;
}

int boot_linux(struct memory *m, const struct boot_config *c, struct engine_entry *ret_entry,
               char *text, size_t size)
{
    struct boot_params bp;
    uint64_t kernel;
    int r;

    memset(&bp, 0, sizeof(bp));
    if (m->low_bytes < 2 * HIGH_START)
        return fail(text, size, -ENOMEM, "guest memory is too small for a kernel");
    r = load_kernel(m, c->kernel_fd, &bp.hdr, &kernel, text, size);
    if (r == 0 && c->initrd_fd >= 0)
        r = load_initrd(m, c->initrd_fd, &bp, kernel + bp.hdr.init_size, text, size);
    if (r == 0)
        r = put_cmdline(m, c, text, size);
    if (r == 0 && put_tables(m) < 0)
        r = fail(text, size, -ENOMEM, "guest memory is too small for a kernel");
    if (r < 0)
        return r;
    bp.hdr.type_of_loader = 0xff;
    bp.hdr.cmd_line_ptr = CMDLINE_GPA;
    bp.acpi_rsdp_addr = c->rsdp;
    fill_memory_map(m, &bp);
    memory_write(m, PARAMS_GPA, &bp, sizeof(bp));
    *ret_entry = (struct engine_entry){
        .rip = kernel + ENTRY_64,
        .rsi = PARAMS_GPA,
        .rsp = STACK_GPA,
        .cr3 = TABLES_GPA,
        .gdt_base = GDT_GPA,
        .gdt_limit = 31,
    };
    return 0;
}
