/* repl/tokenize.c -- text to one id a line, and back, byte for byte.
 *
 * Knows the tokenizer and where it may be found: no session, no terminal. */
#include "repl/tokenize.h"

#include "repl/paths.h"
#include "repl/plain.h"
#include "repl/text.h"
#include "repl/words.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_OK, EXIT_INTERNAL, EXIT_USAGE, EXIT_INPUT, EXIT_TOKENIZER };

struct options {
    const char *vocab;                         /* directory or file */
    const char *input;                         /* "-" is stdin */
    int special;
};

static int usage(FILE *to, const char *tool)
{
    int encode = strcmp(tool, "tokenize") == 0;
    fprintf(to, "usage: dbrx %s [-m DIR | --vocab FILE]%s FILE|-\n%s\n"
            "  -m, --model DIR    checkpoint directory with a tokenizer (default: the bundled model)\n"
            "      --vocab FILE   tokenizer.json or *.tiktoken rank file\n%s"
            "  -h, --help         this text\n", tool, encode ? " [--special]" : "",
            encode ? "Prints the token ids of a text, one a line."
                   : "Prints the text of token ids, which are separated by white space.",
            encode ? "      --special      special tokens in the text count as such\n" : "");
    return to == stderr ? EXIT_USAGE : EXIT_OK;
}

/* -1: go on; otherwise the exit status. */
static int parse(int argc, char **argv, const char *tool, struct options *o)
{
    static const struct option all[] = {
        { "special", no_argument, NULL, 's' },       /* first: decoding has all but this one */
        { "model", required_argument, NULL, 'm' },
        { "vocab", required_argument, NULL, 'v' },
        { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 },
    };
    const struct option *options = strcmp(tool, "tokenize") == 0 ? all : all + 1;
    int c, n_vocab = 0;

    memset(o, 0, sizeof *o);
    optind = 0;                                 /* start anew: the shell has parsed before us */
    opterr = 0;
    while ((c = getopt_long(argc, argv, ":m:h", options, NULL)) != -1) {
        switch (c) {
        case 'm':
        case 'v': o->vocab = optarg; n_vocab++; break;
        case 's': o->special = 1; break;
        case 'h': return usage(stdout, tool);
        default:
            plain_error("%s: %s %s", tool, c == ':' ? "no value for option" : "unknown option",
                    argv[optind - 1]);
            return usage(stderr, tool);
        }
    }
    if (n_vocab > 1) {
        plain_error("%s: give one of -m and --vocab, once", tool);
        return usage(stderr, tool);
    }
    if (argc - optind != 1) {
        plain_error("%s: %s", tool, argc == optind ? "no input: give a file, or - for stdin"
                                                               : "more than one input");
        return usage(stderr, tool);
    }
    o->input = argv[optind];
    return -1;
}

static struct tok *open_tokenizer(const struct options *o)
{
    char err[512], *bundled = NULL;
    const char *path = o->vocab ? o->vocab : (bundled = path_default_model());
    if (!path) {
        plain_error("no bundled model found: give -m DIR or --vocab FILE");
        return NULL;
    }
    struct tok *t = text_open_path(path, err, sizeof err);
    if (!t)
        plain_error("%s", err);
    free(bundled);
    return t;
}

/* All of the input; NULL after a message. */
static char *read_all(const char *path, size_t *len)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    char *data = NULL;
    size_t cap = 0, n = 0, got = 1;

    while (f && got) {
        if (n == cap) {
            char *p = n < TEXT_MOST ? realloc(data, cap = cap ? 2 * cap : 65536) : NULL;
            if (!p)
                break;
            data = p;
        }
        n += got = fread(data + n, 1, cap - n, f);
    }
    if (!f || got || ferror(f)) {
        plain_error("%s: %s", f == stdin ? "standard input" : path,
                f && got ? n < TEXT_MOST ? "out of memory" : "it is longer than 1 GiB" : strerror(errno));
        free(data);
        data = NULL;
    }
    if (f && f != stdin)
        fclose(f);
    *len = n;
    return data;
}

static int finish_output(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return EXIT_OK;
    plain_error("the output could not be written: %s", strerror(errno));
    return EXIT_INTERNAL;
}

/* ------------------------------------------------------------------ tokenize */

static void print_ids(const struct tok_ids *ids)
{
    for (size_t i = 0; i < ids->n; i++) {
        char line[16], *p = line + sizeof line;
        unsigned id = (unsigned)ids->id[i];
        *--p = '\n';
        do
            *--p = (char)('0' + id % 10);
        while (id /= 10);
        fwrite(p, 1, (size_t)(line + sizeof line - p), stdout);
    }
}

/* Ids can spell any bytes, but encoding repairs text first: then it does not come back. */
static int is_utf8(const char *s, size_t len)
{
    enum { BLOCK = 4096 };
    struct tok_stream stream = { 0 };
    char out[3 * BLOCK + 12];
    size_t same = 0;
    for (size_t at = 0, n; at < len; at += n) {
        n = len - at < BLOCK ? len - at : BLOCK;
        size_t got = tok_stream_push(&stream, s + at, n, out);
        if (got > len - same || memcmp(out, s + same, got))
            return 0;
        same += got;
    }
    return same == len;
}

