/* repl/tokenize.h -- `dbrx tokenize` and `dbrx detokenize`: the tokenizer alone, as a filter.
 *
 * argv[0] is the subcommand's name.  Both return the exit status: 0, 1 the output could
 * not be written or no memory, 2 usage, 3 input, 4 tokenizer. */
#ifndef DBRX_TOKENIZE_H
#define DBRX_TOKENIZE_H

int tool_tokenize(int argc, char **argv);
int tool_detokenize(int argc, char **argv);

#endif
