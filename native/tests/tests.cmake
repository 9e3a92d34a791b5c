# SPDX-License-Identifier: Apache-2.0
# Native self tests: GoogleTest, where it is installed. What the ABI promises is tested from C#.
enable_testing()

# Recorded calls of every op, replayed under the sanitizers: all of them under the address sanitizer, the tiny ones under the thread sanitizer.
if(STRATA_SANITIZE)
  add_executable(replay ${CMAKE_CURRENT_LIST_DIR}/replay.cpp)
  target_link_libraries(replay PRIVATE strata_options strata dl)
  set(STRATA_CALLS ${CMAKE_BINARY_DIR}/../calls.bin)
  if(STRATA_SANITIZE STREQUAL "thread")
    set(STRATA_REPLAY_TAG tiny)
  endif()
  if(TARGET strata_simt)
    add_dependencies(replay strata_simt)
    add_test(NAME replay_simt COMMAND replay ${STRATA_CALLS} simt ${STRATA_REPLAY_TAG})
  endif()
  foreach(isa scalar avx2 avx512 avx512vnni amx)
    add_test(NAME replay_cpu_${isa} COMMAND replay ${STRATA_CALLS} cpu ${isa} ${STRATA_REPLAY_TAG})
  endforeach()
  get_property(STRATA_REPLAYS DIRECTORY PROPERTY TESTS)
  set_tests_properties(${STRATA_REPLAYS} PROPERTIES SKIP_RETURN_CODE 77)
endif()

find_package(GTest QUIET)
if(NOT GTest_FOUND)
  message(STATUS "tests: GoogleTest is not installed (apt install libgtest-dev); the native self tests are left out")
  return()
endif()

if(TARGET strata_simt_executor)
  add_executable(simt_selftest ${CMAKE_CURRENT_LIST_DIR}/simt_selftest.cpp ${CMAKE_CURRENT_LIST_DIR}/simt_bugs_test.cpp
    $<TARGET_OBJECTS:strata_simt_executor>)
  target_link_libraries(simt_selftest PRIVATE strata_options GTest::gtest_main)
  add_test(NAME simt_selftest COMMAND simt_selftest)
endif()

# Primitives that promise bits, in every instruction set; a set that the machine lacks is skipped with the reason.
foreach(isa scalar avx2 avx512 avx512vnni amx)
  add_library(simd_bits_${isa} OBJECT ${CMAKE_CURRENT_LIST_DIR}/simd_bits.cpp)
  target_link_libraries(simd_bits_${isa} PRIVATE strata_options)
  target_compile_definitions(simd_bits_${isa} PRIVATE STRATA_ISA_NAMESPACE=${isa})
  target_compile_options(simd_bits_${isa} PRIVATE ${STRATA_FLAGS_${isa}})
  list(APPEND STRATA_SIMD_BITS $<TARGET_OBJECTS:simd_bits_${isa}>)
endforeach()
add_executable(simd_selftest ${CMAKE_CURRENT_LIST_DIR}/simd_selftest.cpp ${CMAKE_SOURCE_DIR}/native/core/cpu_isa.cpp
  ${CMAKE_SOURCE_DIR}/native/core/status.cpp ${STRATA_SIMD_BITS})
target_compile_definitions(simd_selftest PRIVATE $<$<BOOL:${STRATA_EMULATE}>:STRATA_EMULATE>)
target_link_libraries(simd_selftest PRIVATE strata_options GTest::gtest_main)
add_test(NAME simd_selftest COMMAND simd_selftest)
