# Headers that most files of some folders include, parsed once for all of them. Every file still
# includes what it needs; a build with SKIM_HEADERS_OFF, which parses each for itself, shows it.
# Who takes headers with GoogleTest's links GoogleTest: its definitions must be the same in both.
if(SKIM_HEADERS_OFF)
  return()
endif()

# skim_headers(name HEADERS <a> <b> DEPS x)
function(skim_headers name)
  cmake_parse_arguments(ARG "" "" "HEADERS;DEPS" ${ARGN})
  set(empty ${CMAKE_BINARY_DIR}/${name}.cc)
  file(CONFIGURE OUTPUT ${empty} CONTENT "// Its headers are what is wanted.\n")
  add_library(${name} OBJECT EXCLUDE_FROM_ALL ${empty})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS})
  target_precompile_headers(${name} PRIVATE ${ARG_HEADERS})
endfunction()

set(core
  <algorithm> <array> <cmath> <cstdint> <functional> <map> <memory> <optional> <span> <string>
  <utility> <vector> <absl/status/statusor.h> <absl/strings/str_cat.h>)
set(test <cstring> <random> <gmock/gmock.h> <gtest/gtest.h>)
skim_headers(skim_core_headers HEADERS ${core} DEPS skim_base)
skim_headers(skim_test_headers HEADERS ${core} ${test} DEPS skim_base GTest::gmock GTest::gtest)
if(SKIM_SERVER)
  skim_headers(skim_grpc_headers HEADERS <grpcpp/grpcpp.h> DEPS gRPC::grpc++ protobuf::libprotobuf)
  set(rpc <absl/strings/str_format.h> <grpcpp/grpcpp.h> <skim/v1/inference.grpc.pb.h>)
  skim_headers(skim_rpc_headers HEADERS ${core} ${rpc} DEPS skim_base skim_proto)
  skim_headers(skim_rpc_test_headers HEADERS ${core} ${rpc} ${test}
               DEPS skim_base skim_proto GTest::gmock GTest::gtest)
endif()
