// SPDX-License-Identifier: Apache-2.0
// Included in front of every source file: binds functions of which newer C libraries have a second version to the one that glibc 2.28 has
// too, so that a library built on a new system loads on an old one. A name that a file does not use leaves no trace in it.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && !defined(__CUDA_ARCH__)
// The newer versions (2.29) differ in how they report errors, not in their results.
__asm__(".symver exp,exp@GLIBC_2.2.5");
__asm__(".symver exp2,exp2@GLIBC_2.2.5");
__asm__(".symver log,log@GLIBC_2.2.5");
__asm__(".symver log2,log2@GLIBC_2.2.5");
__asm__(".symver pow,pow@GLIBC_2.2.5");
// The loader's functions moved from libdl to libc in 2.34; the old versions are in both places.
__asm__(".symver dlopen,dlopen@GLIBC_2.2.5");
__asm__(".symver dlsym,dlsym@GLIBC_2.2.5");
__asm__(".symver dlerror,dlerror@GLIBC_2.2.5");
__asm__(".symver dlclose,dlclose@GLIBC_2.2.5");
__asm__(".symver dladdr,dladdr@GLIBC_2.2.5");
#endif
