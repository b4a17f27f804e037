/* repl/inspect.h -- "dbrx inspect": what a checkpoint holds, without running it. */
#ifndef DBRX_INSPECT_H
#define DBRX_INSPECT_H

/* argv[0] is "inspect": [--json] [--plan BACKEND] [DIR].  Returns the exit code: 0, 1 output failed,
 * 2 usage, 4 the checkpoint. */
int tool_inspect(int argc, char **argv);

#endif
