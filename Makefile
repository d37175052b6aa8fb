# vmmd: build, check, demo. GPL-2.0-or-later.
#
# One non-recursive Makefile. A folder is a library or a program: its .c files are found by name, so
# a new file needs no line here. `make help` lists what people type.

BUILD   ?= build
CC      ?= gcc
PREFIX  ?= /usr/local
SAN     ?=

PKGS_BUS  := dbus-1 libevent
VERSION   := 0.1.0
CPPFLAGS  += -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DVMMD_VERSION='"$(VERSION)"' -I. -I$(BUILD) -MMD -MP
CFLAGS    ?= -O2 -g
override CFLAGS += -std=c11 -pthread -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
             -Wvla -Werror -fstack-protector-strong $(SAN)
override LDFLAGS += -pthread -Wl,-z,relro,-z,now $(SAN)

pkg_cflags = $(shell pkg-config --cflags $(1) 2>/dev/null)

src      = $(wildcard $(1)/*.c)
objs     = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))

COWDISK_SRC  := $(call src,cowdisk)
SANDBOX_SRC  := $(call src,cowdisk/sandbox)
IMPORT_SRC   := $(call src,cowdisk/import) $(SANDBOX_SRC)
IMAGE_SRC    := $(call src,cowdisk/image) $(SANDBOX_SRC)
MEMSHARE_SRC := $(call src,memshare)
BUS_SRC      := $(call src,dbus)
CLI_SRC      := $(call src,cli)
DAEMON_SRC   := $(call src,vmmd)
# The interrupt controllers are pure models: in the library, where unit tests reach them.
IRQCHIP_SRC  := $(addprefix vmmd/vmm/engine-soft/,irqchip.c pic.c lapic.c ioapic.c pit.c)
VMM_SRC      := $(filter-out vmmd/vmm/main.c,$(call src,vmmd/vmm)) $(call src,vmmd/vmm/engine-kvm) vmmd/proto.c $(IRQCHIP_SRC)
UNICORN_A    := $(shell pkg-config --variable=libdir unicorn 2>/dev/null)/libunicorn.a
ifneq ($(wildcard $(UNICORN_A)),)
SOFT_SRC     := $(filter-out $(IRQCHIP_SRC),$(call src,vmmd/vmm/engine-soft))
SOFT_LIB     := $(BUILD)/libunicorn-vmmd.a
else
$(warning libunicorn-dev is missing: vmmd-guest is built without the software engine)
SOFT_SRC     := $(call src,vmmd/vmm/no-soft)
endif

LIBCOWDISK  := $(BUILD)/libcowdisk.a
LIBMEMSHARE := $(BUILD)/libmemshare.a
LIBBUS      := $(BUILD)/libbus.a
LIBVMM      := $(BUILD)/libvmm.a
LIBDAEMON   := $(BUILD)/libdaemon.a

PROGRAMS := $(BUILD)/vmmd $(BUILD)/vmmd-guest $(BUILD)/vmmd-guest-kvm $(BUILD)/vmmd-import $(BUILD)/vmmd-image $(BUILD)/vmctl

.PHONY: all
all: $(PROGRAMS)

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	@echo "  CC      $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

$(call objs,$(BUS_SRC) $(CLI_SRC) $(DAEMON_SRC)): CPPFLAGS += $(call pkg_cflags,dbus-1 libevent jansson)

# Also for a shared object: tests/nbdkit.
$(call objs,$(COWDISK_SRC)): override CFLAGS += -fPIC

define archive
@rm -f $@
@$(AR) rcs $@ $^
endef

$(LIBCOWDISK): $(call objs,$(COWDISK_SRC)) ; $(archive)
$(LIBMEMSHARE): $(call objs,$(MEMSHARE_SRC)) ; $(archive)
$(LIBBUS): $(call objs,$(BUS_SRC)) ; $(archive)
$(LIBVMM): $(call objs,$(VMM_SRC)) ; $(archive)
$(LIBDAEMON): $(call objs,$(filter-out vmmd/main.c,$(DAEMON_SRC))) ; $(archive)

COWDISK_LIBS  := -lxxhash -ldeflate -lz -lzstd -luring
MEMSHARE_LIBS := -lxxhash
BUS_LIBS      := -ldbus-1 -levent_core
DAEMON_LIBS   := $(BUS_LIBS) -ljansson -linih -lsystemd -lcap-ng -lm
GUEST_LIBS    := -lseccomp -lcap-ng -lrt -lm
IMPORT_LIBS   := -lqcow -lext2fs -lcom_err -lblkid -lseccomp -lcap-ng
IMAGE_LIBS    := -ljansson -lseccomp -lcap-ng

$(BUILD)/obj/vmmd/vmm/acpi.o: $(BUILD)/gen/dsdt.hex

$(BUILD)/gen/dsdt.hex: vmmd/vmm/dsdt.dsl
	@mkdir -p $(@D)
	@iasl -tc -p $(basename $@) $< >$(basename $@).log || { cat $(basename $@).log; exit 1; }

$(BUILD)/libunicorn-vmmd.a: vmmd/vmm/engine-soft/prepare-unicorn.sh $(UNICORN_A)
	@mkdir -p $(@D)
	@sh $< $(UNICORN_A) $@

$(BUILD)/vmmd-guest: $(call objs,vmmd/vmm/main.c $(SOFT_SRC)) $(LIBVMM) $(LIBMEMSHARE) $(LIBCOWDISK) $(SOFT_LIB)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $^ $(GUEST_LIBS) $(COWDISK_LIBS) $(MEMSHARE_LIBS)

# For guests of the KVM engine: without the other engine's code, and the memory that relocating it takes.
$(BUILD)/vmmd-guest-kvm: $(call objs,vmmd/vmm/main.c vmmd/vmm/no-soft/engine-none.c) $(LIBVMM) $(LIBMEMSHARE) $(LIBCOWDISK)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $^ $(GUEST_LIBS) $(COWDISK_LIBS) $(MEMSHARE_LIBS)

$(BUILD)/vmmd: $(call objs,vmmd/main.c) $(LIBDAEMON) $(LIBBUS) $(LIBMEMSHARE) $(LIBCOWDISK)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $^ $(DAEMON_LIBS) $(COWDISK_LIBS) $(MEMSHARE_LIBS)

$(BUILD)/vmmd-import: $(call objs,$(IMPORT_SRC)) $(LIBCOWDISK)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $^ $(IMPORT_LIBS) $(COWDISK_LIBS)

$(BUILD)/vmmd-image: $(call objs,$(IMAGE_SRC)) $(LIBCOWDISK)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $^ $(IMAGE_LIBS) $(COWDISK_LIBS)

$(BUILD)/vmctl: $(call objs,$(CLI_SRC)) $(LIBBUS)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $^ $(BUS_LIBS) -ljansson

# ---- tests ---------------------------------------------------------------------------------------

UNIT_TESTS  := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/test-*.c))
FAKES       := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/fake-*.c))
INTEGRATION := $(filter-out %functions.sh,$(wildcard tests/integration/*.sh))
TEST_LIBS   := $(LIBVMM) $(LIBDAEMON) $(LIBBUS) $(LIBMEMSHARE) $(LIBCOWDISK)
TEST_SO     := -lcmocka $(DAEMON_LIBS) $(GUEST_LIBS) $(COWDISK_LIBS) $(MEMSHARE_LIBS)

$(BUILD)/tests/%: tests/unit/%.c $(TEST_LIBS)
	@mkdir -p $(@D)
	@echo "  LINK    $@"
	@$(CC) $(CPPFLAGS) $(call pkg_cflags,dbus-1 libevent jansson) $(CFLAGS) $(LDFLAGS) -o $@ $< $(TEST_LIBS) $(TEST_SO)

$(BUILD)/tests/test-import-identity: TEST_SO += -lext2fs -lcom_err -lblkid

# With the software engine, for it runs guest code.
$(BUILD)/tests/test-vmm-engine: TEST_LIBS := $(call objs,$(SOFT_SRC)) $(TEST_LIBS) $(SOFT_LIB)
$(BUILD)/tests/test-vmm-engine: $(call objs,$(SOFT_SRC)) $(SOFT_LIB)

# Tiny guests of our own: freestanding programs that look like a bzImage.
GUESTS      := $(patsubst tests/guest/%.c,$(BUILD)/guests/%,$(wildcard tests/guest/*.c))
GUEST_FLAGS := -std=c11 -O2 -ffreestanding -fno-pic -fno-stack-protector -mno-red-zone -mcmodel=small -mgeneral-regs-only \
               -fcf-protection=none -Wall -Wextra -Werror -Wno-array-bounds -nostdlib -static -Wl,--build-id=none,-z,noexecstack,--no-warn-rwx-segments

$(BUILD)/guests/%: tests/guest/%.c tests/guest/head.S tests/guest/guest.ld $(wildcard tests/guest/*.h)
	@mkdir -p $(@D)
	@echo "  GUEST   $@"
	@$(CC) $(GUEST_FLAGS) -T tests/guest/guest.ld -o $@.elf $(filter %.S %.c,$^)
	@objcopy -O binary -j .setup $@.elf $@.setup
	@objcopy -O binary -j .image $@.elf $@.image
	@cat $@.setup $@.image >$@

# Guests of more than one file.
$(BUILD)/guests/fidelity: tests/guest/parts/rings.c $(wildcard tests/guest/fidelity/*.[ch])
$(BUILD)/guests/nano: tests/guest/parts/rings.c

# What overlays cost, beside plain files and QEMU's.
$(BUILD)/bench-cowdisk: $(call objs,$(call src,tests/bench/cowdisk)) $(LIBCOWDISK)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $^ $(COWDISK_LIBS) -lqcow

# What page sharing gains and costs, beside KSM.
BENCH_MEMSHARE_SRC := $(call src,tests/bench/memshare)
$(call objs,$(BENCH_MEMSHARE_SRC)): CPPFLAGS += $(call pkg_cflags,jansson)
$(BUILD)/bench-memshare: $(call objs,$(BENCH_MEMSHARE_SRC)) $(LIBMEMSHARE)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $^ $(MEMSHARE_LIBS) -ljansson

$(BUILD)/guest-run: tests/bench/guest-run.c $(LIBVMM) $(LIBCOWDISK) $(BUILD)/vmmd-guest $(BUILD)/vmmd-guest-kvm
	@echo "  LINK    $@"
	@$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.c %.a,$^) $(COWDISK_LIBS)

# Static: it is the init of a guest, too.
$(BUILD)/nano-native: tests/bench/nano-native.c
	@echo "  LINK    $@"
	@$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -static -o $@ $<

# Serves an image through cowdisk to any NBD client.
NBDKIT_PLUGIN := $(BUILD)/nbdkit-cowdisk-plugin.so
$(NBDKIT_PLUGIN): tests/nbdkit/plugin.c $(LIBCOWDISK)
	@echo "  LINK    $@"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -fPIC -shared $(LDFLAGS) -o $@ $^ $(COWDISK_LIBS)

.PHONY: test-programs unit check check-lab check-asan check-integration soak demo bench bench-engines bench-lab fuzz fuzz-cowdisk format format-check deps help clean install
test-programs: $(UNIT_TESTS) $(FAKES) $(GUESTS) $(BUILD)/guest-run $(NBDKIT_PLUGIN)

unit: $(UNIT_TESTS) $(FAKES)
	@tests/run.sh $(UNIT_TESTS)

# What a submission must pass: installs what is missing, builds, and runs everything but the benchmarks.
check:
	@tests/deps.sh build test
	@$(MAKE) --no-print-directory -j$$(nproc) all test-programs
	@$(MAKE) --no-print-directory format-check
	@tests/check-includes.sh
	@tests/rootfs.sh $(BUILD)/cache/bookworm
	@$(MAKE) --no-print-directory check-asan
	@FUZZ_SECONDS=60 $(MAKE) --no-print-directory fuzz-cowdisk >$(BUILD)/fuzz.log 2>&1 || { tail -n 60 $(BUILD)/fuzz.log; exit 1; }
	@BUILD=$(BUILD) tests/run.sh $(UNIT_TESTS) $(INTEGRATION)

LAB_TESTS := $(addprefix $(BUILD)/tests/,test-vmm-kvm test-vmm-timers test-vmm-cpumodel)

# Real KVM on any machine: QEMU emulates one with SVM, a Debian kernel in it runs our guests (tests/lab/). With two kernels: the
# newer one tracks writes for the page scanner.
check-lab:
	@tests/deps.sh build demo lab
	@$(MAKE) --no-print-directory -j$$(nproc) all $(LAB_TESTS) $(BUILD)/guests/checksum $(BUILD)/guests/fidelity $(BUILD)/guests/storm
	@tests/rootfs.sh $(BUILD)/cache/bookworm
	@tests/lab/kernel.sh $(BUILD)/cache/lab-bookworm bookworm linux-image-cloud-amd64
	@tests/lab/kernel.sh $(BUILD)/cache/lab-generic bookworm linux-image-amd64
	@tests/lab/kernel.sh $(BUILD)/cache/lab-backports bookworm-backports linux-image-cloud-amd64
	@BUILD=$(BUILD) tests/lab/lab.sh $(BUILD)/cache/lab-bookworm $(BUILD)/cache/bookworm $(BUILD)/cache/lab-generic
	@BUILD=$(BUILD) tests/lab/lab.sh $(BUILD)/cache/lab-backports $(BUILD)/cache/bookworm

ASAN := BUILD=$(BUILD)/asan SAN='-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer' CFLAGS='-O1 -g'

# Unit tests under the address and undefined behaviour sanitizers, in a build of their own.
check-asan:
	@$(MAKE) --no-print-directory -j$$(nproc) $(ASAN) asan-programs
	@echo "under ASAN and UBSAN:"
	@MS_STRESS_SECONDS=3 CUT_FACTOR=1 $(MAKE) --no-print-directory $(ASAN) unit

.PHONY: asan-programs
asan-programs: $(UNIT_TESTS) $(FAKES)

check-integration: all test-programs
	@tests/deps.sh test
	@tests/rootfs.sh $(BUILD)/cache/bookworm
	@BUILD=$(BUILD) tests/run.sh $(INTEGRATION)

# Hours: 10,000 kills of a writer, random operations and damaged images by the thousand.
SOAK := $(addprefix tests/integration/,cowdisk-kill.sh image-kill.sh image-random.sh cowdisk-nbd.sh image-check.sh)
soak: all test-programs
	@tests/deps.sh test
	@seed=$$(date +%s); echo "seed $$seed"; \
	BUILD=$(BUILD) TEST_TIMEOUT=28800 KILL_SEED=$$seed NBD_SEED=$$seed CHECK_SEED=$$seed CHAINS_SEED=$$seed CHAINS=5000 KILL_ROUNDS=5000 KILL_MOST=100000 \
	    NBD_STOPS=5000 CHECK_MUTANTS=5000 CUT_FACTOR=20 tests/run.sh $(BUILD)/tests/test-cowdisk-faults $(SOAK)

demo:
	@tests/deps.sh build demo
	@BUILD=$(BUILD) tests/demo.sh

bench: all $(BUILD)/guest-run $(BUILD)/bench-cowdisk $(BUILD)/bench-memshare
	@tests/deps.sh bench
	@tests/rootfs.sh $(BUILD)/cache/bookworm
	@BUILD=$(BUILD) tests/bench/bench-tcg.sh $(BUILD)/cache/bookworm/vmlinuz $(BUILD)/cache/bookworm/initrd $(BUILD)/cache/bookworm/disk.raw
	@$(BUILD)/bench-cowdisk $(BUILD)
	@tests/bench/ram-images.sh $(BUILD)/cache/ram-images $(BUILD)/cache/bookworm/vmlinuz $(BUILD)/cache/bookworm/initrd $(BUILD)/cache/bookworm/disk.raw
	@mkdir -p $(BUILD)/bench
	@$(BUILD)/bench-memshare --steady $${BENCH_STEADY:-20} $$([ $$(id -u) != 0 ] || echo --ksm) --flat 32,64 \
	    --images $(BUILD)/cache/ram-images/guest-*.raw | tee $(BUILD)/bench/memshare.md
	@BUILD=$(BUILD) tests/bench/bench-guests.sh --markdown >$(BUILD)/bench/guests.md || [ $$? = 77 ]
	@tee -a $(BUILD)/bench/memshare.md <$(BUILD)/bench/guests.md

# Single operations on each engine and natively; bench-lab: on KVM in the lab, and a boot beside nested QEMU.
bench-engines: all $(BUILD)/guest-run $(BUILD)/guests/nano $(BUILD)/nano-native
	@tests/deps.sh bench
	@tests/rootfs.sh $(BUILD)/cache/bookworm
	@mkdir -p $(BUILD)/bench
	@BUILD=$(BUILD) tests/bench/bench-engines.sh $(BUILD)/cache/bookworm/vmlinuz $(BENCH_OPTIONS) | tee $(BUILD)/bench/engines.md

bench-lab: all $(BUILD)/guest-run $(BUILD)/guests/nano $(BUILD)/nano-native $(LAB_TESTS) $(BUILD)/guests/checksum $(BUILD)/guests/fidelity $(BUILD)/guests/storm
	@tests/deps.sh bench lab
	@tests/lab/kernel.sh $(BUILD)/cache/lab-bookworm bookworm linux-image-cloud-amd64
	@mkdir -p $(BUILD)/bench
	@BUILD=$(BUILD) tests/bench/bench-engines.sh $(BUILD)/cache/lab-bookworm $(BENCH_OPTIONS) | tee $(BUILD)/bench/engines-lab.md

# Either FUZZ_SECONDS for each target or 100,000 mutants.
FUZZ := $(if $(FUZZ_SECONDS),-max_total_time=$(FUZZ_SECONDS),-runs=100000) -print_final_stats=1
define fuzz
@mkdir -p $(BUILD)/fuzz/corpus-$(1)
@clang -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -I. \
    tests/fuzz/fuzz-$(1).c $(2) -o $(BUILD)/fuzz/fuzz-$(1)
@$(BUILD)/fuzz/fuzz-$(1) $(FUZZ) -artifact_prefix=$(BUILD)/fuzz/ $(BUILD)/fuzz/corpus-$(1) $(3)
endef

# The image reader and writer, check and repair, and the pool's side of page sharing, fed with anything.
fuzz: fuzz-cowdisk
	$(call fuzz,memshare,$(MEMSHARE_SRC) $(MEMSHARE_LIBS))
	$(call fuzz,check,$(COWDISK_SRC) $(COWDISK_LIBS),$(BUILD)/fuzz/seeds-cowdisk -timeout=10 -rss_limit_mb=1024)

# An input may take a second and 256 MiB; what freed memory waits in (the quarantine) counts.
fuzz-cowdisk: export ASAN_OPTIONS := quarantine_size_mb=8
fuzz-cowdisk:
	@tests/deps.sh build test fuzz
	@tests/fuzz/seeds-cowdisk.sh $(BUILD)/fuzz/seeds-cowdisk
	$(call fuzz,cowdisk,-include tests/fuzz/canary.h $(COWDISK_SRC) $(COWDISK_LIBS),$(BUILD)/fuzz/seeds-cowdisk -timeout=1 -rss_limit_mb=256 -malloc_limit_mb=256)

# ---- upkeep --------------------------------------------------------------------------------------

FORMATTED := $(shell find vmmd memshare cowdisk cli dbus tests -name '*.[ch]')
format:
	@clang-format -i $(FORMATTED)
format-check:
	@clang-format --dry-run -Werror $(FORMATTED)

deps:
	@tests/deps.sh build test

clean:
	rm -rf $(BUILD)

LIBEXECDIR := $(PREFIX)/libexec/vmmd
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(LIBEXECDIR)
	install -m 755 $(BUILD)/vmctl $(DESTDIR)$(PREFIX)/bin/
	install -m 755 $(BUILD)/vmmd $(DESTDIR)$(PREFIX)/sbin/
	install -m 755 $(BUILD)/vmmd-guest $(BUILD)/vmmd-guest-kvm $(BUILD)/vmmd-import $(BUILD)/vmmd-image $(DESTDIR)$(LIBEXECDIR)/
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man5 $(DESTDIR)$(PREFIX)/share/man/man8
	install -m 644 man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	install -m 644 man/*.5 $(DESTDIR)$(PREFIX)/share/man/man5/
	install -m 644 man/*.8 $(DESTDIR)$(PREFIX)/share/man/man8/
	install -d $(DESTDIR)/usr/share/dbus-1/system.d $(DESTDIR)/usr/share/dbus-1/system-services $(DESTDIR)/lib/systemd/system
	install -m 644 dbus/org.vmmd1.conf $(DESTDIR)/usr/share/dbus-1/system.d/
	sed 's,@PREFIX@,$(PREFIX),g' dbus/org.vmmd1.service >$(DESTDIR)/usr/share/dbus-1/system-services/org.vmmd1.service
	sed 's,@PREFIX@,$(PREFIX),g' dbus/vmmd.service >$(DESTDIR)/lib/systemd/system/vmmd.service
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -m 644 cli/vmctl.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/vmctl

help:
	@echo "make              build everything into $(BUILD)/"
	@echo "make demo         a template, four guests, their pages merged, the saving shown (root, apt)"
	@echo "make check        install what is missing, build, run all tests"
	@echo "make soak         hours of kills, random operations and damage on disk images"
	@echo "make check-lab    the KVM engine in an emulated machine that has SVM, with two kernels (14 minutes)"
	@echo "make check-asan   unit tests under ASAN and UBSAN"
	@echo "make bench        the benchmarks; figures are printed, nothing is asserted"
	@echo "make bench-engines  single operations on each engine and natively; make bench-lab: on KVM in the lab"
	@echo "make fuzz         feed the image reader and the page pool with 100,000 mutants, or for FUZZ_SECONDS each"
	@echo "make format       format the code; make install [PREFIX=$(PREFIX)] [DESTDIR=]"

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
