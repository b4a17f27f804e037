/* tests/fuzz/argv.c -- the program's own command line, and those of the tools in it.
 *
 * An input is arguments, one a line (or with a NUL behind each).  main() runs with them in a
 * folder of its own where some good files are, and has to end with an exit code of those that
 * --help lists, and with a sentence on stderr if that is not 0.  No argument leads out of the
 * folder; there are no backends, so that all ends where a model would begin to work. */
#define _GNU_SOURCE
#include "tests/fuzz/fuzz.h"

#include "repl/options.h"
#include "tests/unit/model_files.h"

int dbrx_main(int argc, char **argv);
#define main dbrx_main
#include "repl/main.c"
#undef main

#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/time.h>

enum { MAX_ARGS = 40, SECONDS = 20 };

/* ---- the folder ---- */

static uint64_t stamp;

static int stamp_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)type;
    if (at->level)
        for (const char *p = path; *p; p++)
            stamp = (stamp ^ (unsigned char)*p) * UINT64_C(0x100000001b3);
    stamp = (stamp ^ (uint64_t)st->st_mtim.tv_nsec ^ (uint64_t)st->st_size << 32) * UINT64_C(0x100000001b3);
    return 0;
}

static uint64_t folder_stamp(void)
{
    stamp = 0;
    nftw(fuzz_dir(), stamp_one, 16, FTW_PHYS);
    return stamp;
}

/* m: a checkpoint; t: a text; i: ids; p: prompts; v: a vocabulary; h: a home */
static void fill_folder(void)
{
    static const char text[] = "Once upon a time\n", ids[] = "1 2 0\n", prompts[] = "{\"prompt\":\"Once\",\"tokens\":[1,2]}\n",
        vocabulary[] = "AA== 0\nYQ== 1\nYg== 2\nYWI= 3\n";
    static uint64_t filled;
    if (filled && folder_stamp() == filled)
        return;
    fuzz_clear();
    MUST(!mkdirat(fuzz_dir_fd(), "m", 0700) && !mkdirat(fuzz_dir_fd(), "h", 0700));
    MUST(!mf_write_tiny(fuzz_path("m"), &mf_tiny, "BF16", 0));
    fuzz_put("t", text, sizeof text - 1);
    fuzz_put("i", ids, sizeof ids - 1);
    fuzz_put("p", prompts, sizeof prompts - 1);
    fuzz_put("v", vocabulary, sizeof vocabulary - 1);
    filled = folder_stamp();
}

/* ---- one command line ---- */

/* A slash only behind the one dot of "./": no path leads up, none begins at the root.  Not --raw:
 * it would hold for all inputs to come. */
static void make_tame(char *arg)
{
    for (char *p = arg; *p; p++) {
        int after_dot = p > arg && p[-1] == '.';
        if ((*p == '/' && !after_dot) || (*p == '.' && after_dot))
            *p = '_';
    }
    if (!strncmp(arg, "--r", 3))
        arg[2] = '_';
}

static void too_long(int sig)
{
    (void)sig;
    fuzz_broken("it ends within seconds", __FILE__, __LINE__);
}

static void set_up(void)
{
    static int done;
    if (done++)
        return;
    int null = open("/dev/null", O_RDWR);
    MUST(null >= 0 && dup2(null, 0) == 0);
    setenv("HOME", fuzz_path("h"), 1);
    static const char *const gone[] = { "DBRX_MODULE_PATH", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "EDITOR", "VISUAL" };
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++)
        unsetenv(gone[i]);
    signal(SIGVTALRM, too_long);
}

static void limit(int seconds)
{
    setitimer(ITIMER_VIRTUAL, &(struct itimerval){ .it_value.tv_sec = seconds }, NULL);
}

static void argv_run(const uint8_t *data, size_t size)
{
    static const int theirs[] = { SIGINT, SIGTERM, SIGPIPE, SIGALRM, SIGXFSZ };      /* the fuzzer's own */
    enum { N = sizeof theirs / sizeof *theirs };
    struct sigaction was[N];
    char name[] = "dbrx", *arg[MAX_ARGS + 2] = { name }, *left[MAX_ARGS + 2], *out, *err;
    size_t out_len, err_len;
    int n = 1, here = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    set_up();
    fill_folder();
    for (size_t at = 0, end; at < size && n <= MAX_ARGS; at = end + 1) {
        for (end = at; end < size && data[end] && data[end] != '\n'; end++)
            ;
        arg[n] = strndup((const char *)data + at, end - at);
        make_tame(arg[n++]);
    }
    memcpy(left, arg, sizeof left);        /* getopt sorts */
    FILE *real_out = stdout, *real_err = stderr;
    for (int i = 0; i < N; i++)
        sigaction(theirs[i], NULL, &was[i]);
    MUST(here >= 0 && !fchdir(fuzz_dir_fd()) && (stdout = open_memstream(&out, &out_len)) && (stderr = open_memstream(&err, &err_len)));
    clearerr(stdin);
    optind = 0;
    limit(SECONDS);
    int code = dbrx_main(n, arg);
    limit(0);
    for (int i = 0; i < N; i++)
        sigaction(theirs[i], &was[i], NULL);
    fclose(stdout);
    fclose(stderr);
    stdout = real_out;
    stderr = real_err;
    MUST(!fchdir(here) && !close(here));
    int sound = code >= EXIT_OK && code <= EXIT_NO_BACKEND && strlen(err) == err_len && plain_is(err) &&
                (!code || strstr(err, "dbrx: ")) && (code != EXIT_USAGE || !out_len);
    if (!sound)
        fprintf(stderr, "code %d, out of %zu bytes, said: %s\n", code, out_len, err);
    MUST(sound);
    for (int i = 1; i < n; i++)
        free(left[i]);
    free(out);
    free(err);
}

const struct fuzz_target fuzz_argv[] = { { "argv", argv_run }, { NULL, NULL } };
