# CUDA, if wanted: sets SKIM_CUDA_FOUND, enables the language and imports skim_cudart.
# FindCUDAToolkit of CMake 3.25 fails on CUDA 13 (it wants nvToolsExt, which is gone), so the
# library is imported by hand.
set(SKIM_CUDA OFF CACHE STRING "CUDA backend: OFF, ON, or AUTO (where a toolkit is found)")
set_property(CACHE SKIM_CUDA PROPERTY STRINGS OFF ON AUTO)
set(SKIM_CUDA_ROOT "" CACHE PATH "Where the CUDA toolkit is; empty = look in the usual places")
set(SKIM_CUDA_DEFAULT_ARCHITECTURES "80;89-real;90-real;100-real")
set(SKIM_CUDA_ARCHITECTURES "${SKIM_CUDA_DEFAULT_ARCHITECTURES}" CACHE STRING
    "GPUs to compile for; one without -real or -virtual also leaves its PTX for later ones")
set(SKIM_CUDA_FOUND FALSE)
if(NOT SKIM_CUDA MATCHES "^(OFF|ON|AUTO)$")
  message(FATAL_ERROR "SKIM_CUDA must be OFF, ON or AUTO, not '${SKIM_CUDA}'")
endif()
if(SKIM_CUDA STREQUAL "OFF")
  return()
endif()

set(least 12.8)
find_program(SKIM_NVCC nvcc HINTS ${SKIM_CUDA_ROOT}/bin /usr/local/cuda/bin)
set(SKIM_CUDA_VERSION 0)
if(SKIM_NVCC)
  execute_process(COMMAND ${SKIM_NVCC} --version OUTPUT_VARIABLE text)
  string(REGEX MATCH "release ([0-9.]+)" ignored "${text}")
  set(SKIM_CUDA_VERSION ${CMAKE_MATCH_1})
endif()
if(SKIM_CUDA_VERSION VERSION_LESS least)
  if(SKIM_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SKIM_CUDA=ON needs a CUDA toolkit of ${least} or newer, found: "
            "${SKIM_NVCC} ${SKIM_CUDA_VERSION}. './run build --cuda' fetches one")
  endif()
  return()
endif()

get_filename_component(toolkit ${SKIM_NVCC} REALPATH)
get_filename_component(toolkit ${toolkit}/../.. ABSOLUTE)
find_library(SKIM_CUDART cudart HINTS ${toolkit} PATH_SUFFIXES lib64 lib NO_DEFAULT_PATH REQUIRED)

# Only the header: who asks for cuBLASLt has it loaded at run time.
find_path(SKIM_CUBLAS_INCLUDE cublasLt.h HINTS ${toolkit} PATH_SUFFIXES include NO_DEFAULT_PATH)
if(NOT SKIM_CUBLAS_INCLUDE)
  if(SKIM_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SKIM_CUDA=ON needs cublasLt.h, which ${toolkit} lacks")
  endif()
  return()
endif()
file(STRINGS ${SKIM_CUBLAS_INCLUDE}/cublas_api.h text REGEX "define CUBLAS_VER_MAJOR ")
string(REGEX MATCH "[0-9]+" SKIM_CUBLAS_MAJOR "${text}")

set(CMAKE_CUDA_COMPILER ${SKIM_NVCC})
set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
set(CMAKE_CUDA_ARCHITECTURES ${SKIM_CUDA_ARCHITECTURES})
set(CMAKE_CUDA_RUNTIME_LIBRARY None)  # ours: shared, so that a test can take its place
# Constants of kernels/*.h are used on both sides. The PTX stays readable for the simulator.
# 554: Matrix<const T> has a conversion that is never needed. A kernel that spills registers
# or needs local memory does not build.
set(CMAKE_CUDA_FLAGS "${CMAKE_CUDA_FLAGS} --expt-relaxed-constexpr --no-compress \
-diag-suppress 554 -Werror all-warnings -Xptxas -warn-spills,-warn-lmem-usage,-Werror")
if(SKIM_CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${SKIM_CCACHE})
endif()
enable_language(CUDA)
if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 stops at C++17
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
endif()

add_library(skim_cudart SHARED IMPORTED)
set_target_properties(skim_cudart PROPERTIES IMPORTED_LOCATION ${SKIM_CUDART}
                      INTERFACE_INCLUDE_DIRECTORIES "${toolkit}/include;${SKIM_CUBLAS_INCLUDE}")
set(SKIM_CUDA_FOUND TRUE)
message(STATUS "CUDA ${SKIM_CUDA_VERSION} from ${toolkit}")
