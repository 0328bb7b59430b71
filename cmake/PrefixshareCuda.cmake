# SPDX-License-Identifier: Apache-2.0
# The CUDA backend: its compiler, and how its sources are compiled. Only read where PREFIXSHARE_CUDA is on.

# Before CUDA is enabled, which compiles a program for these architectures.
if(PROJECT_IS_TOP_LEVEL AND CMAKE_CUDA_ARCHITECTURES)
  set(architectures ${CMAKE_CUDA_ARCHITECTURES})
else()
  set(architectures 80-real 90a-real)
endif()
set(PREFIXSHARE_CUDA_ARCHITECTURES "${architectures}" CACHE STRING "Architectures that kernels are compiled for")
set(CMAKE_CUDA_ARCHITECTURES ${PREFIXSHARE_CUDA_ARCHITECTURES})
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(CMAKE_CUDA_COMPILER nvcc PATHS /usr/local/cuda/bin)
  if(NOT CMAKE_CUDA_COMPILER)
    message(FATAL_ERROR "prefixshare: PREFIXSHARE_CUDA is on, and nvcc is neither on PATH nor in /usr/local/cuda/bin")
  endif()
endif()
if(NOT CMAKE_CUDA_HOST_COMPILER AND NOT DEFINED ENV{CUDAHOSTCXX})
  set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
endif()
enable_language(CUDA)
find_package(CUDAToolkit 12.8 REQUIRED)

# prefixshare_cuda_target(<target>): adds how the target's .cu files are compiled, and the runtime, linked statically.
# What spills or lives in local memory is a warning; products and sums are fused only where the source says so.
function(prefixshare_cuda_target target)
  set(options -fmad=false -Xptxas=-warn-spills -Xptxas=-warn-lmem-usage -Xcompiler=-Wall,-Wextra,-ffp-contract=off)
  if(PREFIXSHARE_WARNINGS_AS_ERRORS)
    list(APPEND options -Werror=all-warnings -Xptxas=-Werror -Xcompiler=-Werror)
  endif()
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:${options}>")
  target_link_libraries(${target} PRIVATE CUDA::cudart_static)
  set_target_properties(${target} PROPERTIES
    CUDA_ARCHITECTURES "${PREFIXSHARE_CUDA_ARCHITECTURES}"
    CUDA_RUNTIME_LIBRARY None
    CUDA_STANDARD 17
    CUDA_STANDARD_REQUIRED ON
    CUDA_VISIBILITY_PRESET hidden)
endfunction()
