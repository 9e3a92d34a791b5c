// SPDX-License-Identifier: Apache-2.0
// What the files of the executor share beside simt.h.
#pragma once

#include "simt.h"

namespace simt {

/// Counts one 8x8 matrix read that took `extra_cycles` more than one; an error where the options say so.
void count_ldmatrix(int extra_cycles, Site site);

/// One sentence in a fixed buffer. It neither allocates nor calls the C library, because fibers write it too.
class Sentence {
public:
    void clear() { length_ = 0, text_[0] = '\0'; }
    const char *text() const { return text_; }
    Sentence &operator<<(const char *words);
    Sentence &operator<<(int64_t number);
    Sentence &operator<<(uint64_t number);
    Sentence &operator<<(int number) { return *this << int64_t{number}; }
    Sentence &operator<<(Site site);
    Sentence &operator<<(Index3 index);
    /// Only the part of a launch's argument list that names the kernel.
    Sentence &kernel(const char *arguments);

private:
    void put(char c);

    char text_[768] = {};
    int length_ = 0;
};

} // namespace simt
