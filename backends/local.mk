nobase_pkginclude_HEADERS += %D%/backend.h

include backends/model/local.mk
include backends/graph/local.mk
include backends/ref/local.mk
include backends/cpu-blas/local.mk
include backends/cuda/local.mk
