# Strangers' files, failing machines and modules from nowhere, from outside.
TESTS += %D%/abuse.sh %D%/modules.sh %D%/kill.sh %D%/terminal.sh
EXTRA_DIST += %D%/abuse.sh %D%/abuse.py %D%/modules.sh %D%/modules.py %D%/kill.sh %D%/kill.py %D%/terminal.sh %D%/terminal.py

# What the machine refuses, at every place where it can; ref once more as a module that fails on request
WRAPPED = malloc calloc realloc aligned_alloc strdup strndup open_memstream vasprintf asprintf mmap fopen fdopen mkostemp opendir open openat \
  read pread write pwrite ftruncate fread fwrite fflush getline fsync rename pthread_create
WRAP_FLAGS = $(addprefix -Wl$(COMMA)--wrap=,$(WRAPPED))
COMMA = ,
check_PROGRAMS    += %D%/faults
check_LTLIBRARIES += %D%/faulty.la
TESTS             += %D%/faults
%C%_faults_SOURCES = %D%/faults.c $(dbrx_tools)
%C%_faults_CPPFLAGS = $(libsanitized_la_CPPFLAGS)
%C%_faults_CFLAGS  = $(libsanitized_la_CFLAGS)
%C%_faults_LDFLAGS = -export-dynamic $(WRAP_FLAGS)
%C%_faults_LDADD   = libsanitized.la
%C%_faulty_la_SOURCES  = %D%/faulty.c $(libgraph_la_SOURCES)
%C%_faulty_la_CFLAGS   = $(AM_CFLAGS) $(SANITIZE)
%C%_faulty_la_LDFLAGS  = -module -avoid-version -shared -export-symbols-regex '^dbrx_module$$' -rpath /nowhere $(WRAP_FLAGS)
%C%_faulty_la_LIBADD   = -lm
check_LTLIBRARIES += %D%/faulty-cpu.la
%C%_faulty_cpu_la_SOURCES  = %D%/faulty-cpu.c
%C%_faulty_cpu_la_LDFLAGS  = $(%C%_faulty_la_LDFLAGS)
%C%_faulty_cpu_la_LIBADD   = libcpu.la libgraph.la -lm
AM_TESTS_ENVIRONMENT += FAULTY='$(abs_top_builddir)/tests/hostile/.libs:$(abs_top_builddir)/modules'; export FAULTY;
