/* repl/machine.h -- what this machine can do at most: bytes read and floats multiplied a second.
 *
 * Measured, not looked up, and to be measured again beside every sample: other programs, the
 * clock and the temperature change it.  Knows no backend. */
#ifndef DBRX_REPL_MACHINE_H
#define DBRX_REPL_MACHINE_H

struct machine;

/* One thread for each processor this process may use; a buffer that no cache holds (at least
 * 256 MB).  NULL: out of memory. */
struct machine *machine_new(void);
void machine_free(struct machine *);       /* NULL is fine */

unsigned machine_processors(const struct machine *);
/* Bytes a second that all processors together read from memory; some 20 ms.  0: no threads. */
double machine_bandwidth(struct machine *);
/* Float32 operations a second, an FMA being two, of all processors with the widest vectors they
 * have (no matrix units: those of AMX can do more); some 20 ms.  0: no threads. */
double machine_flops(struct machine *);
/* Bytes of memory that this process holds and no file backs: the mapped checkpoint is not among
 * them.  0: not known. */
double machine_own_memory(void);

#endif