/* Encoding is one call: a thread says after half a second that it is under way, for people
 * at a terminal, and takes it back at the end. */
struct notice { pthread_mutex_t lock; pthread_cond_t over; int done; size_t len; };

static void *notice_main(void *arg)
{
    struct notice *n = arg;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 500 * 1000 * 1000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&n->lock);
    while (!n->done && pthread_cond_timedwait(&n->over, &n->lock, &until) != ETIMEDOUT)
        ;
    if (!n->done) {
        fprintf(stderr, "\rtokenizing %.1f MB ...", (double)n->len * 1e-6);
        while (!n->done)
            pthread_cond_wait(&n->over, &n->lock);
        fprintf(stderr, "\r%30s\r", "");
    }
    pthread_mutex_unlock(&n->lock);
    return NULL;
}

static int encode(const struct tok *t, const char *text, size_t len, int mode, struct tok_ids *ids)
{
    struct notice n = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, len };
    pthread_t thread;
    int told = isatty(STDERR_FILENO) && !pthread_create(&thread, NULL, notice_main, &n);
    int failed = tok_encode(t, text, len, mode, ids);
    if (told) {
        pthread_mutex_lock(&n.lock);
        n.done = 1;
        pthread_cond_signal(&n.over);
        pthread_mutex_unlock(&n.lock);
        pthread_join(thread, NULL);
    }
    return failed;
}

int tool_tokenize(int argc, char **argv)
{
    struct options o;
    struct tok_ids ids = { 0 };
    size_t len;
    int rc = parse(argc, argv, "tokenize", &o);
    if (rc >= 0)
        return rc;
    struct tok *t = open_tokenizer(&o);
    if (!t)
        return EXIT_TOKENIZER;
    char *text = read_all(o.input, &len);
    if (!text) {
        rc = EXIT_INPUT;
    } else if (encode(t, text, len, o.special ? TOK_SPECIAL : TOK_PLAIN, &ids)) {
        plain_error("tokenize: out of memory");
        rc = EXIT_INTERNAL;
    } else {
        print_ids(&ids);
        rc = finish_output();
        if (!is_utf8(text, len))
            plain_error("%s: not all of it is UTF-8; what is not became U+FFFD and will not "
                    "come back", strcmp(o.input, "-") ? o.input : "standard input");
    }
    free(text);
    free(ids.id);
    tok_close(t);
    return rc;
}

/* ------------------------------------------------------------------ detokenize */

/* Models pad their vocabulary to a round size; the padding ids have no text, but they
 * are ids.  What lies beyond is a mistake. */
static int32_t id_limit(const struct tok *t)
{
    return (tok_n_vocab(t) + 511) / 512 * 512;
}

/* For a terminal: whole characters, and none that it obeys */
static void show_bytes(struct tok_stream *s, const char *bytes, size_t n)
{
    char out[3 * 64 + 12];
    for (size_t part; n; bytes += part, n -= part) {
        part = n < 64 ? n : 64;
        plain_put(stdout, out, tok_stream_push(s, bytes, part, out));
    }
}

/* Prints the bytes of the ids in s[len], through `show` if there is one; 0, or the line with a bad one. */
static size_t print_text(const struct tok *t, const char *s, size_t len, struct tok_stream *show,
                         const char **bad, size_t *bad_len)
{
    const char *end = s + len;
    int32_t limit = id_limit(t);
    size_t line = 1, n;

    for (;;) {
        for (; s < end && isspace((unsigned char)*s); s++)
            line += *s == '\n';
        if (s == end)
            return 0;
        const char *word = s;
        int32_t id = 0;
        for (; s < end && *s >= '0' && *s <= '9' && id < limit; s++)
            id = id * 10 + *s - '0';
        if (id >= limit || (s < end && !isspace((unsigned char)*s))) {
            while (s < end && !isspace((unsigned char)*s))
                s++;
            *bad = word;
            *bad_len = (size_t)(s - word);
            return line;
        }
        const char *bytes = tok_bytes(t, id, &n);
        if (n && !show)
            fwrite(bytes, 1, n, stdout);
        else if (n)
            show_bytes(show, bytes, n);
    }
}

int tool_detokenize(int argc, char **argv)
{
    struct options o;
    size_t len, bad_len = 0;
    const char *bad = NULL;
    int rc = parse(argc, argv, "detokenize", &o);
    if (rc >= 0)
        return rc;
    struct tok *t = open_tokenizer(&o);
    if (!t)
        return EXIT_TOKENIZER;
    char *text = read_all(o.input, &len);
    if (!text) {
        rc = EXIT_INPUT;
    } else {
        struct tok_stream show = { 0 };
        char rest[16];
        size_t line = print_text(t, text, len, isatty(STDOUT_FILENO) ? &show : NULL, &bad, &bad_len);
        plain_put(stdout, rest, tok_stream_end(&show, rest));
        rc = finish_output();
        if (line) {
            plain_error("%s: line %zu: \"%.*s\" is not a token id from 0 to %d",
                    strcmp(o.input, "-") ? o.input : "standard input", line,
                    bad_len > 40 ? 40 : (int)bad_len, bad, (int)id_limit(t) - 1);
            rc = EXIT_INPUT;
        }
    }
    free(text);
    tok_close(t);
    return rc;
}
