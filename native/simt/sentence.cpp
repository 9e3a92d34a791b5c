// SPDX-License-Identifier: Apache-2.0
// The executor's error text.
#include "runtime.h"

namespace simt {

void Sentence::put(char c) {
    if (length_ + 1 >= static_cast<int>(sizeof text_)) return;
    text_[length_++] = c;
    text_[length_] = '\0';
}

Sentence &Sentence::operator<<(const char *words) {
    for (; *words != '\0'; ++words) put(*words);
    return *this;
}

Sentence &Sentence::operator<<(uint64_t number) {
    char digits[20];
    int count = 0;
    do digits[count++] = static_cast<char>('0' + number % 10);
    while ((number /= 10) != 0);
    while (count > 0) put(digits[--count]);
    return *this;
}

Sentence &Sentence::operator<<(int64_t number) {
    if (number < 0) put('-');
    return *this << (number < 0 ? uint64_t{0} - static_cast<uint64_t>(number) : static_cast<uint64_t>(number));
}

Sentence &Sentence::operator<<(Site site) {
    const char *name = site.file_name();
    for (const char *c = site.file_name(); *c != '\0'; ++c)
        if (*c == '/') name = c + 1;
    return *this << name << ":" << uint64_t{site.line()};
}

Sentence &Sentence::operator<<(Index3 index) { return *this << index.x << "," << index.y << "," << index.z; }

Sentence &Sentence::kernel(const char *arguments) {
    int depth = 0;
    for (const char *c = arguments; *c != '\0' && !(*c == ',' && depth == 0); ++c) {
        if (*c == '<' || *c == '(') ++depth;
        if (*c == '>' || *c == ')') --depth;
        put(*c);
    }
    return *this;
}

} // namespace simt
