/* backends/cuda/kernel_list.h -- every kernel once: KERNEL(name, its arguments' structure, the device
 * function that is its body).  Included wherever a list of kernels is needed; no guard. */
KERNEL(repack,       repack_args, repack(a))
KERNEL(transpose,    repack_args, transpose(a))
KERNEL(embed,        embed_args,  embed(a))
KERNEL(norm,         norm_args,   norm(a))
KERNEL(rope,         rope_args,   rope(a))
KERNEL(convert,      convert_args, convert(a))
KERNEL(attend_f32,   attend_args, attend<DBRX_F32>(a))
KERNEL(attend_f16,   attend_args, attend<DBRX_F16>(a))
KERNEL(attend_bf16,  attend_args, attend<DBRX_BF16>(a))
KERNEL(attend_fp8,   attend_args, attend<KV_FP8>(a))
KERNEL(router,       route_args,  route(a))
KERNEL(group_slots,  group_args,  group_slots(a))
KERNEL(tiled,        linear_args, tiled(a))
KERNEL(tiled_up,     expert_args, tiled_expert<true>(a))
KERNEL(tiled_down,   expert_args, tiled_expert<false>(a))
KERNEL(combine,      combine_args, combine(a))
#ifndef BOUND_KERNEL                       /* of so many threads, so many blocks a processor */
#define BOUND_KERNEL(name, type, threads, blocks, body) KERNEL(name, type, body)
#endif
BOUND_KERNEL(flash_f32,  attend_args, FLASH_THREADS, 2, flash<DBRX_F32>(a))
BOUND_KERNEL(flash_f16,  attend_args, FLASH_THREADS, 2, flash<DBRX_F16>(a))
BOUND_KERNEL(flash_bf16, attend_args, FLASH_THREADS, 2, flash<DBRX_BF16>(a))
BOUND_KERNEL(flash_fp8,  attend_args, FLASH_THREADS, 2, flash<KV_FP8>(a))
#define TYPED(NAME, name, ...) \
    KERNEL(matvec_##name, linear_args, matvec<DBRX_##NAME>(a)) \
    KERNEL(up_##name,     expert_args, expert_up<DBRX_##NAME>(a)) \
    KERNEL(down_##name,   expert_args, expert_down<DBRX_##NAME>(a)) \
    BOUND_KERNEL(fast_##name,      linear_args, FAST_THREADS, 2, fast_linear<DBRX_##NAME>(a)) \
    BOUND_KERNEL(fast_up_##name,   expert_args, FAST_THREADS, 2, (fast_expert<DBRX_##NAME, true>(a))) \
    BOUND_KERNEL(fast_down_##name, expert_args, FAST_THREADS, 2, (fast_expert<DBRX_##NAME, false>(a)))
CUDA_TYPES(TYPED)
#undef TYPED
#undef BOUND_KERNEL
