// SPDX-License-Identifier: Apache-2.0
// Error text and status names.
#include "core/status.h"

#include <cmath>

namespace strata {

Text &Text::operator<<(const char *text) {
    if (text == nullptr) {
        text = "(null)";
    }
    while (*text != '\0' && length_ + 1 < kCapacity) {
        text_[length_++] = *text++;
    }
    text_[length_] = '\0';
    return *this;
}

Text &Text::operator<<(Quote quote) {
    constexpr std::size_t kMost = 40;
    char shown[kMost + 1] = {};
    std::size_t length = 0;
    while (quote.text[length] != '\0' && length < kMost) {
        shown[length] = quote.text[length];
        ++length;
    }
    *this << shown;
    return quote.text[length] == '\0' ? *this : *this << "...";
}

void Text::append_unsigned(std::uint64_t value) {
    char digits[24];
    std::size_t at = sizeof digits;
    digits[--at] = '\0';
    do {
        digits[--at] = static_cast<char>('0' + value % 10);
        value /= 10;
    } while (value != 0);
    *this << (digits + at);
}

void Text::append_signed(std::int64_t value) {
    if (value < 0) {
        *this << "-";
        append_unsigned(std::uint64_t{0} - static_cast<std::uint64_t>(value));
    } else {
        append_unsigned(static_cast<std::uint64_t>(value));
    }
}

// Six decimals are enough for an error sentence; to_chars for floating point would need a newer libstdc++ than the package promises.
Text &Text::operator<<(double value) {
    if (std::isnan(value)) {
        return *this << "NaN";
    }
    if (std::signbit(value)) {
        *this << "-";
        value = -value;
    }
    if (std::isinf(value) || value > 1e15) {
        return *this << (std::isinf(value) ? "infinity" : "more than 1e15");
    }
    const auto micro = static_cast<std::uint64_t>(value * 1e6 + 0.5);
    append_unsigned(micro / 1000000);
    std::uint64_t rest = micro % 1000000;
    if (rest != 0) {
        char digits[8] = {'.', '0', '0', '0', '0', '0', '0', '\0'};
        std::size_t last = 0;
        for (std::size_t i = 6; i >= 1; --i, rest /= 10) {
            digits[i] = static_cast<char>('0' + rest % 10);
            last = (last == 0 && digits[i] != '0') ? i : last;
        }
        digits[last + 1] = '\0';
        *this << digits;
    }
    return *this;
}

Text &error_text() {
    thread_local Text text;
    return text;
}

const char *status_name(Status status) {
    switch (status) {
    case STRATA_OK: return "OK";
    case STRATA_E_ARGUMENT: return "E_ARGUMENT";
    case STRATA_E_SHAPE: return "E_SHAPE";
    case STRATA_E_DTYPE: return "E_DTYPE";
    case STRATA_E_ALIGNMENT: return "E_ALIGNMENT";
    case STRATA_E_WORKSPACE: return "E_WORKSPACE";
    case STRATA_E_INDEX: return "E_INDEX";
    case STRATA_E_FORMAT: return "E_FORMAT";
    case STRATA_E_VERSION: return "E_VERSION";
    case STRATA_E_UNSUPPORTED: return "E_UNSUPPORTED";
    case STRATA_E_DEVICE: return "E_DEVICE";
    case STRATA_E_MEMORY: return "E_MEMORY";
    case STRATA_E_DEVICE_FAULT: return "E_DEVICE_FAULT";
    case STRATA_E_INTERNAL: return "E_INTERNAL";
    default: return "E_UNKNOWN";
    }
}

} // namespace strata
