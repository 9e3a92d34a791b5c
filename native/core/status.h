// SPDX-License-Identifier: Apache-2.0
// Status codes with a sentence: fail() writes the calling thread's error text and returns the code.
#pragma once

#include <strata/strata.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace strata {

using Status = strata_status;

/// A caller's text in a sentence: its first 40 bytes, so that the rest of the sentence always fits.
struct Quote {
    const char *text;
};

/// A sentence built in a fixed buffer. Longer text is cut, never overflows; no printf, no allocation, no locale.
class Text {
public:
    static constexpr std::size_t kCapacity = 1024;

    Text &operator<<(const char *text);
    Text &operator<<(Quote quote);
    Text &operator<<(double value);
    template <class Integer, std::enable_if_t<std::is_integral_v<Integer>, int> = 0>
    Text &operator<<(Integer value) {
        if constexpr (std::is_signed_v<Integer>) {
            append_signed(static_cast<std::int64_t>(value));
        } else {
            append_unsigned(static_cast<std::uint64_t>(value));
        }
        return *this;
    }

    void clear() {
        length_ = 0;
        text_[0] = '\0';
    }
    const char *c_str() const { return text_; }

private:
    void append_signed(std::int64_t value);
    void append_unsigned(std::uint64_t value);

    char text_[kCapacity] = {};
    std::size_t length_ = 0;
};

/// The calling thread's error text.
Text &error_text();

/// Sets the error text to the parts, one after another, and returns `code`:
/// `return fail(STRATA_E_SHAPE, "qgemm: x.shape[1] is ", k, ", must equal w.k = ", w.k, "; pass activations of the weight's width");`
template <class... Parts>
[[nodiscard]] Status fail(Status code, const Parts &...parts) {
    Text &text = error_text();
    text.clear();
    (text << ... << parts);
    return code;
}

const char *status_name(Status status);

/// Copies text into a fixed array of the ABI, cut to fit, always terminated.
template <std::size_t Capacity>
void copy_text(char (&to)[Capacity], const char *from) {
    std::size_t i = 0;
    for (; i + 1 < Capacity && from[i] != '\0'; ++i) {
        to[i] = from[i];
    }
    to[i] = '\0';
}

} // namespace strata

/// Returns from the calling function if `expression` is not STRATA_OK.
#define TRY(expression)                                                                  \
    do {                                                                                 \
        if (const ::strata::Status try_status = (expression); try_status != STRATA_OK) { \
            return try_status;                                                           \
        }                                                                                \
    } while (false)
