# sluice: `make help` lists what can be made.

CC      ?= gcc
ifneq ($(findstring clang,$(CC)),)
CXX     := clang++
endif
PREFIX  ?= /usr/local
DESTDIR ?=
BUILD   ?= build
# V=1 shows the commands.
V ?=
ifeq ($(V),)
say   = @printf '  %-5s %s\n' $(1) $(2);
else
say   =
endif
# address, undefined or thread sanitizer builds: make SANITIZE=address,undefined BUILD=build/asan
SANITIZE ?=

VERSION := $(shell cat packaging/version)
LIBRARIES := fuse3 libcurl libzstd libcrypto jansson liburing zlib libisal sqlite3 libpcre2-8 \
             libnghttp2 libprotobuf-c libmicrohttpd yaml-0.1

CFLAGS   ?= -O2 -g
override CPPFLAGS += -I. -isystem $(BUILD)/proto -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DFUSE_USE_VERSION=314 \
             -DSLUICE_VERSION='"$(VERSION)"' $(shell pkg-config --cflags $(LIBRARIES))
override CFLAGS   += -std=gnu17 -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
             -Wvla -Wpointer-arith -fno-strict-aliasing -pthread -MMD -MP
ifneq ($(SANITIZE),)
override CFLAGS   += -fsanitize=$(SANITIZE) -fno-omit-frame-pointer
override LDFLAGS  += -fsanitize=$(SANITIZE)
else
override CPPFLAGS += -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
override CFLAGS   += -fstack-protector-strong -fPIE
override LDFLAGS  += -pie -Wl,-z,relro,-z,now
endif
# The library has what only one of the programs needs.
override LDFLAGS  += -Wl,--as-needed
# For the one C++ file, base/toml.cpp; its library is all headers.
comma := ,
override CXXFLAGS := -std=gnu++17 $(filter-out -std=gnu17 -Wstrict-prototypes -Wmissing-prototypes,$(CFLAGS))
ifneq ($(SANITIZE),)
# These need a runtime library of C++'s own, which linking as C leaves out.
override CXXFLAGS += -fno-sanitize=vptr$(if $(findstring clang,$(CXX)),$(comma)function)
endif
LDLIBS = $(shell pkg-config --libs $(LIBRARIES)) -lstdc++ -pthread

