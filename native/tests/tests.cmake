# SPDX-License-Identifier: Apache-2.0
# Native self tests: GoogleTest, where it is installed. What the ABI promises is tested from C#.
find_package(GTest QUIET)
if(NOT GTest_FOUND)
  message(STATUS "tests: GoogleTest is not installed (apt install libgtest-dev); the native self tests are left out")
  return()
endif()
enable_testing()

if(TARGET strata_simt_executor)
  add_executable(simt_selftest ${CMAKE_CURRENT_LIST_DIR}/simt_selftest.cpp ${CMAKE_CURRENT_LIST_DIR}/simt_bugs_test.cpp
    $<TARGET_OBJECTS:strata_simt_executor>)
  target_link_libraries(simt_selftest PRIVATE strata_options GTest::gtest_main)
  add_test(NAME simt_selftest COMMAND simt_selftest)
endif()
