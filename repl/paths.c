/* repl/paths.c -- see paths.h. */
#define _GNU_SOURCE
#include "config.h"

#include "repl/paths.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* "<folder of the executable>/sub" when that is a directory, else NULL */
static char *beside_executable(const char *sub)
{
    char exe[PATH_MAX], *path;
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n <= 0)
        return NULL;
    exe[n] = '\0';
    *strrchr(exe, '/') = '\0';
    struct stat st;
    if (asprintf(&path, "%s/%s", exe, sub) < 0)
        return NULL;
    if (!stat(path, &st) && S_ISDIR(st.st_mode))
        return path;
    free(path);
    return NULL;
}

static int append(char **path, const char *dir)
{
    char *longer;
    if (asprintf(&longer, "%s%s%s", *path ? *path : "", *path ? ":" : "", dir) < 0)
        return -1;
    free(*path);
    *path = longer;
    return 0;
}

/* The loader passes over relative directories; those a user typed are meant. */
static int append_typed(char **path, const char *list)
{
    char *copy = strdup(list), *save = NULL;
    int bad = !copy;
    for (char *dir = copy ? strtok_r(copy, ":", &save) : NULL; dir && !bad;
         dir = strtok_r(NULL, ":", &save)) {
        char *real = realpath(dir, NULL);
        bad = real && append(path, real);
        free(real);
    }
    free(copy);
    return -bad;
}

char *path_modules(const char *option)
{
    const char *env = getenv("DBRX_MODULE_PATH");
    char *path = NULL, *built = beside_executable("modules");
    int bad = (option && append_typed(&path, option)) || (env && *env && append(&path, env)) ||
              append(&path, built ? built : PKGLIBDIR);
    free(built);
    if (bad) {
        free(path);
        path = NULL;
    }
    return path;
}

char *path_default_model(void)
{
    char *built = beside_executable("models/nano");
    return built ? built : strdup(PKGDATADIR "/models/nano");
}

/* The file in an XDG folder, which is $env or below home */
static char *xdg(const char *env, const char *below_home, const char *file)
{
    const char *dir = getenv(env), *home = getenv("HOME");
    char *path = NULL;
    int n = dir && dir[0] == '/'     ? asprintf(&path, "%s/dbrx/%s", dir, file)
          : home && home[0] == '/'   ? asprintf(&path, "%s/%s/dbrx/%s", home, below_home, file) : -1;
    return n < 0 ? NULL : path;
}

char *path_typed(const char *path)
{
    const char *home = path[0] == '~' && (path[1] == '/' || !path[1]) ? getenv("HOME") : NULL;
    char *full;
    if (!home || home[0] != '/')
        return strdup(path);
    return asprintf(&full, "%s%s", home, path + 1) < 0 ? NULL : full;
}

FILE *path_open(const char *path, char *err, size_t size)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    FILE *f = NULL;
    if (fd < 0 || fstat(fd, &st))
        snprintf(err, size, "%s cannot be read: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        snprintf(err, size, "%s is no regular file", path);
    else if (!(f = fdopen(fd, "r")))
        snprintf(err, size, "%s cannot be read: %s", path, strerror(errno));
    if (!f && fd >= 0)
        close(fd);
    return f;
}

char *path_state(const char *file)
{
    char *path = xdg("XDG_STATE_HOME", ".local/state", file);
    const char *home = getenv("HOME");
    size_t n = path && home ? strlen(home) : 0;
    n = n && !strncmp(path, home, n) ? n : 0;      /* a home is somebody else's to make */
    for (char *slash = path ? strchr(path + n + 1, '/') : NULL; slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
    return path;
}

char *path_rc(void)
{
    return xdg("XDG_CONFIG_HOME", ".config", "rc");
}

const char *path_editor(void)
{
    const char *visual = getenv("VISUAL"), *editor = getenv("EDITOR");
    return visual && *visual ? visual : editor && *editor ? editor : NULL;
}

const char *path_temp(void)
{
    const char *dir = getenv("TMPDIR");
    return dir && dir[0] == '/' ? dir : "/tmp";
}