FOLDERS         := base fetcher index cache grpc fuse node credentials snapshotter
DAEMON_SOURCES  := $(wildcard snapshotter/main.c)
HOLDER_SOURCES  := snapshotter/holder_main.c
LIBRARY_SOURCES := $(filter-out $(DAEMON_SOURCES) $(HOLDER_SOURCES),\
                     $(wildcard $(addsuffix /*.c,$(FOLDERS)) $(addsuffix /*.cpp,$(FOLDERS))))
COMMAND_SOURCES := $(wildcard deploytool/*.c)
# containerd's API, as C.
PROTO_PATH      := $(addprefix /usr/share/gocode/src,\
                     / /github.com/gogo/protobuf/ /github.com/gogo/protobuf/protobuf/)
PROTO_NAMES     := $(addprefix github.com/containerd/containerd/api/,\
                     services/snapshots/v1/snapshots types/mount) \
                   $(addprefix google/protobuf/,descriptor empty field_mask timestamp) \
                   gogoproto/gogo
PROTO_SOURCES   := $(PROTO_NAMES:%=$(BUILD)/proto/%.pb-c.c)
PROTO_OBJECTS   := $(PROTO_SOURCES:.c=.o)
UNIT_SOURCES    := $(wildcard tests/unit/test_*.c)
FUZZ_SOURCES    := $(wildcard tests/fuzz/fuzz_*.c)
HEADERS         := $(wildcard $(addsuffix /*.h,$(FOLDERS)) deploytool/*.h tests/unit/*.h tests/fuzz/*.h \
                              tests/tools/*.h)
SOURCES         := $(LIBRARY_SOURCES) $(DAEMON_SOURCES) $(HOLDER_SOURCES) $(COMMAND_SOURCES) $(wildcard tests/unit/*.c tests/fuzz/*.c bench/*.c)

LIBRARY_OBJECTS := $(addprefix $(BUILD)/,$(addsuffix .o,$(basename $(LIBRARY_SOURCES))))
COMMAND_OBJECTS := $(COMMAND_SOURCES:%.c=$(BUILD)/%.o)
DAEMON_OBJECTS  := $(DAEMON_SOURCES:%.c=$(BUILD)/%.o)
HOLDER_OBJECTS  := $(HOLDER_SOURCES:%.c=$(BUILD)/%.o)
UNIT_TESTS      := $(UNIT_SOURCES:tests/unit/%.c=$(BUILD)/tests/%)
FUZZ_TOOLS      := $(addprefix $(BUILD)/tests/,mutate_metadata write_seeds)
TEST_TOOLS      := $(BUILD)/tests/node_driver
FUZZ_TARGETS    := $(FUZZ_SOURCES:tests/fuzz/%.c=$(BUILD)/fuzz/%)

.PHONY: all help unit unit-build test check fuzz fuzz-build soak compile-flags bench bench-peers install install-files clean format packages
.DEFAULT_GOAL := all

all: $(BUILD)/sluice $(DAEMON_SOURCES:snapshotter/main.c=$(BUILD)/sluiced) $(BUILD)/sluice-holder ## build sluice, sluiced and sluice-holder (the default)

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

packages: ## install the Debian packages that building and testing need (as root)
	packaging/install-packages

$(BUILD)/%.o: %.c packaging/version
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

$(BUILD)/%.o: %.cpp packaging/version
	@mkdir -p $(@D)
	$(call say,CXX,$<)$(CXX) $(CPPFLAGS) $(CXXFLAGS) -c -o $@ $<

$(PROTO_SOURCES) &:
	@mkdir -p $(BUILD)/proto
	@protoc-c $(PROTO_PATH:%=-I%) --c_out=$(BUILD)/proto \
	    $(PROTO_NAMES:%=%.proto) 2> $(BUILD)/proto/warnings || { cat $(BUILD)/proto/warnings; exit 1; }

$(BUILD)/proto/%.o: $(BUILD)/proto/%.c
	$(call say,CC,$(<F))$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

$(BUILD)/snapshotter/snapshots_service.o $(BUILD)/snapshotter/snapshots_message.o: | $(PROTO_SOURCES)

$(BUILD)/libsluice.a: $(LIBRARY_OBJECTS) $(PROTO_OBJECTS)
	@rm -f $@
	$(call say,AR,$@)$(AR) rcs $@ $^

$(BUILD)/sluice: $(COMMAND_OBJECTS) $(BUILD)/libsluice.a
	$(call say,LD,$@)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/sluiced: $(DAEMON_OBJECTS) $(BUILD)/libsluice.a
	$(call say,LD,$@)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# It stays when all else is restarted or upgraded, so it depends on next to nothing.
$(BUILD)/sluice-holder: $(HOLDER_OBJECTS) $(BUILD)/libsluice.a
	$(call say,LD,$@)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/tests/%: tests/unit/%.c $(BUILD)/libsluice.a
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< $(BUILD)/libsluice.a $(LDLIBS) -lcmocka

$(BUILD)/tests/%: tests/fuzz/%.c $(BUILD)/libsluice.a
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< $(BUILD)/libsluice.a $(LDLIBS)

$(BUILD)/tests/%: tests/tools/%.c $(BUILD)/libsluice.a
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $< $(BUILD)/libsluice.a $(LDLIBS)

# So that tests can have a server fail.
$(BUILD)/tests/node_driver: override LDFLAGS += -Wl,--wrap=mounted_image_new

$(BUILD)/fuzz/%: tests/fuzz/%.c $(BUILD)/libsluice.a
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -fsanitize=fuzzer -o $@ $< \
	    $(BUILD)/libsluice.a $(LDLIBS)

unit: $(UNIT_TESTS) ## build and run the unit tests only
	@tests/run --unit $(UNIT_TESTS)

test: ## install what is missing, build, run every test; TEST=name runs one
	packaging/install-packages build run test
	$(MAKE) --no-print-directory all unit-build
	tests/run $(TEST)

unit-build: $(UNIT_TESTS) $(FUZZ_TOOLS) $(TEST_TOOLS) $(BUILD)/bench/link

check: ## format, tidy, static analysis, sanitizer builds with the unit tests
	packaging/install-packages
	tests/check

fuzz-build: $(FUZZ_TARGETS) # by tests/fuzz/run, which knows compiler and sanitizers

fuzz: ## look for what breaks the parsers; SECONDS=3600, TARGET=name, MUTANTS=20000 for the kernel
	packaging/install-packages build run test check
	$(MAKE) --no-print-directory all unit-build
	tests/fuzz/run --seconds $(or $(SECONDS),3600) $(TARGET)
	SLUICE_MUTANTS=$(or $(MUTANTS),20000) SLUICE_MUTANTS_SEED=$$(date +%s) \
	    tests/run --e2e KernelMutants

soak: all $(BUILD)/tests/test_snapshot_crash ## random reads, faults, crashes and layers; SECONDS=600 for each test, SEED=... again
	packaging/install-packages run test
	SLUICE_KILLS=0 tests/run --unit $(BUILD)/tests/test_snapshot_crash
	$(if $(SEED),SLUICE_SEED=$(SEED)) SLUICE_SOAK_SECONDS=$(or $(SECONDS),600) \
	    tests/run --e2e $(or $(TEST),RandomReads UnderEviction Faults Crashes \
	        RandomLayers RandomImages LongForms ConvertAnything ManyContainers \
	        test_killed_servers test_kills)

bench: all ## measure the figures of docs/performance.md (long)
	bench/run

$(BUILD)/bench/%: bench/%.c
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $<

bench-peers: ## measure beside other snapshotters (long); PEERS="--quick"
	packaging/install-packages build run test bench
	$(MAKE) --no-print-directory all $(BUILD)/bench/link
	bench/peers $(PEERS)

compile-flags: $(PROTO_SOURCES) # for tests/check
	@echo -std=gnu17 $(CPPFLAGS)

format: ## rewrite the sources in the project's format
	clang-format -i $(SOURCES) $(HEADERS)

install: all ## install to $(DESTDIR)$(PREFIX)
	$(MAKE) --no-print-directory install-files

install-files: # of what is built already
	for program in sluice sluiced sluice-holder; do \
	    install -D -m 0755 $(BUILD)/$$program $(DESTDIR)$(PREFIX)/bin/$$program || exit 1; \
	done
	for page in $(wildcard docs/man/*.[158]); do \
	    install -D -m 0644 $$page $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$$(basename $$page) || exit 1; \
	done
	install -D -m 0644 packaging/completion/sluice.bash \
	    $(DESTDIR)$(PREFIX)/share/bash-completion/completions/sluice
	for unit in sluiced sluice-holder; do \
	    install -d $(DESTDIR)$(PREFIX)/lib/systemd/system && \
	    sed 's|/usr/local/bin/|$(PREFIX)/bin/|' packaging/systemd/$$unit.service \
	        > $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit.service || exit 1; \
	done
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/sluice/containerd packaging/containerd/*.toml
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/sluice/prometheus packaging/prometheus/*.yaml
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/sluice/containers packaging/containers/storage.conf

clean: ## remove what was built
	rm -rf build

-include $(LIBRARY_OBJECTS:.o=.d) $(COMMAND_OBJECTS:.o=.d) $(DAEMON_OBJECTS:.o=.d) $(HOLDER_OBJECTS:.o=.d) $(UNIT_TESTS:=.d) $(FUZZ_TOOLS:=.d) $(TEST_TOOLS:=.d) $(FUZZ_TARGETS:=.d)
