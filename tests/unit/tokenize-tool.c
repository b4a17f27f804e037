/* `dbrx tokenize` and `detokenize` without the shell around them, for tokenize.sh. */
#include "repl/paths.h"
#include "repl/tokenize.h"

#include <stdlib.h>
#include <string.h>

char *path_default_model(void)
{
    const char *dir = getenv("DEFAULT_MODEL");
    return dir ? strdup(dir) : NULL;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    return strcmp(argv[1], "tokenize") == 0 ? tool_tokenize(argc - 1, argv + 1) : tool_detokenize(argc - 1, argv + 1);
}
