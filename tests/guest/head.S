/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * head: makes a freestanding program look like a bzImage to the 64-bit boot protocol: one boot sector with the setup header,
 * one setup sector, then the "kernel" at its preferred address, entered at its byte 0x200 with RSI = boot_params.
 */
    .section .setup, "a"
    .org 0x1f1
    .byte 1                     /* setup_sects */
    .word 0
    .long _image_paragraphs     /* syssize */
    .word 0, 0, 0
    .word 0xaa55                /* boot_flag */
    .word 0
    .ascii "HdrS"
    .word 0x20f                 /* version */
    .long 0
    .word 0, 0
    .byte 0xff, 0x01            /* type_of_loader; loadflags: LOADED_HIGH */
    .word 0
    .long 0x1000000, 0, 0, 0    /* code32_start, ramdisk, ramdisk size, bootsect_kludge */
    .word 0
    .byte 0, 0
    .long 0, 0x7fffffff         /* cmd_line_ptr, initrd_addr_max */
    .long 0x200000              /* kernel_alignment */
    .byte 0, 21
    .word 1                     /* xloadflags: XLF_KERNEL_64 */
    .long 2047, 0
    .quad 0
    .long 0, 0                  /* payload */
    .quad 0
    .quad 0x1000000             /* pref_address */
    .long 0x100000              /* init_size */
    .long 0
    .org 0x400

    .section .image, "ax"
    .globl _image
_image:
    .org 0x200
    .globl _start
_start:
    mov $0x80000, %rsp
    mov %rsi, %rdi
    call guest_main
1:  cli
    hlt
    jmp 1b
