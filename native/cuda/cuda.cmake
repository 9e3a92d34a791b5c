# SPDX-License-Identifier: Apache-2.0
# A directory of its own, because there the .cu files are CUDA.
add_subdirectory(${CMAKE_CURRENT_LIST_DIR} cuda)
