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
CFLAGS    += -std=c11 -pthread -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
             -Wvla -Werror -fstack-protector-strong $(SAN)
LDFLAGS   += -pthread -Wl,-z,relro,-z,now $(SAN)

pkg_cflags = $(shell pkg-config --cflags $(1) 2>/dev/null)

src      = $(wildcard $(1)/*.c)
objs     = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))

COWDISK_SRC  := $(call src,cowdisk)
IMPORT_SRC   := $(call src,cowdisk/import)
MEMSHARE_SRC := $(call src,memshare)
BUS_SRC      := $(call src,dbus)
CLI_SRC      := $(call src,cli)
DAEMON_SRC   := $(call src,vmmd)
VMM_SRC      := $(filter-out vmmd/vmm/main.c,$(call src,vmmd/vmm)) vmmd/proto.c
UNICORN_A    := $(shell pkg-config --variable=libdir unicorn 2>/dev/null)/libunicorn.a
ifneq ($(wildcard $(UNICORN_A)),)
SOFT_SRC     := $(call src,vmmd/vmm/engine-soft)
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

PROGRAMS := $(BUILD)/vmmd $(BUILD)/vmmd-guest $(BUILD)/vmmd-import $(BUILD)/vmctl

.PHONY: all
all: $(PROGRAMS)

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	@echo "  CC      $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

$(call objs,$(BUS_SRC) $(CLI_SRC) $(DAEMON_SRC)): CPPFLAGS += $(call pkg_cflags,dbus-1 libevent jansson)

define archive
@rm -f $@
@$(AR) rcs $@ $^
endef

$(LIBCOWDISK): $(call objs,$(COWDISK_SRC)) ; $(archive)
$(LIBMEMSHARE): $(call objs,$(MEMSHARE_SRC)) ; $(archive)
$(LIBBUS): $(call objs,$(BUS_SRC)) ; $(archive)
$(LIBVMM): $(call objs,$(VMM_SRC)) ; $(archive)
$(LIBDAEMON): $(call objs,$(filter-out vmmd/main.c,$(DAEMON_SRC))) ; $(archive)

COWDISK_LIBS  := -lxxhash -lz
MEMSHARE_LIBS := -lxxhash
BUS_LIBS      := -ldbus-1 -levent_core
DAEMON_LIBS   := $(BUS_LIBS) -ljansson -linih -lsystemd -lcap-ng
GUEST_LIBS    := -lseccomp -lcap-ng -lrt -lm
IMPORT_LIBS   := -lext2fs -lcom_err -lblkid -lqcow -lseccomp -lcap-ng

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

$(BUILD)/vmmd: $(call objs,vmmd/main.c) $(LIBDAEMON) $(LIBBUS) $(LIBMEMSHARE) $(LIBCOWDISK)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $^ $(DAEMON_LIBS) $(COWDISK_LIBS) $(MEMSHARE_LIBS)

$(BUILD)/vmmd-import: $(call objs,$(IMPORT_SRC)) $(LIBCOWDISK)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $^ $(IMPORT_LIBS) $(COWDISK_LIBS)

$(BUILD)/vmctl: $(call objs,$(CLI_SRC)) $(LIBBUS)
	@echo "  LINK    $@"
	@$(CC) $(LDFLAGS) -o $@ $^ $(BUS_LIBS) -ljansson

$(BUILD)/bench-%: tests/bench/bench-%.c $(LIBVMM) $(LIBMEMSHARE) $(LIBCOWDISK)
	@echo "  LINK    $@"
	@$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $(filter-out %.h,$^) $(COWDISK_LIBS) $(MEMSHARE_LIBS) -lm

$(BUILD)/guest-run: tests/bench/guest-run.c $(LIBVMM) $(LIBCOWDISK) $(BUILD)/vmmd-guest
	@echo "  LINK    $@"
	@$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.c %.a,$^) $(COWDISK_LIBS)

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
