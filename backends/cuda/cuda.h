/* backends/cuda/cuda.h -- the backend's tables, for whichever module carries them: cuda.so, or
 * cuda-emu.so of the tests. */
#ifndef DBRX_CUDA_CUDA_H
#define DBRX_CUDA_CUDA_H

const void *cuda_get(const char *id);

#endif
