# skim_library, skim_binary and skim_test: one line per target, the same flags for all.
# Every target sees the source root, so includes name the folder: "engine/step_plan.h".

find_program(SKIM_CCACHE ccache)
if(SKIM_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Without this laxness ccache leaves files with precompiled headers alone.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros
      ${SKIM_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${SKIM_CCACHE})
endif()
find_program(SKIM_MOLD mold)
if(SKIM_MOLD)
  add_link_options(-fuse-ld=mold)
endif()
if(SKIM_SANITIZE)
  # Sanitized code is big and slow to compile: lines suffice for its reports, and -O1.
  add_compile_options(-fsanitize=${SKIM_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all
                      -g1 -O1)
  add_link_options(-fsanitize=${SKIM_SANITIZE})
endif()

# The same for programs and libraries, which otherwise could not share precompiled headers.
add_compile_options($<$<COMPILE_LANGUAGE:C,CXX>:-fPIC> $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-fPIC>)

# A folder with set(SKIM_HEADERS name) takes the precompiled headers of that name, see SkimHeaders.
option(SKIM_HEADERS_OFF "Do not precompile headers" OFF)

# GCC 12 takes copies of literals into a std::string for overflows, and where headers are precompiled
# it says so. Sanitized builds look for those that there are.
set(SKIM_WRONG_WARNINGS -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread
    -Wno-restrict)

function(skim_flags target)
  if(SKIM_HEADERS AND NOT SKIM_HEADERS_OFF)
    target_precompile_headers(${target} REUSE_FROM ${SKIM_HEADERS})
  endif()
  target_include_directories(${target} PUBLIC ${CMAKE_SOURCE_DIR})
  target_compile_options(${target} PRIVATE
                         $<$<COMPILE_LANGUAGE:C,CXX>:-Wall -Wextra -Wno-unused-parameter
                         ${SKIM_WRONG_WARNINGS}
                         $<$<BOOL:${SKIM_WERROR}>:-Werror>>)
endfunction()

# skim_library(name SOURCES a.cc b.cc DEPS x y)   (no SOURCES: header-only)
function(skim_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  if(ARG_SOURCES)
    add_library(${name} STATIC ${ARG_SOURCES})
    skim_flags(${name})
    target_link_libraries(${name} PUBLIC ${ARG_DEPS})
  else()
    add_library(${name} INTERFACE)
    target_include_directories(${name} INTERFACE ${CMAKE_SOURCE_DIR})
    target_link_libraries(${name} INTERFACE ${ARG_DEPS})
  endif()
endfunction()

# skim_binary(name SOURCES main.cc DEPS x)
function(skim_binary name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  skim_flags(${name})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
endfunction()

# skim_test(name SOURCES a_test.cc DEPS x LABELS unit): one gtest binary, one CTest entry.
# Labels: `unit` is in every build, the others are not in those with sanitizers; `model` needs the
# default model; `e2e` starts the daemon; `cuda` is about the CUDA backend. `not_tsan` keeps a `unit`
# test from ThreadSanitizer: it has one thread, or just the pool's, which kernels_op_suite_test shows
# it. `many_runs` keeps it from all sanitizers: what it shows is in the numbers of minutes of runs.
# SHARDS n: as many entries, which can run side by side, have a share of its cases each.
function(skim_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT;SHARDS" "SOURCES;DEPS;LABELS;ENVIRONMENT" ${ARGN})
  if(SKIM_SANITIZE AND (NOT "unit" IN_LIST ARG_LABELS OR "many_runs" IN_LIST ARG_LABELS))
    return()
  endif()
  if(SKIM_SANITIZE STREQUAL "thread" AND "not_tsan" IN_LIST ARG_LABELS)
    return()
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  if(SKIM_SANITIZE)  # ThreadSanitizer makes some tests 30 times as long
    math(EXPR ARG_TIMEOUT "3 * ${ARG_TIMEOUT}")
  endif()
  skim_binary(${name} SOURCES ${ARG_SOURCES} DEPS ${ARG_DEPS} GTest::gmock_main GTest::gtest)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)  # compiles in half the time
  target_compile_definitions(${name} PRIVATE SKIM_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
                             SKIM_BINARY_DIR="${CMAKE_BINARY_DIR}")
  if(NOT ARG_SHARDS)
    skim_test_entry(${name} COMMAND ${name} TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}"
                    ENVIRONMENT "${ARG_ENVIRONMENT}")
    return()
  endif()
  math(EXPR last "${ARG_SHARDS} - 1")
  foreach(shard RANGE ${last})
    skim_test_entry(${name}_${shard} COMMAND ${name} TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}"
                    ENVIRONMENT "${ARG_ENVIRONMENT};GTEST_TOTAL_SHARDS=${ARG_SHARDS};GTEST_SHARD_INDEX=${shard}")
  endforeach()
endfunction()

# A CTest entry that runs a gtest binary and leaves a report under its own name, so that one
# binary can have several.
function(skim_test_entry entry)
  cmake_parse_arguments(ARG "" "TIMEOUT" "COMMAND;LABELS;ENVIRONMENT" ${ARGN})
  add_test(NAME ${entry} COMMAND ${ARG_COMMAND}
           --gtest_output=xml:${CMAKE_BINARY_DIR}/test-reports/${entry}.xml)
  # What may take long starts first.
  set_tests_properties(${entry} PROPERTIES TIMEOUT ${ARG_TIMEOUT} COST ${ARG_TIMEOUT}
                       LABELS "${ARG_LABELS}"
                       ENVIRONMENT "${ARG_ENVIRONMENT}")
endfunction()

# skim_on_ptxsim(test SEEDS 1 2): runs a test again for each seed with the simulated CUDA
# device and cuBLASLt preloaded (tests/ptxsim), the tests whose names contain "cuda" or "Cuda".
function(skim_on_ptxsim name)
  cmake_parse_arguments(ARG "" "" "SEEDS" ${ARGN})
  foreach(seed ${ARG_SEEDS})
    skim_test_entry(${name}_cuda_${seed} COMMAND ${name} --gtest_filter=*cuda*:*Cuda*
                    TIMEOUT 600 LABELS cuda
                    ENVIRONMENT
                    "LD_PRELOAD=$<TARGET_FILE:ptxsim>:$<TARGET_FILE:cublas_lt_stand_in>"
                    "PTXSIM_SEED=${seed}")
  endforeach()
  add_dependencies(${name} ptxsim cublas_lt_stand_in)
endfunction()
